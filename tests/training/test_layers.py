# pyright: basic, reportMissingImports=false
"""Brevitas's own exports of its layers: the module's integers and the interpreter's, all equal.

The module runs in float64 (`tests.training.reference`), on 200 samples; every quantizer's codes are
compared, those of weights and biases too, and sums that leave the model without one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import brevitas.quant as brevitas_quant
import pytest
import torch
from brevitas.export import export_onnx_qcdq, export_qonnx

from binpoint.driver import compile_model
from binpoint.errors import AccumulatorOverflow, NoIntegerForm
from binpoint.options import CompileOptions
from binpoint.sim.witness import Answer
from binpoint.target import load_target
from tests.training.layers import LAYERS, made
from tests.training.reference import compare, traced

EXPORTS = {"qonnx": export_qonnx, "qcdq": export_onnx_qcdq}
FREE = [("free", 2), ("free", 4), ("free", 8)]
FORMS = [
    ("point", 3), ("point", 8), ("channel", 4), ("channel-point", 8), ("shifted", 8),
    ("shifted-point", 4), ("binary", 1), ("ternary", 2),
]  # fmt: skip
NARROW = set(LAYERS) - {"lstm", "attention", "trunc-floor"}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def exported(net: Any, x: Any, folder: Path, kind: str) -> Path:
    """The export of a whole batch: its integers are those of each sample."""
    path = folder / "net.onnx"
    EXPORTS[kind](net, args=x, export_path=str(path), dynamo=False)
    return path


def equal(name: str, form: str, bits: int, folder: Path, kind: str, **more: Any) -> None:
    net, x = made(name, form, bits, **more)
    trace = traced(net, x)
    # Nothing tells that QuantizeLinear without Clip, as for eight bits with zero points or without
    # weights, is exact.
    told = bits != 8 or (form != "shifted" and name != "relu")
    semantics = "auto" if told else "rational"
    compare(exported(net, x, folder, kind), trace, x, semantics=semantics)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("form", "bits"), FREE)
def test_qonnx(name: str, form: str, bits: int, tmp_path: Path) -> None:
    equal(name, form, bits, tmp_path, "qonnx")


# An LSTM of binary values has no input whose quantizer tells more than signs.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "form", "bits"),
    [(n, *form) for n in LAYERS for form in FORMS if (n, form[0]) != ("lstm", "binary")],
)
def test_qonnx_of_every_form(name: str, form: str, bits: int, tmp_path: Path) -> None:
    equal(name, form, bits, tmp_path, "qonnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(LAYERS) - {"lstm", "trunc-floor"}))
@pytest.mark.parametrize(("form", "bits"), [*FREE, *FORMS])
def test_qcdq(name: str, form: str, bits: int, tmp_path: Path) -> None:
    if form == "binary":
        with pytest.raises(AssertionError, match="Binary quant not supported"):
            equal(name, form, bits, tmp_path, "qcdq")
    else:
        equal(name, form, bits, tmp_path, "qcdq")


@pytest.mark.parametrize("name", sorted(NARROW))
@pytest.mark.parametrize(("form", "bits"), [("free", 12), ("point", 16)])
def test_more_than_eight_bits(name: str, form: str, bits: int, tmp_path: Path) -> None:
    equal(name, form, bits, tmp_path, "qonnx", weight_bits=8)


@pytest.mark.parametrize("bias", ["Int8Bias", "Int16Bias", "Int32Bias"])
@pytest.mark.parametrize("kind", EXPORTS)
def test_quantized_biases(bias: str, kind: str, tmp_path: Path) -> None:
    equal("conv2d", "channel", 4, tmp_path, kind, bias=getattr(brevitas_quant, bias))


# ---- what is refused, and what Brevitas itself refuses or writes otherwise


def test_sums_beyond_32_bits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AccumulatorOverflow, match="leave 32 bits"):
        equal("linear", "free", 16, tmp_path, "qonnx")


def test_softmax_of_more_than_eight_bits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoIntegerForm, match="12-bit values"):
        equal("attention", "free", 12, tmp_path, "qonnx", weight_bits=8)


@pytest.mark.parametrize("bits", [9, 16])
def test_brevitas_writes_no_more_than_eight_bits_as_qcdq(bits: int, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"Bit width .* is not supported"):
        equal("linear", "free", bits, tmp_path, "qcdq")


def test_brevitas_writes_no_quantized_lstm_as_qcdq(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="Quantized LSTM cell is not supported"):
        equal("lstm", "free", 4, tmp_path, "qcdq")


def test_brevitas_writes_truncation_as_rounding_in_qcdq(tmp_path: Path) -> None:
    net, x = made("trunc-floor", "point", 4)
    trace = traced(net, x)
    path = exported(net, x, tmp_path, "qcdq")
    with pytest.raises(AssertionError, match=r"trunc_quant.*codes differ"):
        compare(path, trace, x)
    # The file says QuantizeLinear, which rounds: as the module that rounds does.
    rounding, same = made("trunc", "point", 4)
    assert torch.equal(x, same)
    compare(path, traced(rounding, x), x)


# ---- in C and HLS


@pytest.mark.slow
@pytest.mark.needs("gcc", "g++", "arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize("target", ["cortex-m4", "zynq-7020"])
@pytest.mark.parametrize(("form", "bits"), [("free", 4), ("free", 12)])
@pytest.mark.parametrize("name", LAYERS)
def test_witnesses(name: str, form: str, bits: int, target: str, tmp_path: Path) -> None:
    if bits > 8 and name not in NARROW:
        pytest.skip("refused above eight bits")
    net, x = made(name, form, bits, weight_bits=min(bits, 8))
    path = exported(net, x[:1], tmp_path, "qonnx")
    result = compile_model(path, load_target(target), CompileOptions(), verify_samples=4)
    assert result.verdict.answer is Answer.EQUAL
