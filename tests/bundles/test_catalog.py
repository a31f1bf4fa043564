"""The bundles' folders are what the catalog and the templates say, and a bad catalog is refused by row and key."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "bundles" / "_templates"
MADE = ("models", "runs", "eval")  # by training and evaluating; not rendered


def test_catalog_rows_are_the_bundle_folders(catalog):
    folders = [path for path in (ROOT / "bundles").iterdir() if path.is_dir() and path != TEMPLATES]
    assert sorted(catalog) == sorted(path.name for path in folders)


def test_rendered_bundle_equals_the_committed_one(in_every_bundle, render, catalog):
    def check(root):
        files = render.render_bundle(render.Row(root.name, catalog[root.name]), TEMPLATES)
        for relative, text in files.items():
            assert (root / relative).read_bytes() == text.encode(), f"{relative}: run python scripts/render_bundles.py"
        lying = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
        assert {path.as_posix() for path in lying if path.parts[0] not in MADE} == files.keys()

    in_every_bundle(check)


def test_bundle_lists_large_files_where_its_weights_are_public(in_every_bundle, catalog):
    def check(root):
        public = catalog[root.name]["weights"].startswith("public")
        assert (root / "large_files.yml").is_file() == public == bool(catalog[root.name]["large_files"])

    in_every_bundle(check)


def test_bundle_has_licence_and_one_model_file(in_every_bundle):
    def check(root):
        assert "Apache License" in (root / "LICENSE").read_text(encoding="utf-8")
        files = [path.name for path in (root / "models").glob("*") if path.is_file()]
        assert files in ([], ["model.pt"])  # MONAI Label offers every models/*.pt as a version

    in_every_bundle(check)


@pytest.fixture
def small(tmp_path, render, monkeypatch):
    """``small(*words)`` runs the script on a catalog of one row and one template."""
    (tmp_path / "_templates" / "docs").mkdir(parents=True)
    (tmp_path / "_templates" / "docs" / "README.md").write_text("# {{title}}, {{name}}\n")
    (tmp_path / "catalog.yaml").write_text("_texts: &title A title\nsmall: {title: *title}\n")

    def run(*words: str) -> Path:
        monkeypatch.setattr("sys.argv", ["render_bundles.py", "--root", str(tmp_path), *words])
        render.main()
        return tmp_path

    return run


def test_render_check_exits_with_the_files_that_differ(small, tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"run python scripts/render_bundles\.py"):
        small("--check")
    assert "not as rendered: small" in capsys.readouterr().out and not (tmp_path / "small").exists()
    small()
    assert (tmp_path / "small" / "docs" / "README.md").read_text() == "# A title, small\n"
    small("--check")


def test_render_writes_large_files_only_where_a_row_lists_any(small, tmp_path):
    (tmp_path / "_templates" / "large_files.yml").write_text('large_files: "{{large_files}}"\n')
    row = "{title: A title, large_files: %s}\n"
    (tmp_path / "catalog.yaml").write_text(f"none: {row % []}some: {row % '[{path: a.pt, url: b}]'}")
    small()
    assert (tmp_path / "some" / "large_files.yml").read_text() == "large_files:\n- path: a.pt\n  url: b\n"
    assert not (tmp_path / "none" / "large_files.yml").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("small: {title: [}\n", r"catalog\.yaml cannot be read as YAML: (.|\n)*line 1"),
        ("small: A title\nother: {title: A title}\n", r"catalog row 'small' must be a mapping of keys, got 'A title'"),
        ("- small\n", r"catalog\.yaml must map each row's name to a mapping of keys, got list"),
    ],
)
def test_render_refuses_a_file_that_is_no_catalog(small, tmp_path, text, message):
    (tmp_path / "catalog.yaml").write_text(text)
    with pytest.raises(SystemExit, match=message):
        small()
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.update(roi_sise=[1, 1, 1]), r"has unknown key\(s\) roi_sise: no template uses them"),
        (lambda row: row["train"].update(epoch=1), r"has unknown key\(s\) train\.epoch: no template uses them"),
        (lambda row: row.pop("roi_size"), r"has no key 'roi_size', which a template asks for; add it"),
        (lambda row: row["train"].pop("seed"), r"has no key 'train\.seed'"),
        (lambda row: row.pop("labels"), r"has no key 'labels'"),
        (lambda row: row.pop("published"), r"has no key 'published'"),
        (lambda row: row.update(labels="btvc"), r": no label table for 'btvc': expected one of .*btcv"),
        (
            lambda row: row.update(published=[{"study": "medquantbench"}]),
            r": unknown study 'medquantbench': expected medquanbench or medptq",
        ),
        (
            lambda row: row.update(published=[{"study": "medptq", "network": "UNETR"}]),
            r": medptq has no column network: expected any of architecture, ",
        ),
        (
            lambda row: row.update(published=[{"study": "medptq", "architecture": "UNETR", "dataset": "BTCV"}]),
            r": medptq has no row with .*UNETR",
        ),
    ],
)
def test_render_refuses_a_bad_row_by_its_name_and_key(render, catalog, change, message):
    row = copy.deepcopy(catalog["unetr_btcv"])
    change(row)
    with pytest.raises(SystemExit, match=rf"catalog row 'unetr_btcv'( |){message}"):
        render.render_bundle(render.Row("unetr_btcv", row), TEMPLATES)
