"""Draw the README's pictures from what `make demo` leaves: `python scripts/make_figures.py`."""

from pathlib import Path

from pneumonia_fl.report.figures import class_balance, contact_sheet_all, learning_curves
from pneumonia_fl.runs import RunFolder

if __name__ == "__main__":
    root = Path(__file__).resolve().parents[1]
    images, data = root / "docs" / "images", root / "data" / "demo"
    images.mkdir(exist_ok=True)
    contact_sheet_all(data, images / "contact_sheet.png")
    class_balance(data, images / "class_balance.png")
    learning_curves(RunFolder.open(root / "runs" / "demo").metrics(), images / "curves.png")
