"""Every module of the package, as a file and as a syntax tree."""

import ast
from pathlib import Path

import pneumonia_fl

PACKAGE = Path(pneumonia_fl.__file__).parent
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if "_jobs" not in path.parts)


def tree_of(module: Path) -> ast.Module:
    return ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
