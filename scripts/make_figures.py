"""Draw the README's pictures from what `make demo` leaves: `python scripts/make_figures.py` (needs chromium)."""

import subprocess
from pathlib import Path

from PIL import Image

from pneumonia_fl.report.build import build_report
from pneumonia_fl.report.figures.contact_sheet import class_balance, contact_sheet_all
from pneumonia_fl.report.figures.png import learning_curves
from pneumonia_fl.runs.folder import RunFolder

BROWSER = ("chromium", "--headless=new", "--no-sandbox", "--hide-scrollbars", "--window-size=1080,1500")

if __name__ == "__main__":
    root = Path(__file__).resolve().parents[1]
    images, data, run = root / "docs" / "images", root / "data" / "demo", root / "runs" / "demo"
    images.mkdir(exist_ok=True)
    contact_sheet_all(data, images / "contact_sheet.png")
    class_balance(data, images / "class_balance.png")
    learning_curves(RunFolder.open(run).metrics(), images / "curves.png")
    shot, page = images / "report.png", build_report(run).as_uri()
    subprocess.run([*BROWSER, f"--screenshot={shot}", page], check=True)
    Image.open(shot).quantize(96).save(shot, optimize=True)
