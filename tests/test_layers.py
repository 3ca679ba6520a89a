"""The architecture of DESIGN.md, held by reading every module's syntax tree."""

import ast
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from source_tree import MODULES, PACKAGE, tree_of

ROOMS = [
    *("errors", "progress", "findings", "files", "inputs", "config", "runs", "metrics"),
    *("data", "data/sources", "data/prepare", "models", "tracking", "evaluation", "training"),
    *("report/performance", "report/run_folder_reader", "report/figures", "report/view"),
    *("report/run", "report/comparison", "report/build", "results"),
    *("fl/entrypoints", "fl/protocol", "fl/kit", "fl/state", "fl/algorithms"),
    *("fl/provision/project_file", "fl/provision", "fl/doctor"),
    *("fl/site", "fl/parent", "fl/guard", "fl/server"),
    *("fl/job", "fl/simulator", "fl/admin", "fl/services", "experiments"),
    *(
        "cli/views",
        "cli/options",
        "cli/settings",
        "cli/app",
        "cli/kit_commands",
        "cli/saved_models",
        "cli/commands",
    ),
    "cli/main",
]
"""The map, bottom to top: a room may import what stands before it, never what stands after it."""
MAX_FILES = 12
ALONE = {"fl": "entrypoints.py, whose path kits and jobs carry"}
"""Folders with one file, each with its reason."""
# Where a package may be imported: a folder or a module of ours.
HOMES = {
    "nvflare": ("fl/",),
    "kaggle": ("data/sources/kaggle.py",),
    "kagglesdk": ("data/sources/kaggle.py",),
    "mlflow": ("tracking/mlflow_queue.py", "fl/services/mlflow_login.py"),
    "tensorboard": ("fl/", "runs/folder.py"),
    "flask": ("web/",),
    "typer": ("cli/",),
    "rich": ("cli/",),
}
HEAVY = {
    "torch",
    "torchvision",
    "nvflare",
    "mlflow",
    "matplotlib",
    "scipy",
    "sklearn",
    "kaggle",
    "numpy",
    "PIL",
    "flask",
}
MAX_LINES = 300
MAX_FUNCTION = 60
MAX_MEDIAN = 10

modules = pytest.mark.parametrize("module", MODULES, ids=str)


def room_of(module: Path) -> str:
    """The longest entry of ROOMS that is this module or a folder above it; empty for `__init__` files."""
    if module.name == "__init__.py":
        return ""
    path = module.with_suffix("")
    found = [parent.as_posix() for parent in (path, *path.parents) if parent.as_posix() in ROOMS]
    assert found, (
        f"{module} is in no room; decide where it belongs and add it to ROOMS and docs/architecture.md"
    )
    return found[0]


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Dotted names of all imports, those inside functions too; `from a import b` gives a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(tree: ast.AST) -> set[Path]:
    """Modules of this package that a module imports."""
    dotted = [name.split(".") for name in imports_of(tree)]
    return {
        module
        for first, *rest in dotted
        if first == "pneumonia_fl" and rest and (module := Path(*rest[:-1], f"{rest[-1]}.py")) in MODULES
    }


def functions_of(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function, signature and docstring included."""
    return (function.end_lineno or 0) - function.lineno + 1


@modules
def test_imports_point_downward_only(module: Path) -> None:
    if room := room_of(module):
        above = {str(m) for m in own_imports(tree_of(module)) if ROOMS.index(room_of(m)) > ROOMS.index(room)}
        assert not above, f"{module} imports {above} from a room above it"


def test_every_room_is_there() -> None:
    assert {room_of(module) for module in MODULES} - {""} == set(ROOMS)


def test_no_folder_is_crowded_or_almost_empty() -> None:
    files = Counter(module.parent.as_posix() for module in MODULES if module.name != "__init__.py")
    assert {folder: count for folder, count in files.items() if count > MAX_FILES} == {}
    assert {folder for folder, count in files.items() if count == 1 and folder not in ALONE} == set()


def test_a_file_can_be_found_by_its_name() -> None:
    """A command's file is called like the command, whatever else is."""
    names = Counter(module.name for module in MODULES if "cli" not in module.parts)
    assert {name for name, count in names.items() if count > 1} == {"__init__.py"}


def test_the_report_does_not_know_the_federation() -> None:
    report = [module for module in MODULES if module.parts[0] == "report"]
    assert report
    assert not {"fl", "web"} & {other.parts[0] for module in report for other in own_imports(tree_of(module))}


@modules
def test_packages_are_imported_where_they_belong(module: Path) -> None:
    for name in {name.split(".")[0] for name in imports_of(tree_of(module))} & HOMES.keys():
        homes = HOMES[name]
        assert module.as_posix().startswith(homes), f"{module} imports {name}, which belongs to {homes}"


@modules
def test_only_one_module_and_the_cli_read_the_environment(module: Path) -> None:
    if module.parts[0] == "cli" or module.as_posix() == "config/environment.py":
        return
    words = {"environ", "environb", "getenv", "putenv"}
    tree = tree_of(module)
    assert not {node.attr for node in ast.walk(tree) if _is_os_attribute(node)} & words
    assert not set(imports_of(tree)) & {f"os.{word}" for word in words}


def _is_os_attribute(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"


@modules
def test_nothing_happens_at_import_time(module: Path) -> None:
    for statement in tree_of(module).body:
        assert _only_defines(statement, module), f"{module}:{statement.lineno}: {ast.unparse(statement)[:80]}"


PRELOADED = Path("fl/simulator/preloaded.py")
"""A fork server can only import: what it does for all that it forks has to happen there."""


def _only_defines(statement: ast.stmt, module: Path) -> bool:
    if module == PRELOADED:
        return True
    definitions = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    if isinstance(statement, definitions):
        return True
    if isinstance(statement, ast.If):
        return ast.unparse(statement.test) in ("TYPE_CHECKING", "__name__ == '__main__'")
    if not isinstance(statement, ast.Expr):
        return False
    return isinstance(statement.value, ast.Constant) or _registers_a_command(statement.value, module)


def _registers_a_command(value: ast.expr, module: Path) -> bool:
    """`app.command()(run)` and `app.add_typer(…)`: what a decorator does for a function of the same file."""
    text = ast.unparse(value)
    return module.parts[0] == "cli" and text.startswith(("app.command(", "app.add_typer("))


@modules
def test_files_are_short(module: Path) -> None:
    lines = len((PACKAGE / module).read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{module} has {lines} lines"


@modules
def test_no_function_is_long(module: Path) -> None:
    for function in functions_of(tree_of(module)):
        assert length(function) <= MAX_FUNCTION, f"{module}: {function.name}"


def test_the_median_function_is_short() -> None:
    lengths = [length(function) for module in MODULES for function in functions_of(tree_of(module))]
    assert statistics.median(lengths) <= MAX_MEDIAN


def test_every_module_says_what_it_is_for() -> None:
    assert [module for module in MODULES if not ast.get_docstring(tree_of(module))] == []


def test_scripts_and_job_files_hold_no_logic() -> None:
    root = PACKAGE.parents[1]
    for path in [*(root / "scripts").glob("*.py"), *(root / "jobs").glob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not list(functions_of(tree)), path
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 26, path


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["run", "--help"], ["data", "--help"]])
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys\n"
        "from pneumonia_fl.cli.main import app\n"
        f"try: app({words!r})\n"
        "except SystemExit: pass\n"
        "print('loaded:', *sorted(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = {name.split(".")[0] for name in done.stdout.rpartition("loaded:")[2].split()}
    assert not loaded & HEAVY
