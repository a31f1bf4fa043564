"""The shape of the package, held by reading its source: imports go one way, files stay small, names mean something."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mqb_monai

ROOT = Path(mqb_monai.__file__).parent
REPOSITORY = Path(__file__).resolve().parents[2]
FILES = sorted(ROOT.rglob("*.py"))
# The floors of the house, from the bottom up: a room imports from the rooms of lower floors only.
FLOORS = (
    ("errors",),
    ("networks", "metrics", "system"),
    ("records", "data", "weights"),
    ("quantization",),
    ("evaluation", "backends"),
    ("bundle",),
    ("analysis",),
    ("study", "handlers", "report"),
    ("commands",),
    ("cli",),
    ("__main__",),
)
FLOOR = {"__init__": -1} | {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
READS_RECORDS_ONLY = {"errors", "system", "records"}  # what `report` may import
TORCH_FREE = ("errors.py", "records", "report", "commands", "cli.py", "__init__.py", "__main__.py")
FORBIDDEN_NAMES = {"utils", "helpers", "common", "base"}
MAX_LINES = 250


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported_names(tree: ast.AST, path: Path) -> set[str]:
    """Absolute dotted names of everything that a module imports, at its top or inside a function."""
    package = ("mqb_monai", *path.relative_to(ROOT).parts[:-1])
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (above, node.module) if part)
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


@pytest.fixture(scope="module", params=FILES, ids=relative)
def module(request):
    path = request.param
    return path, ast.parse(path.read_text(encoding="utf-8"), str(path))


def test_imports_go_one_way(module):
    path, tree = module
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert room in FLOOR, f"{room} has no floor in the house"
    rooms = {name.split(".")[1] for name in imported_names(tree, path) if name.startswith("mqb_monai.")} & FLOOR.keys()
    upward = sorted(other for other in rooms - {room, "__init__"} if FLOOR[other] >= FLOOR[room])
    assert not upward, f"{relative(path)} imports {upward}, which are not below {room}"
    if room == "report":
        assert rooms - {room} <= READS_RECORDS_ONLY


def test_nothing_imports_the_scripts_or_the_tests(module):
    path, tree = module
    assert not {name for name in imported_names(tree, path) if name.split(".")[0] in ("scripts", "tests")}


def test_file_is_short_and_named_for_what_it_holds(module):
    path, _ = module
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES
    assert not FORBIDDEN_NAMES & {part.removesuffix(".py") for part in path.relative_to(ROOT).parts}
    assert len(path.relative_to(ROOT).parts) <= 3


def test_records_and_report_never_import_torch(module):
    path, tree = module
    if path.relative_to(ROOT).parts[0] in TORCH_FREE:
        assert not {name for name in imported_names(tree, path) if name.split(".")[0] in ("torch", "monai", "ignite")}


def test_nothing_is_unpickled(module):
    path, tree = module
    names = imported_names(tree, path)
    assert not names & {"pickle.load", "pickle.loads", "dill", "joblib", "shelve"}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        called = ast.unparse(call.func)
        assert called not in ("pickle.load", "pickle.loads", "pickle.Unpickler"), f"{relative(path)}:{call.lineno}"
        if called == "torch.load":
            weights_only = [ast.unparse(word.value) for word in call.keywords if word.arg == "weights_only"]
            assert weights_only == ["True"], f"{relative(path)}:{call.lineno} reads without weights_only=True"


def test_no_assert_statement(module):
    path, tree = module
    found = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert not found, f"{relative(path)}: lines {found}; python -O removes them, raise an error instead"


def test_no_package_is_deeper_than_three_and_scripts_import_by_name():
    assert not [path for path in ROOT.glob("*/*/*/") if path.is_dir() and path.name != "__pycache__"]
    for path in REPOSITORY.glob("scripts/**/*.py"):
        assert "weights_only=False" not in path.read_text(encoding="utf-8")


def test_bundle_configs_never_switch_weights_only_off():
    for path in REPOSITORY.glob("bundles/*/configs/*.json"):
        assert "weights_only" not in path.read_text(encoding="utf-8").replace("weights_only=True", "")
