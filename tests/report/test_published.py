from __future__ import annotations

from dataclasses import replace

import pytest

from mqb_monai.report.published import engine_rows, same_engine, same_scheme, study_rows

from .conftest import BUNDLES, CELLS, make_cell


def test_study_rows_hold_every_row_with_its_drop():
    """By hand from the study's table: nnU-Net on BTCV, FP32 0.872, W4A4 per tensor 0.170: 80.50 %."""
    rows = study_rows()
    assert len(rows) == 119 and len(engine_rows()) == 7
    row = next(row for row in rows if row["architecture"] == "nnU-Net" and row["scheme"] == "w4a4_per_tensor")
    assert row["dsc"] == 0.170 and row["dsc_drop"] == pytest.approx(80.50, abs=0.01)


def test_same_scheme_sets_our_simulated_cells_beside_the_study():
    """By the study's table: STU-Net-B on BTCV is 0.881 in FP32 and 0.829 under W4A4, adaptive."""
    pairs = same_scheme([make_cell(BUNDLES[2], row) for row in CELLS])
    assert [pair["cell"].scheme for pair in pairs] == [row[0] for row in CELLS if row[1] == "torch"]
    assert pairs[0]["study"]["dsc"] == 0.881 and {pair["study"]["architecture"] for pair in pairs} == {"STU-Net-B"}


def test_same_scheme_takes_the_pairs_that_the_bundle_names():
    """By the study's table: its SwinUNETR of 58.5 M parameters is 0.849 in FP32 on BTCV; another size has its name."""
    cell = replace(make_cell(BUNDLES[2], CELLS[0]), network="another name")
    assert same_scheme([cell])
    assert not same_scheme([replace(cell, published=[])])
    assert not same_scheme([replace(cell, recipe="auto")])  # theirs is min-max
    assert not same_scheme([replace(cell, published=[{**cell.published[0], "study": "medptq"}])])
    pair = {"study": "medquanbench", "architecture": "SwinUNETR", "dataset": "BTCV", "parameters_m": 58.5}
    assert [found["study"]["dsc"] for found in same_scheme([replace(cell, published=[pair])])] == [0.849]


def test_same_engine_sets_deployed_cells_beside_medptq():
    """By MedPTQ's table: U-Net on BTCV takes 2.62 ms in FP32 and 1.05 ms in INT8."""
    fp32, simulated, engine, w4a4 = (
        replace(
            make_cell(BUNDLES[2], CELLS[index]),
            published=[{"study": "medptq", "architecture": "U-Net", "dataset": "BTCV"}],
        )
        for index in (0, 1, 3, 4)
    )
    pairs = same_engine([fp32, simulated, engine, w4a4])
    assert [(pair["cell"].scheme, pair["study"]["latency_ms"]) for pair in pairs] == [
        ("fp32", 2.62),
        ("w8a8_engine", 1.05),
    ]
