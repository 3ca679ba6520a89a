"""Write the generated pages of docs/: `make docs`."""

from pathlib import Path

from pneumonia_fl.cli.reference import pages

if __name__ == "__main__":
    for name, text in pages().items():
        path = Path(__file__).parents[1] / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)
