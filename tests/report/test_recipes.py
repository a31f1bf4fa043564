from __future__ import annotations

import math
from dataclasses import replace

from mqb_monai.report.recipes import precision_figures, recipe_rows

from .conftest import BUNDLES, CELLS, RECIPES, make_cell, make_recipe_cell


def recipe_cells(bundle=BUNDLES[0]):
    return [make_recipe_cell(bundle, row) for row in RECIPES]


def test_recipe_rows_put_siblings_together():
    first, second = recipe_cells(), recipe_cells(BUNDLES[1])
    mixed_up = [cell for pair in zip(first, second, strict=True) for cell in pair]
    rows = recipe_rows([make_cell(BUNDLES[0], CELLS[0]), *mixed_up])
    assert [row["cell"] for row in rows] == first + second
    assert [(row["to_fp32"], row["seconds"]) for row in rows[:3]] == [
        (1 - 0.62, 4.1),
        (1 - 0.03, 310.5),
        (1 - 0.02, 48.0),
    ]
    assert rows[1]["trials"] == 7 and math.isnan(rows[0]["trials"]) and round(rows[1]["drops"]["dice"]["mean"], 9) == 3


def test_recipe_rows_of_one_recipe_alone_are_none(cells):
    """A scheme on two engines is no comparison of recipes, nor is a recipe beside another scheme's."""
    engine = replace(cells[1], backend="openvino")
    assert recipe_rows([*cells, engine, replace(engine, scheme="w4a8_engine", recipe="auto")]) == []


def test_recipe_rows_without_figures_are_nan():
    """Records that name no seconds, and no DSC to FP32."""
    bare = [replace(cell, quantization={}, against_fp32={}) for cell in recipe_cells()]
    assert all(math.isnan(row[name]) for row in recipe_rows(bare) for name in ("to_fp32", "seconds", "trials"))


def test_precision_figures_are_of_mixed_checkpoints_once():
    """By hand: 20 layers in lines of 10."""
    cells = recipe_cells()
    (figure,) = precision_figures([*cells, replace(cells[2], backend="openvino"), make_cell(BUNDLES[0], CELLS[0])])
    assert figure.name == "bit-map.nnunet_hippocampus.w4a4_engine.mixed"
    assert [row["bits"] for row in figure.rows[:2]] == ["W8A8", "W4A4"] and figure.rows[19]["bits"] == "float"
    assert "20 layers" in figure.caption and "12 W4A4, 4 W4A8, 2 W8A8, 2 float" in figure.caption
    chart = figure.chart.to_dict()
    assert figure.caption in chart["description"]  # what a screen reader says
    places = [(row["line"], row["column"]) for row in chart["layer"][0].get("data", chart.get("data"))["values"]]
    assert places[0] == (0, 0) and places[9:11] == [(0, 9), (1, 0)] and len(set(places)) == 20
    scale = chart["layer"][0]["encoding"]["color"]["scale"]
    assert scale["domain"] == ["W4A4", "W4A8", "W8A8", "float"] and len(set(scale["range"])) == 4


def test_precision_figures_of_one_precision_beside_float_layers_are_none():
    cell = recipe_cells()[0]
    assert precision_figures([replace(cell, quantization={"precision": {"a": "float", "b": "w4a4"}})]) == []
