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
    ("ptq",),
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


@pytest.fixture(scope="module")
def modules() -> dict[Path, ast.AST]:
    """Every file of the package, parsed."""
    return {path: ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in FILES}


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def test_imports_go_one_way(modules):
    upward = {}
    for path, tree in modules.items():
        room = room_of(path)
        rooms = {name.split(".")[1] for name in imported_names(tree, path) if name.startswith("mqb_monai.")}
        others = (rooms & FLOOR.keys()) - {room, "__init__"}
        allowed = READS_RECORDS_ONLY if room == "report" else {other for other in FLOOR if FLOOR[other] < FLOOR[room]}
        if others - allowed:
            upward[relative(path)] = sorted(others - allowed)
    assert not upward, f"these import rooms that are not below their own: {upward}"
    assert {room_of(path) for path in modules} <= FLOOR.keys(), "a room that has no floor in the house"


def test_nothing_imports_the_scripts_or_the_tests_and_records_never_torch(modules):
    wrong = []
    for path, tree in modules.items():
        roots = {name.split(".")[0] for name in imported_names(tree, path)}
        wrong += [relative(path)] if roots & {"scripts", "tests"} else []
        torch_free = path.relative_to(ROOT).parts[0] in TORCH_FREE
        wrong += [relative(path)] if torch_free and roots & {"torch", "monai", "ignite"} else []
    assert not wrong


def test_files_are_short_and_named_for_what_they_hold():
    wrong = []
    for path in FILES:
        parts = path.relative_to(ROOT).parts
        named = not FORBIDDEN_NAMES & {part.removesuffix(".py") for part in parts}
        short = len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES
        wrong += [] if named and short and len(parts) <= 3 else [relative(path)]
    assert not wrong


def test_nothing_is_unpickled_and_nothing_asserted(modules):
    """``python -O`` removes assert statements."""
    wrong = []
    for path, tree in modules.items():
        names = imported_names(tree, path)
        wrong += sorted(names & {"pickle.load", "pickle.loads", "dill", "joblib", "shelve"})
        for node in ast.walk(tree):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            unsafe = called in ("pickle.load", "pickle.loads", "pickle.Unpickler") or isinstance(node, ast.Assert)
            if called == "torch.load":
                unsafe = [ast.unparse(word.value) for word in node.keywords if word.arg == "weights_only"] != ["True"]
            wrong += [f"{relative(path)}:{node.lineno}"] if unsafe else []
    assert not wrong


def test_no_package_is_deeper_than_three_and_scripts_import_by_name():
    assert not [path for path in ROOT.glob("*/*/*/") if path.is_dir() and path.name != "__pycache__"]
    for path in REPOSITORY.glob("scripts/**/*.py"):
        assert "weights_only=False" not in path.read_text(encoding="utf-8")


def test_bundle_configs_never_switch_weights_only_off():
    for path in REPOSITORY.glob("bundles/*/configs/*.json"):
        assert "weights_only" not in path.read_text(encoding="utf-8").replace("weights_only=True", "")
