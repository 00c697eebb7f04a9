"""The driver's arithmetic is that of the model's border, and a call moves what it should."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from binpoint.emit.fpga_hls import render
from binpoint.ir.graph import Graph
from binpoint.options import CompileOptions
from binpoint.passes.convert import real, stored
from binpoint.plan.dataflow import design
from binpoint.plan.design import Design
from tests.hls.designs import fpga, lowered_file

OPTIONS = CompileOptions(name="net")
MODELS = ("pendigits_mlp_qdq", "ic_resnet8_qdq", "kws_dscnn_w4a4", "vit_cifar10_qdq")


@pytest.fixture(params=MODELS)
def made(request: pytest.FixtureRequest, shared_models: Path) -> tuple[Graph, Design, Any]:
    path = shared_models / f"{request.param}.onnx"
    graph = lowered_file(path, path.with_suffix(".npz"), OPTIONS)
    plan = design(graph, fpga(), OPTIONS)
    text = render(plan, fpga()).files["driver/net_pynq.py"].decode()
    return graph, plan, _loaded(text)


class _Channel:
    def __init__(self) -> None:
        self.moved: list[NDArray[Any]] = []
        self.waited = 0

    def transfer(self, buffer: NDArray[Any]) -> None:
        self.moved.append(buffer.copy())

    def wait(self) -> None:
        self.waited += 1


class _Overlay:
    def __init__(self, bitfile: str) -> None:
        self.bitfile = bitfile
        self.written: list[tuple[int, int]] = []
        self.net = SimpleNamespace(write=self._write)

    def _write(self, at: int, value: int) -> None:
        self.written.append((at, value))

    def __getattr__(self, name: str) -> SimpleNamespace:
        assert name.startswith("dma_")
        found = SimpleNamespace(sendchannel=_Channel(), recvchannel=_Channel())
        setattr(self, name, found)
        return found


def _loaded(text: str) -> Any:
    pynq = ModuleType("pynq")
    pynq.Overlay = _Overlay  # type: ignore[attr-defined]
    pynq.allocate = np.zeros  # type: ignore[attr-defined]
    driver = ModuleType("driver")
    before = sys.modules.get("pynq")
    sys.modules["pynq"] = pynq
    try:
        exec(compile(text, "driver", "exec"), driver.__dict__)
    finally:
        if before is None:
            del sys.modules["pynq"]
        else:
            sys.modules["pynq"] = before
    return driver


def test_codes_and_numbers_are_those_of_the_models_border(made: tuple[Graph, Design, Any]) -> None:
    graph, plan, driver = made
    rng = np.random.default_rng(1)
    for port, name in zip(plan.inputs, graph.inputs, strict=True):
        value = graph.value(name)
        span = float(value.elem.scale) * 200
        x = rng.uniform(-span, span, value.shape).astype(np.float32)
        want = stored(value, x)
        if port.order:
            want = np.transpose(want, port.order)
        np.testing.assert_array_equal(driver.quantize(port.name, x), want)
        np.testing.assert_array_equal(driver.quantize(port.name, stored(value, x)), want)
    for port, name in zip(plan.outputs, graph.outputs, strict=True):
        value, carried = graph.value(name), graph.value(port.value)
        codes = rng.integers(value.interval.lo, value.interval.hi + 1, carried.shape)
        own = np.transpose(codes, port.order) if port.order else codes
        np.testing.assert_array_equal(driver.dequantize(port.name, codes), real(value, own))


def test_a_call_sends_codes_and_returns_numbers(made: tuple[Graph, Design, Any]) -> None:
    graph, plan, driver = made
    model = driver.Model()
    assert model.overlay.written == [(0, 0x81)]
    inputs = [np.ones(graph.value(name).shape, np.float32) for name in graph.inputs]
    found = model(*inputs)
    assert [y.shape for y in found] == [graph.value(name).shape for name in graph.outputs]
    for port, x in zip(plan.inputs, inputs, strict=True):
        (sent,) = model.dmas[port.name].sendchannel.moved
        np.testing.assert_array_equal(sent, driver.quantize(port.name, x))
        assert model.dmas[port.name].sendchannel.waited == 1
    for port in plan.outputs:
        assert len(model.dmas[port.name].recvchannel.moved) == 1
        assert model.dmas[port.name].recvchannel.waited == 1
    with pytest.raises(ValueError, match="inputs are needed"):
        model()
