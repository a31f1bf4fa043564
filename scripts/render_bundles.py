"""Render ``bundles/<name>/`` from ``bundles/catalog.yaml`` and ``bundles/_templates/``.

    python scripts/render_bundles.py            # write
    python scripts/render_bundles.py --check    # exit 1 and name the files that are not as rendered

Every rendered config is complete in itself. In a template ``"{{key}}"`` alone is replaced by the row's value with its
type, ``{{key}}`` inside a longer string by its text, and the list element ``"{{*key}}"`` by the elements of a list;
``a.b`` reaches into a mapping. A value may hold placeholders itself. A placeholder that the row does not have, a key
that neither a template nor this script uses, and a label table or a study's row that does not exist are errors that
name the row. ``large_files.yml`` is written where the row lists any.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from mqb_monai.data.label_tables import class_names
from mqb_monai.errors import InputError
from mqb_monai.records.published import published_tables

ROOT = Path(__file__).resolve().parents[1] / "bundles"
PLACEHOLDER = re.compile(r"\{\{(\*?)([\w.]+)\}\}")


def load_catalog(path: Path) -> dict[str, dict]:
    """Return row name to row, anchors left out.

    Raises:
        SystemExit: where the file is missing or no YAML mapping of mappings, naming the file and the place or the row.
    """
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise SystemExit(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(rows, dict):
        raise SystemExit(f"{path} must map each row's name to a mapping of keys, got {type(rows).__name__}.")
    rows = {name: row for name, row in rows.items() if not name.startswith("_")}
    for name, row in rows.items():
        if not isinstance(row, dict):
            raise SystemExit(f"catalog row '{name}' must be a mapping of keys, got {row!r}.")
    return rows


def _channels(row: Row) -> list[str]:
    return list(class_names(row.get("labels")))


# What follows from a row: placeholder -> its value. `labels` names a label table, `published` selects the study's rows.
DERIVED: dict[str, Callable[[Row], Any]] = {
    "name": lambda row: row.name,
    "num_classes": lambda row: len(_channels(row)),
    "class_names": lambda row: _channels(row)[1:],
    "class_list": lambda row: ", ".join(_channels(row)[1:]),
    "channel_def": lambda row: {str(index): name for index, name in enumerate(_channels(row))},
    "published_tables": lambda row: published_tables(row.get("published")),
}


class Row:
    """A catalog row that remembers which of its keys were asked for."""

    def __init__(self, name: str, values: dict) -> None:
        self.name = name
        self.values = values
        self.used: set[str] = set()

    def get(self, key: str) -> Any:
        if key in DERIVED:
            return self._derive(DERIVED[key])
        value: Any = self.values
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                raise SystemExit(f"catalog row '{self.name}' has no key '{key}', which a template asks for; add it.")
            value = value[part]
        self.used.add(key)
        return value

    def _derive(self, derive: Callable[[Row], Any]) -> Any:
        try:
            return derive(self)
        except InputError as error:
            raise SystemExit(f"catalog row '{self.name}': {error}") from error

    def unused(self) -> list[str]:
        """Keys that nothing asked for; where a mapping was asked for by its parts, its other parts."""
        entered = {key.split(".")[0] for key in self.used if "." in key}
        keys: list[str] = []
        for key, value in self.values.items():
            keys += [f"{key}.{part}" for part in value] if key in entered else [key]
        return sorted(set(keys) - self.used)


def fill_text(text: str, row: Row) -> str:
    """Replace every placeholder of ``text`` by the text of its value."""
    return PLACEHOLDER.sub(lambda match: fill_text(str(row.get(match[2])), row), text)


def fill(node: Any, row: Row) -> Any:
    """Replace the placeholders of a parsed JSON document."""
    if isinstance(node, dict):
        return {key: fill(value, row) for key, value in node.items()}
    if isinstance(node, list):
        filled: list[Any] = []
        for item in node:
            match = PLACEHOLDER.fullmatch(item) if isinstance(item, str) else None
            filled.extend(fill(row.get(match[2]), row) if match and match[1] else [fill(item, row)])
        return filled
    if isinstance(node, str):
        match = PLACEHOLDER.fullmatch(node)
        return fill(row.get(match[2]), row) if match else fill_text(node, row)
    return node


def render_file(template: Path, row: Row) -> str:
    """Return the rendered text of one template."""
    text = template.read_text(encoding="utf-8")
    if template.suffix == ".json":
        return json.dumps(fill(json.loads(text), row), indent=4, ensure_ascii=False) + "\n"
    if template.suffix == ".yml":
        return yaml.safe_dump(fill(yaml.safe_load(text), row), sort_keys=False, width=200)
    return fill_text(text, row)


def render_bundle(row: Row, templates: Path) -> dict[str, str]:
    """Return path inside the bundle to text, for one row.

    Raises:
        SystemExit: where the row has a key that no template uses, or lacks one, naming row and key.
    """
    files = {
        path.relative_to(templates).as_posix(): render_file(path, row)
        for path in sorted(templates.rglob("*"))
        if path.is_file() and (path.name != "large_files.yml" or row.get("large_files"))
    }
    if row.unused():
        raise SystemExit(
            f"catalog row '{row.name}' has unknown key(s) {', '.join(row.unused())}: no template uses them."
        )
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with what is there instead of writing")
    parser.add_argument("--root", type=Path, default=ROOT, help="the bundles folder")
    args = parser.parse_args()
    differing = []
    for name, values in load_catalog(args.root / "catalog.yaml").items():
        for relative, text in render_bundle(Row(name, values), args.root / "_templates").items():
            target = args.root / name / relative
            if target.is_file() and target.read_text(encoding="utf-8") == text:
                continue
            differing.append(target)
            if not args.check:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8", newline="\n")
    for path in differing:
        print(("not as rendered: " if args.check else "wrote ") + str(path.relative_to(args.root)))
    if args.check and differing:
        sys.exit("bundles are rendered from catalog.yaml and _templates/: run python scripts/render_bundles.py")


if __name__ == "__main__":
    main()
