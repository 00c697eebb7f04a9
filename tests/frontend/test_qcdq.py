"""QuantizeLinear with a Clip of its codes, as Brevitas exports it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from binpoint.frontend.qonnx import is_rational
from binpoint.numeric.fixed import IntType
from tests.nets_qonnx import STEP, Net, lowered


def test_clipped_codes_are_a_narrower_type(tmp_path: Path, rng: np.random.Generator) -> None:
    net = Net((1, 6), domain="")

    def quantize(x: object, scale: float, low: int, high: int) -> str:
        zero = f"z{len(net.nodes)}"
        dtype = np.int8 if low < 0 else np.uint8
        for name, value in ((zero, 0), (f"{zero}l", low), (f"{zero}h", high)):
            net.parameters.append(onnx.numpy_helper.from_array(np.array(value, dtype), name))
        step = net.parameter(scale)
        codes = net.add("QuantizeLinear", x, step, zero)
        return net.add(
            "DequantizeLinear", net.add("Clip", codes, f"{zero}l", f"{zero}h"), step, zero
        )

    x = quantize("x", STEP, -128, 127)
    y = net.add("Gemm", x, quantize(rng.normal(0, 1, (6, 5)), 0.25, -7, 7), rng.normal(0, 1, 5))
    model = net.model(quantize(net.add("Relu", y), 0.5, 0, 15))
    assert is_rational(model.graph)
    graph = lowered(model, tmp_path)
    assert graph.value(graph.outputs[0]).elem.storage == IntType(4, signed=False)
