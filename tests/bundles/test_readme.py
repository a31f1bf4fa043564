"""``docs/README.md`` of every bundle: the published rows of its pair, and its workflows."""

from __future__ import annotations

import re

from mqb_monai.records.published import published_rows, scheme_of


def read(root) -> str:
    return (root / "docs" / "README.md").read_text(encoding="utf-8")


def test_readme_is_filled_in_and_says_what_it_is_not(in_every_bundle):
    def check(root):
        text = read(root)
        assert "not a medical device" in text and "{{" not in text
        assert text.startswith("# ")

    in_every_bundle(check)


def test_readme_shows_the_published_rows_of_its_pair(in_every_bundle, catalog):
    """Oracle: the studies' own numbers, looked up by the catalog's pair."""

    def check(root):
        lines = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in read(root).splitlines() if line[:1] == "|"
        ]
        pairs = catalog[root.name]["published"]
        for pair in pairs:
            wanted = {key: value for key, value in pair.items() if key != "study"}
            for row in published_rows(pair["study"], **wanted):
                if pair["study"] == "medptq":
                    for kind in ("fp32", "int8"):
                        numbers = [row[f"dsc_{kind}"], row[f"size_{kind}_mb"], row[f"latency_{kind}_ms"]]
                        (line,) = (line for line in lines if line[0] == kind.upper())
                        assert [float(cell) for cell in line[1:4]] == numbers and line[4:] == ["", "", ""]
                else:
                    cells = [line for line in lines if line[0] == f"`{scheme_of(row)}`"]
                    assert [float(cells[0][1]), float(cells[0][3])] == [row["dsc"], row["nsd"]]
                    assert len(cells) == 1 and cells[0][5:] == ["", ""]
        if not pairs:
            assert "Neither MedQuanBench nor MedPTQ publishes figures for this pair." in read(root)

    in_every_bundle(check)


def test_every_figure_of_the_studies_is_shown_by_some_bundle(catalog):
    """The study's tables overlap, under other names (SwinUNETR of 62.2 M is SwinUNETR-B), so figures are compared."""

    def figures(row: dict) -> tuple:
        if "precision" not in row:  # MedPTQ
            return tuple(row.values())
        return scheme_of(row), row["dataset"], row["parameters_m"], row["dsc"], row["nsd"]

    shown = set()
    for row in catalog.values():
        for pair in row["published"]:
            wanted = {key: value for key, value in pair.items() if key != "study"}
            shown |= set(map(figures, published_rows(pair["study"], **wanted)))
    for study in ("medquanbench", "medptq"):
        assert [row for row in published_rows(study) if figures(row) not in shown] == []


def test_readme_shows_the_bundle_s_workflows(in_every_bundle):
    """That their options exist, ``tests/docs`` holds."""

    def check(root):
        shown = set(re.findall(r"^python -m monai\.bundle run (\w+) ", read(root), re.MULTILINE))
        assert {"quantize", "evaluate", "export"} <= shown
        configs = set(re.findall(r"configs/(\w+)\.json", read(root)))
        assert {"inference", "inference_int8", "inference_trt", "train"} <= configs

    in_every_bundle(check)
