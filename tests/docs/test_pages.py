"""README and docs as pages: short enough, links that lead somewhere, files and names that exist, rooms as they are."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import mqb_monai

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
FILE = re.compile(r"(?:[\w.*<>-]+/)+[\w.*<>-]*")
PLACES = (ROOT, ROOT / "mqb_monai", ROOT / "bundles" / "_templates", ROOT / "scripts")
MADE = ("models/", "eval/", "runs/", "my_bundle/", "data/", "dist/", "sensitivity/", "activation_shift/")  # by commands


def anchors(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(path.read_text(encoding="utf-8")))
    return {heading.replace(" ", "-") for heading in kept}


def test_readme_is_at_most_eight_kilobytes():
    assert (ROOT / "README.md").stat().st_size <= 8192


def test_links_lead_to_files_and_headings(documents):
    broken = []
    for path in documents:
        for link in LINK.findall(path.read_text(encoding="utf-8")):
            if re.match(r"https?://", link):
                continue
            name, _, anchor = link.partition("#")
            target = (path.parent / name).resolve() if name else path
            if not target.is_file() or (anchor and anchor not in anchors(target)):
                broken.append(f"{path.relative_to(ROOT)}: {link}")
    assert not broken, broken


def test_readme_links_every_page_of_docs():
    linked = set(LINK.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert pages - {link.partition("#")[0] for link in linked} == set()


def test_files_and_names_in_the_text_exist(documents):
    missing = []
    for path in documents:
        for code in INLINE.findall(path.read_text(encoding="utf-8")):
            if FILE.fullmatch(code) and not code.startswith(MADE):
                pattern = re.sub(r"<\w+>", "*", code).rstrip("/")
                places = (*PLACES, path.parent.parent)
                if not any(next(place.glob(pattern), None) for place in places):
                    missing.append(f"{path.relative_to(ROOT)}: {code}")
            elif re.fullmatch(r"mqb_monai(\.\w+)+(\(\w*\))?", code) and not is_importable(code.partition("(")[0]):
                missing.append(f"{path.relative_to(ROOT)}: {code}")
    assert not missing, missing


def is_importable(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ImportError:
        return hasattr(importlib.import_module(module), attribute)
    return True


def test_architecture_has_every_room_on_its_floor():
    """Oracles: the package's folders, and the order in which its rooms may import, which tests/layering holds."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = {room: int(floor) for floor, room in re.findall(r"^\| (\d+) \| `(\w+)` \|", text, re.MULTILINE)}
    package = Path(mqb_monai.__file__).parent
    there = {path.stem for path in package.iterdir() if not path.name.startswith("_")}
    assert rooms.keys() == there
    layering = (ROOT / "tests" / "layering" / "test_imports.py").read_text(encoding="utf-8")
    floors = re.search(r"^FLOORS = \((.*?)^\)", layering, re.MULTILINE | re.DOTALL)[1]
    expected = [re.findall(r'"(\w+)"', line) for line in floors.splitlines() if line.strip()]
    expected = [names for names in expected if names != ["__main__"]]
    assert {room: number for number, names in enumerate(expected, 1) for room in names} == rooms
