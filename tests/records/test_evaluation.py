from __future__ import annotations

import math


def test_id_is_readable(make_evaluation):
    record = make_evaluation("w8a8_engine", "openvino", bundle="unetr")
    assert record.id == "unetr.w8a8_engine.openvino.test"


def test_id_names_the_recipe_where_it_is_not_the_studies(make_evaluation):
    assert make_evaluation("w8a8_engine", recipe="minmax").id == "net.w8a8_engine.torch.test"
    assert make_evaluation("w8a8_engine", recipe="auto").id == "net.w8a8_engine-auto.torch.test"


def test_is_reference_of_fp32_on_torch_alone(make_evaluation):
    choices = [("fp32", "torch"), ("fp32", "openvino"), ("w8a8_engine", "torch")]
    assert [make_evaluation(*choice).is_reference for choice in choices] == [True, False, False]


def test_headline_is_against_labels_then_fp32s_map_then_nan(make_evaluation, make_unlabelled):
    labelled, unlabelled, fp32 = make_evaluation(dice=0.6), make_unlabelled(to_fp32=0.9), make_unlabelled("fp32")
    assert labelled.has_labels and not unlabelled.has_labels and not fp32.has_labels
    assert [scores["mean"] for scores in labelled.headline] == [0.6, 0.7]
    assert [scores["mean"] for scores in unlabelled.headline] == [0.9, 0.9]
    assert all(math.isnan(scores["mean"]) for scores in fp32.headline)
