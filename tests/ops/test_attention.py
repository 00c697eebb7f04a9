"""Attention in one operator means what onnxruntime computes, and compiles into equal integers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from binpoint import ort
from binpoint.driver import compile_model
from binpoint.errors import UnsupportedOperator
from binpoint.frontend.load import load
from binpoint.ir.evaluate import evaluate
from binpoint.ir.kernel import KernelCall
from binpoint.options import CompileOptions
from binpoint.passes.base import Context
from binpoint.passes.manager import run
from binpoint.passes.samples import Samples
from binpoint.pipelines import mcu
from binpoint.plan.arrange import arrange
from binpoint.target import McuTarget, load_target
from tests.build import info, model, save
from tests.exported import NAMES, exported

Array = NDArray[Any]
RNG = np.random.default_rng(6)
MICROSOFT = "com.microsoft"


@dataclass(frozen=True, slots=True)
class Case:
    """An operator, the shapes of its inputs, its constants and attributes."""

    words: str
    shapes: dict[str, tuple[int, ...]]
    arrays: dict[str, Array]
    attributes: dict[str, Any]
    operator: str = "Attention"

    @property
    def model(self) -> onnx.ModelProto:
        domain, _, name = self.operator.rpartition(".")
        domain = MICROSOFT if domain else ""
        node = helper.make_node(
            name, self.words.split(","), ["y"], "attend", domain=domain, **self.attributes
        )
        inputs = [info(name, shape) for name, shape in self.shapes.items()]
        return model([node], inputs, [info("y", None)], self.arrays, opset=23)

    def inputs(self, count: int = 1) -> dict[str, Array]:
        return {
            name: RNG.normal(size=(count * shape[0], *shape[1:])).astype(np.float32)
            for name, shape in self.shapes.items()
        }


def same(*names: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(names, shape)


SEEN = RNG.random((6, 9)) < 0.6
SEEN[:, 0] = True
FLAT = {"q": (1, 6, 16), "k": (1, 9, 16), "v": (1, 9, 16)}
APART = {"q": (1, 4, 6, 8), "k": (1, 2, 9, 8), "v": (1, 2, 9, 8)}
PACKED = {
    "w": RNG.normal(0, 0.3, (16, 48)).astype(np.float32),
    "b": RNG.normal(size=48).astype(np.float32),
}
KEYS = np.array([[1, 1, 0, 1, 0, 1, 1, 1, 0]], np.int32)
ADDED = np.where(SEEN, RNG.normal(size=(6, 9)), -np.inf).astype(np.float32)
BOTH = {"q_num_heads": 4, "kv_num_heads": 4}
PACK, MULTI = f"{MICROSOFT}.Attention", f"{MICROSOFT}.MultiHeadAttention"
CASES = {
    "flat": Case("q,k,v", FLAT, {}, BOTH),
    "grouped, truth values": Case("q,k,v,m", APART, {"m": SEEN}, {}),
    "grouped, infinite mask": Case("q,k,v,m", APART, {"m": ADDED}, {"scale": 0.3}),
    "causal": Case("q,k,v", same("q", "k", "v", shape=(1, 6, 16)), {}, {**BOTH, "is_causal": 1}),
    "softcap": Case("q,k,v", same("q", "k", "v", shape=(1, 6, 16)), {}, {**BOTH, "softcap": 2.0}),
    "packed": Case("x,w,b", {"x": (1, 6, 16)}, PACKED, {"num_heads": 4}, PACK),
    "packed, causal": Case(
        "x,w,b", {"x": (1, 6, 16)}, PACKED, {"num_heads": 4, "unidirectional": 1}, PACK
    ),
    "packed, masked": Case(
        "x,w,b,m", {"x": (1, 9, 16)}, {**PACKED, "m": KEYS}, {"num_heads": 4}, PACK
    ),
    "multi-head": Case("q,k,v,b", FLAT, {"b": PACKED["b"]}, {"num_heads": 4}, MULTI),
    "multi-head, masked": Case("q,k,v,,m", FLAT, {"m": KEYS}, {"num_heads": 4}, MULTI),
    "multi-head, bias": Case(
        "q,k,v,,,r",
        FLAT,
        {"r": RNG.normal(size=(1, 4, 6, 9)).astype(np.float32)},
        {"num_heads": 4},
        MULTI,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_means_what_onnxruntime_computes(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    path = save(case.model, tmp_path / "m.onnx")
    inputs = case.inputs()
    want = ort.plain(str(path)).run(inputs)["y"]
    graph = load(path)
    y = evaluate(graph, {n: inputs[graph.value(n).source] for n in graph.inputs})
    np.testing.assert_allclose(y[graph.outputs[0]], want, atol=2e-6)


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("name", ["grouped, infinite mask", "packed, causal", "softcap"])
def test_all_witnesses_agree(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    path = save(case.model, tmp_path / "m.onnx")
    done = compile_model(
        path,
        load_target("host"),
        CompileOptions(),
        samples=case.inputs(8),
        verify="host",
        verify_samples=4,
    )
    assert done.report.verdict == "equal"


def _calls(model: onnx.ModelProto, path: Path) -> list[KernelCall]:
    """What a microcontroller with DSP instructions is told to do."""
    graph, options, target = load(save(model, path)), CompileOptions(), load_target("cortex-m4")
    assert isinstance(target, McuTarget)
    samples = {n: RNG.normal(size=(4, *graph.value(n).shape[1:])) for n in graph.inputs}
    arrays = {name: array.astype(np.float32) for name, array in samples.items()}
    integer = run(mcu(), graph, Context(target, options, Samples(arrays)))
    return [step.call for step in arrange(integer, options, target).steps if not step.alias]


@pytest.mark.parametrize(
    "name",
    [
        "flat",
        "grouped, truth values",
        "packed",
        "multi-head",
        "causal_dynamo",
        *(pytest.param(n, marks=pytest.mark.slow) for n in NAMES if n != "causal_dynamo"),
    ],
)
def test_no_head_is_copied(name: str, tmp_path: Path) -> None:
    model = CASES[name].model if name in CASES else exported(name, RNG)
    calls = _calls(model, tmp_path / "m.onnx")
    products = [dict(call.traits)["b"] for call in calls if call.stem == "matmul"]
    assert products == ["turned", ""] * (len(products) // 2)
    assert products
    assert not {"copy", "gather", "concat"} & {call.stem for call in calls}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"q_num_heads": 3}, "for 3 heads"),
        ({"q_num_heads": 0}, "q_num_heads and kv_num_heads are missing"),
    ],
)
def test_heads_must_divide(change: dict[str, int], why: str, tmp_path: Path) -> None:
    case = Case("q,k,v", FLAT, {}, {**BOTH, **change})
    with pytest.raises(UnsupportedOperator, match=why):
        load(save(case.model, tmp_path / "m.onnx"))


def test_a_query_that_sees_no_key_is_refused(tmp_path: Path) -> None:
    blind = SEEN.copy()
    blind[2] = False
    case = Case("q,k,v,m", APART, {"m": blind}, {})
    with pytest.raises(UnsupportedOperator, match="sees no key"):
        load(save(case.model, tmp_path / "m.onnx"))


def test_a_cache_is_refused(tmp_path: Path) -> None:
    shapes = {**APART, "p": (1, 2, 3, 8), "o": (1, 2, 3, 8)}
    with pytest.raises(UnsupportedOperator, match="past or present keys"):
        load(save(Case("q,k,v,,p,o", shapes, {}, {}).model, tmp_path / "m.onnx"))
