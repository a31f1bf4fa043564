from __future__ import annotations

import logging

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from mqb_monai.quantization import QuantSpec, compiled
from mqb_monai.quantization.affine import fake_quantize, fake_quantize_per_token, fake_quantize_per_voxel, range_qparams


@pytest.fixture
def small_counts_as_big(monkeypatch):
    monkeypatch.setattr(compiled, "MIN_NUMEL", 1)
    monkeypatch.setattr(compiled, "_enabled", True)


def calls(x, symmetric=True, num_bits=8):
    spec = QuantSpec(num_bits, "per_tensor", symmetric)
    rows = x.movedim(1, -1).flatten(0, -2)
    scale, zero_point = range_qparams(rows.amin(0), rows.amax(0), spec)
    bounds = spec.qmin, spec.qmax
    return {
        "per_tensor": lambda: fake_quantize(x, scale[0], zero_point[0], *bounds),
        "per_channel": lambda: fake_quantize(x, scale, zero_point, *bounds, axis=1),
        "per_token": lambda: fake_quantize_per_token(x, spec),
        "per_voxel": lambda: fake_quantize_per_voxel(x, spec),
    }


def test_can_fuse_big_plain_cpu_tensors_only(x, small_counts_as_big, monkeypatch):
    assert compiled.can_fuse(x)
    assert not compiled.can_fuse(x.double())
    assert not compiled.can_fuse(x.to("meta"))
    assert not compiled.can_fuse(x.clone().requires_grad_())
    with compiled.fused_kernels(False):
        assert not compiled.can_fuse(x)
    monkeypatch.setattr(compiled, "MIN_NUMEL", x.numel() + 1)
    assert not compiled.can_fuse(x)


def test_falls_back_to_eager_and_says_so_once(x, small_counts_as_big, monkeypatch, caplog):
    def no_compiler(kernel):
        raise RuntimeError("no C++ compiler")

    with compiled.fused_kernels(False):
        expected = {name: call() for name, call in calls(x).items()}
    monkeypatch.setattr(compiled, "_compiled", no_compiler)
    with caplog.at_level(logging.WARNING):
        for name, call in calls(x).items():
            assert torch.equal(call(), expected[name])
    assert [record.message.count("no C++ compiler") for record in caplog.records] == [1]


SHAPES = [
    (*batch, *channels, *space)
    for batch in ((1,), (2,), (3,))
    for channels in ((1,), (4,), (6,))
    for space in ((8, 6, 4), (5, 5, 5), (2, 1, 1), (1, 1, 1))
]


@pytest.fixture
def variants(small_counts_as_big, monkeypatch):
    """Counts what is compiled: to the same Python, so that no C++ compiler is needed."""
    counter, kernels = CompileCounter(), {}

    def compile_kernel(kernel):
        return kernels.setdefault(kernel, torch.compile(kernel, dynamic=True, fullgraph=True, backend=counter))

    monkeypatch.setattr(compiled, "_compiled", compile_kernel)
    return counter


def test_one_process_runs_networks_of_many_shapes_compiled(variants, caplog):
    """torch's own limit is 8 variants of a kernel."""
    with caplog.at_level(logging.WARNING):
        for shape in SHAPES:
            for call in calls(torch.randn(shape, generator=torch.Generator().manual_seed(0))).values():
                call()
    assert variants.frame_count > 8
    assert not caplog.records


def test_the_shape_behind_a_view_makes_no_variant(variants):
    """Volumes, images and tokens are flattened to one axis: the kernel has one variant for all."""
    for shape in ((2, 4, 8, 6, 4), (2, 4, 8, 6), (2, 4, 8)):
        calls(torch.randn(shape))["per_tensor"]()
    assert variants.frame_count == 1


@pytest.mark.parametrize("symmetric", [True, False])
def test_kernels_equal_native_operators(x, small_counts_as_big, monkeypatch, symmetric):
    """The very functions that are compiled, run eagerly; oracle: torch's native fake-quantize operators."""
    with compiled.fused_kernels(False):
        expected = {name: call() for name, call in calls(x, symmetric).items()}
    monkeypatch.setattr(compiled, "_compiled", lambda kernel: kernel)
    for name, call in calls(x, symmetric).items():
        assert torch.equal(call(), expected[name]), name


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*:DeprecationWarning")
def test_tracing_uses_native_operators(x, small_counts_as_big, monkeypatch):
    monkeypatch.setattr(compiled, "_compiled", lambda kernel: pytest.fail("compiled within a trace"))

    class Module(torch.nn.Module):
        def forward(self, x):
            one, zero = torch.ones(3), torch.zeros(3, dtype=torch.int32)
            x = fake_quantize(x, one[0], zero[0], -128, 127) + fake_quantize(x, one, zero, -128, 127, axis=1)
            return x + fake_quantize_per_token(x, QuantSpec(8, "per_token"))

    traced = torch.jit.trace(Module(), x, check_trace=False)  # the check runs untraced
    kinds = {node.kind() for node in traced.graph.nodes()}
    assert {"aten::fake_quantize_per_tensor_affine", "aten::fake_quantize_per_channel_affine"} <= kinds
    exported = torch.export.export(Module(), (x,))
    with compiled.fused_kernels(False):
        assert torch.equal(exported.module()(x), Module()(x))


def test_kernels_run_outside_of_any_function_mode(x, small_counts_as_big, monkeypatch):
    """One would be compiled into the kernel, or keep it from being compiled at all."""

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            assert func is not torch.round, "seen by the mode"
            return func(*args, **kwargs or {})

    monkeypatch.setattr(compiled, "_compiled", lambda kernel: kernel)
    with Mode():
        for call in calls(x).values():
            call()
    assert compiled._enabled


@pytest.mark.slow
@pytest.mark.parametrize("symmetric", [True, False])
def test_compiled_equals_eager_bit_by_bit(symmetric):
    """Compiling takes a minute the first time; needs a C++ compiler."""
    x = torch.randn(2, 8, 32, 32, 32, generator=torch.Generator().manual_seed(3))
    with compiled.fused_kernels(False):
        expected = {name: call() for name, call in calls(x, symmetric).items()}
    with compiled.fused_kernels(True):
        for name, call in calls(x, symmetric).items():
            assert torch.equal(call(), expected[name]), name
        assert compiled._enabled, "torch.compile did not work here"
