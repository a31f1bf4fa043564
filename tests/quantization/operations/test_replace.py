from __future__ import annotations

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mqb_monai.quantization.operations.replace import OperationMode, modules_with_products, split_name


class Recorder(OperationMode):
    """What was called, by name, and how many calls each module made."""

    def __init__(self):
        super().__init__()
        self.names, self.made, self.shapes = [], [], []

    def operate(self, name, call):
        self.names.append(name)
        self.shapes.append([tuple(operand.shape) for operand in call.operands])
        return call.run()

    def finish(self, module, calls):
        self.made.append((module, dict(calls)))


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def watch(network, *args):
    recorder = Recorder()
    with torch.no_grad(), recorder.watching(network):
        output = network(*args)
    return recorder, output


def tensors(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def test_names_go_by_module_and_number():
    class Block(nn.Module):
        def forward(self, x):
            return x + torch.cat([x, x]).chunk(2)[0] + x.matmul(x)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.stages = nn.Sequential(Block(), Block())

        def forward(self, x):
            return (x + 1) @ self.stages(x) + self.stages[0](x)

    recorder, _ = watch(Network(), torch.eye(2))
    block = ["cat_0", "add_0", "matmul_0", "add_1"]
    assert recorder.names == [  # by hand, in the order of evaluation
        ":add_0",
        *(f"stages.0:{name}" for name in block),
        *(f"stages.1:{name}" for name in block),
        ":matmul_0",
        *(f"stages.0:{name}" for name in block),
        ":add_1",
    ]
    calls = {"cat": 1, "add": 2, "matmul": 1}
    assert recorder.made == [
        ("stages.0", calls),
        ("stages.1", calls),
        ("stages", {}),
        ("stages.0", calls),
        ("", {"add": 2, "matmul": 1}),
    ]


def test_split_name():
    assert split_name("a.b:matmul_12") == ("a.b", "matmul")
    assert split_name(":add_0") == ("", "add")
    assert modules_with_products(["a:add_0", "b:matmul_0", "b:matmul_1", ":matmul_0"]) == {"b", ""}


def test_operands_of_a_call_and_its_result():
    """Oracle: the same function outside of the mode; again with the operands handed back to it."""
    for function, operands in [
        (lambda a, b: a + b, 2),
        (lambda a, b: torch.add(input=a, other=b), 2),
        (lambda a, b: torch.add(a, other=b), 2),
        (lambda a, b: a.clone().add_(b), 2),
        (lambda a, b: torch.cat((a, b, a), dim=1), 3),
        (lambda a, b: torch.cat(dim=1, tensors=[a, b]), 2),
        (lambda a, b: torch.bmm(a, mat2=b), 2),
        (lambda a, b: torch.mm(a[0], b[0]), 2),
        (lambda a, b: a @ b[0], 2),
        (lambda a, b: a + 1, 0),
        (lambda a, b: 1 + a, 0),
        (lambda a, b: torch.add(a, b, alpha=2), 0),
        (lambda a, b: a + b[:1], 0),
        (lambda a, b: torch.cat([a]), 0),
        (lambda a, b: a @ b[0, 0], 0),
        (lambda a, b: a.int() + b.int(), 0),
    ]:

        class Again(Recorder):
            def operate(self, name, call):
                return call.run(call.operands or None)

        a, b = tensors((2, 3, 3), (2, 3, 3))
        expected = function(a, b)
        network = Function(function)
        recorder, output = watch(network, a, b)
        assert torch.equal(output, expected)
        assert [len(shapes) for shapes in recorder.shapes] == [operands]
        again = Again()
        with again.watching(network):
            assert torch.equal(network(a, b), expected)


def test_run_in_place_changes_the_tensor_that_others_hold():
    class Doubled(Recorder):
        def operate(self, name, call):
            return call.run([2 * operand for operand in call.operands])

    def function(x):
        held = x = x.clone()
        x += x
        return held

    network, mode = Function(function), Doubled()
    with mode.watching(network):
        assert torch.equal(network(torch.ones(2)), torch.full((2,), 4.0))


def test_attention_as_two_products():
    """Oracle: torch's own scaled_dot_product_attention."""
    for options in [
        {},
        {"scale": 0.3},
        {"is_causal": True},
        {"attn_mask": torch.tensor([[True, False, True], [True, True, True], [False, False, True]])},
        {"attn_mask": torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(1))},
        {"dropout_p": 1e-9},
    ]:
        q, k, v = tensors((2, 4, 3, 5), (2, 4, 3, 5), (2, 4, 3, 6))
        network = Function(functools.partial(F.scaled_dot_product_attention, **options))
        recorder, output = watch(network, q, k, v)
        torch.testing.assert_close(output, F.scaled_dot_product_attention(q, k, v, **options))
        products = [shapes for name, shapes in zip(recorder.names, recorder.shapes, strict=True) if "matmul" in name]
        assert products == [[(2, 4, 3, 5), (2, 4, 5, 3)], [(2, 4, 3, 3), (2, 4, 3, 6)]]


def test_attention_with_grouped_queries_is_left_whole():
    q, k = tensors((1, 4, 3, 8), (1, 2, 3, 8))
    network = Function(lambda q, k: F.scaled_dot_product_attention(q, k, k, enable_gqa=True))
    recorder, output = watch(network, q, k)
    assert recorder.names == []
    assert torch.equal(output, network(q, k))


def test_einsum_that_is_a_product():
    """Oracle: torch.einsum."""
    for equation in ["blxd,blyd->blxy", "bhxy,bhyd->bhxd", "dx, yd -> yx", "xbd,dby->ybx"]:
        sizes = {"b": 2, "l": 3, "h": 3, "x": 4, "y": 5, "d": 6}
        left, right = equation.replace(" ", "").split("->")[0].split(",")
        a, b = tensors([sizes[index] for index in left], [sizes[index] for index in right])
        for network in (
            Function(functools.partial(torch.einsum, equation)),
            Function(lambda *operands, equation=equation: torch.einsum(equation, operands)),
        ):
            recorder, output = watch(network, a, b)
            assert recorder.names == [":matmul_0"]
            torch.testing.assert_close(output, torch.einsum(equation, a, b))


def test_einsum_that_is_something_else_is_left_whole():
    for equation in ["bij,bij->bij", "bij,bij->b", "bij,bjk", "...ij,...jk->...ik", "bii,bij->bj", "bij,bjk->ik"]:
        a, b = tensors((2, 3, 3), (2, 3, 3))
        recorder, output = watch(Function(functools.partial(torch.einsum, equation)), a, b)
        assert recorder.names == []
        assert torch.equal(output, torch.einsum(equation, a, b))


def test_baddbmm_as_a_product():
    """Oracle: torch.baddbmm; with beta 0 it does not read the first tensor, here of NaN."""
    for options in [{}, {"beta": 0.5, "alpha": 2}, {"beta": 0}]:
        x, a, b = tensors((2, 3, 4), (2, 3, 5), (2, 5, 4))
        x = torch.full_like(x, torch.nan) if options.get("beta") == 0 else x
        recorder, output = watch(Function(functools.partial(torch.baddbmm, **options)), x, a, b)
        assert ":matmul_0" in recorder.names
        torch.testing.assert_close(output, torch.baddbmm(x, a, b, **options))


def test_watching_ends_with_the_block():
    network = Function(lambda x: x + x)
    recorder = Recorder()
    with pytest.raises(TypeError), recorder.watching(network):
        network(None)
    assert recorder.made == []
    network(torch.ones(1))
    assert recorder.names == []
    with recorder.watching(network):
        network(torch.ones(1))
    assert recorder.made == [("", {"add": 1})]
