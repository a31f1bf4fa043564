from __future__ import annotations

from mqb_monai.analysis.variants import cumulative_variants, single_variants

LAYERS = ("a", "b", "c")


def test_single_variants_quantize_and_dequantize_each_layer_and_group():
    variants = {variant.key: variant for variant in single_variants(LAYERS, {"pair": ("a", "c")})}
    # By hand.
    assert {key: set(variant.quantized) for key, variant in variants.items()} == {
        ("fp32", ""): set(),
        ("quantize_layer", "a"): {"a"},
        ("quantize_layer", "b"): {"b"},
        ("quantize_layer", "c"): {"c"},
        ("quantize_group", "pair"): {"a", "c"},
        ("quantized", ""): {"a", "b", "c"},
        ("dequantize_layer", "a"): {"b", "c"},
        ("dequantize_layer", "b"): {"a", "c"},
        ("dequantize_layer", "c"): {"a", "b"},
        ("dequantize_group", "pair"): {"b"},
    }
    assert next(iter(variants)) == ("fp32", "")
    assert variants["dequantize_group", "pair"].changed == {"a", "c"}
    assert variants["quantize_layer", "b"].changed == {"b"}


def test_cumulative_variants_go_on_from_each_other():
    first, second = cumulative_variants(("b", "a", "c"))
    assert (first.target, first.quantized, first.base, first.record) == ("b", {"a", "c"}, {"a", "b", "c"}, True)
    assert (second.target, second.quantized, second.base) == ("a", {"c"}, {"a", "c"})
    assert second.changed == {"a"}


def test_cumulative_variants_of_one_layer_are_none():
    assert cumulative_variants(("a",)) == cumulative_variants(()) == []
