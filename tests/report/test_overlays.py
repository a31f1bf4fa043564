from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mqb_monai.errors import InputError
from mqb_monai.records.evaluation import Overlay
from mqb_monai.report.overlays import (
    JUDGEMENTS,
    case_pictures,
    composed,
    data_uri,
    draw_case,
    draw_grey,
    draw_layer,
    judge,
)

from .conftest import make_slices, write_cell

OVERLAY = Overlay("case", 0.5, 3, (1.0, 2.0))


def test_judge_tells_who_was_right():
    """By hand: equal; FP32 right; the cell right; both wrong, and differently."""
    label, fp32, pred = np.array([[1, 1, 1, 1]]), np.array([[0, 1, 0, 2]]), np.array([[0, 0, 1, 3]])
    assert judge(label, fp32, pred).tolist() == [[0, 1, 2, 3]]


def test_draw_layer_is_transparent_at_0_and_begins_again_after_the_last_colour():
    layer = np.array(draw_layer(np.array([[0, 1, 2, 3]]), ("#ff0000", "#00ff00")).convert("RGBA"))[0]
    assert layer[0, 3] == 0 and set(layer[1:, 3]) == {153}
    assert layer[1:, :3].tolist() == [[255, 0, 0], [0, 255, 0], [255, 0, 0]]


def test_draw_case_turns_anterior_up_and_right_to_the_left():
    """By hand: in RAS the pixel of greatest first (right) and second (anterior) index comes to the upper left."""
    label = np.zeros((3, 4), np.uint8)
    label[2, 3] = 1
    pictures = draw_case("worst", OVERLAY, dict.fromkeys(("image", "label", "fp32", "pred"), label))
    drawn = np.array(pictures.layers["label"])
    assert drawn.shape == (4, 3) and drawn[0, 0] == 1 and drawn.sum() == 1
    assert pictures.aspect == pytest.approx(3 * 1.0 / (4 * 2.0)) and pictures.differing == 0


def test_draw_grey_of_a_constant_image_is_black():
    assert not np.array(draw_grey(np.full((2, 3), 7.0))).any()


def test_data_uri_keeps_layers_exact():
    layer = draw_layer(np.arange(12).reshape(3, 4), ("#ff0000", "#00ff00"))
    head, content = data_uri(layer).split(",")
    assert head == "data:image/png;base64"
    read = Image.open(io.BytesIO(base64.b64decode(content))).convert("RGBA")
    assert np.array_equal(np.array(read), np.array(layer.convert("RGBA")))


def test_draw_case_without_labels_has_no_label_and_judges_nobody():
    fp32, pred = np.array([[0, 1, 2]], np.uint8), np.array([[0, 1, 1]], np.uint8)
    arrays = {"image": fp32, "label": fp32, "fp32": fp32, "pred": pred}
    pictures = draw_case("worst", OVERLAY, arrays, labelled=False)
    assert list(pictures.layers) == ["FP32", "cell", "disagreement"] and pictures.differing == 1
    drawn = np.array(pictures.layers["disagreement"])
    assert drawn.ravel().tolist() == [len(JUDGEMENTS), 0, 0]  # turned: the last one comes first


def test_case_pictures_reads_both_cases(tmp_path, cell):
    folder = write_cell(tmp_path, cell).parent
    assert case_pictures(folder, cell) == []
    np.savez_compressed(folder / "slices.npz", **make_slices(2, 0.1))
    worst, median = case_pictures(folder, cell)
    assert (worst.kind, median.kind) == ("worst", "median") and worst.differing > 0
    assert len(composed(worst)) == 5 and all(panel.size == (96, 80) for panel in composed(worst))
    assert len(composed(case_pictures(folder, cell, labelled=False)[0])) == 4


def test_case_pictures_of_a_single_case_come_once(tmp_path, cell):
    alone = replace(cell, overlays=dict.fromkeys(("worst", "median"), OVERLAY))
    folder = write_cell(tmp_path, alone, make_slices(2, 0.1)).parent
    assert [pictures.kind for pictures in case_pictures(folder, alone)] == ["worst"]


def test_case_pictures_of_damaged_slices_names_the_file(tmp_path, cell):
    folder = write_cell(tmp_path, cell).parent
    (folder / "slices.npz").write_bytes(b"something else")
    with pytest.raises(InputError, match=r"slices\.npz is damaged"):
        case_pictures(folder, cell)
