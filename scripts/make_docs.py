"""Write the generated pages of docs/: `make docs`."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    docs = Path(__file__).parents[1] / "docs"
    for name, text in runpy.run_path(str(docs / "reference" / "generate.py"))["pages"]().items():
        path = docs / name
        path.write_text(text, encoding="utf-8")
        print(path)
