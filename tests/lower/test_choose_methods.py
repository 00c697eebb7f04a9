"""Choose-methods: what it recognises, whom it obeys, what it refuses."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from binpoint.errors import BadOption
from binpoint.frontend.functions import FuseFunctions
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph
from binpoint.ir.text import dump
from binpoint.lower.choose_methods import ChooseMethods
from binpoint.numeric.fixed import FloatType, TensorType
from binpoint.ops.elementwise import Binary, Kind, Scalar
from binpoint.ops.gate import Gated
from binpoint.ops.methods import Method
from binpoint.ops.softmax import Softmax
from binpoint.ops.unary import Unary
from binpoint.options import CompileOptions, read_options
from binpoint.passes.base import Context
from binpoint.target import load_target


def model() -> Graph:
    """A softmax, GELU written out by erf and by tanh, the operator itself, x·sigmoid(x), Mish."""
    graph = Graph("model")
    build = GraphBuilder(graph, "op")
    x = build.input("x", TensorType((2, 8), FloatType()))
    whole = build.one(
        Scalar(Kind.ADD, 1.0), build.one(Unary("Erf"), build.one(Scalar(Kind.DIV, math.sqrt(2)), x))
    )
    erf = build.one(Scalar(Kind.MUL, 0.5), build.one(Binary(Kind.MUL), x, whole), hint="erf")
    cube = build.one(Scalar(Kind.MUL, 0.044715), build.one(Scalar(Kind.POW, 3.0), x))
    inner = build.one(
        Scalar(Kind.MUL, math.sqrt(2 / math.pi)), build.one(Binary(Kind.ADD), x, cube)
    )
    outer = build.one(Scalar(Kind.ADD, 1.0), build.one(Unary("Tanh"), inner))
    tanh = build.one(Binary(Kind.MUL), x, outer, hint="tanh")
    plain = build.one(Unary("Gelu", (("approximate", "none"),)), x, hint="plain")
    silu = build.one(Binary(Kind.MUL), x, build.one(Unary("Sigmoid"), x), hint="silu")
    mish = build.one(Unary("Mish"), x, hint="mish")
    shares = build.one(Softmax(1), x, hint="shares")
    graph.outputs = tuple(v.name for v in (erf, tanh, plain, silu, mish, shares))
    return FuseFunctions().run(graph, context({}))


def context(methods: Mapping[str, Method]) -> Context:
    return Context(load_target("host"), CompileOptions(methods=dict(methods)))


def chosen(methods: Mapping[str, Method]) -> list[str]:
    """What stands before each output."""
    graph = ChooseMethods().run(model(), context(methods))
    again = ChooseMethods().run(graph.copy(), context(methods))
    assert dump(again) == dump(graph)
    found: list[str] = []
    for name in graph.outputs:
        node = graph.producer(name)
        assert node is not None
        match node.op:
            case Gated(kind, method, factor):
                assert abs(factor - (2 if kind == "gelu-tanh" else 1)) < 1e-6
                found.append(f"{kind} {method}")
            case Softmax(_, method):
                found.append(f"softmax {method}")
            case _:
                found.append(type(node.op).__name__)
    return found


def test_without_the_option_nothing_changes() -> None:
    assert chosen({}) == ["Composite", "Composite", "Unary", "Composite", "Unary", "softmax table"]


def test_formulas_are_recognised() -> None:
    assert chosen({"all": Method.SHIFT}) == [
        "gelu shift", "gelu-tanh shift", "gelu shift", "silu shift", "Unary", "softmax shift",
    ]  # fmt: skip


def test_a_node_counts_more_than_its_function_and_that_more_than_all() -> None:
    name = model().producer(model().outputs[2])
    assert name is not None
    got = chosen({"all": Method.SHIFT, "gelu": Method.POLYNOMIAL, name.name: Method.SHIFT_RELEASED})
    assert got == [
        "gelu polynomial", "gelu-tanh polynomial", "gelu shift-released", "silu shift", "Unary",
        "softmax shift",
    ]  # fmt: skip


def test_values_are_kept() -> None:
    x = np.linspace(-3, 3, 16, dtype=np.float32).reshape(2, 8)
    for kind in ("gelu", "gelu-tanh", "silu"):
        (y,) = Gated(kind, Method.SHIFT).reference(x)
        assert y.dtype == np.float32
        assert abs(float(y[1, 7]) - 3) < 0.15


def test_a_name_that_is_nowhere_is_refused() -> None:
    with pytest.raises(BadOption, match="`gelo`") as caught:
        chosen({"gelo": Method.SHIFT})
    assert "softmax, gelu, silu" in str(caught.value.want)


def test_words_of_one_table_are_joined() -> None:
    options = read_options(assignments=["methods.softmax=shift", "methods.a.b=polynomial"])
    assert options.methods == {"softmax": Method.SHIFT, "a.b": Method.POLYNOMIAL}
    assert read_options(assignments=options.to_toml().splitlines()) == CompileOptions(
        methods=options.methods
    )
    with pytest.raises(BadOption, match="twice"):
        read_options(assignments=["methods.softmax=shift", "methods.softmax=table"])
    with pytest.raises(BadOption, match="sheft"):
        read_options(assignments=["methods.softmax=sheft"])


def test_logarithms_are_of_softmax_alone() -> None:
    assert chosen({"all": Method.LOG2}) == [*chosen({})[:-1], "softmax log2"]
    with pytest.raises(BadOption, match="no method `log2`"):
        chosen({"gelu": Method.LOG2})
