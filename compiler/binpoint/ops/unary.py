"""Functions of one operand, element by element. Relu and Clip are clamps; all others are tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from binpoint import ort
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.op import FloatArray, FloatOp, Semantics, Site
from binpoint.numeric.fixed import FloatType, TensorType
from binpoint.ops.lookup import clamp_real, convert, tabulate

Attributes = tuple[tuple[str, float | str], ...]


def _erf(x: FloatArray) -> FloatArray:
    # numpy.vectorize takes half as long again.
    return np.fromiter(map(math.erf, x.ravel().tolist()), np.float64, x.size).reshape(x.shape)


def _sigmoid(x: FloatArray) -> FloatArray:
    return np.where(
        x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x)))
    )


def _gelu(x: FloatArray, approximate: str) -> FloatArray:
    if approximate == "tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + _erf(x / math.sqrt(2)))


def _hard_sigmoid(x: FloatArray, alpha: float, beta: float) -> FloatArray:
    return np.clip(alpha * x + beta, 0, 1)


def _celu(x: FloatArray, alpha: float) -> FloatArray:
    return np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(np.minimum(x, 0) / alpha))


def _elu(x: FloatArray, alpha: float) -> FloatArray:
    return np.where(x >= 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _hard_swish(x: FloatArray) -> FloatArray:
    return x * _hard_sigmoid(x, 1 / 6, 0.5)


def _leaky_relu(x: FloatArray, alpha: float) -> FloatArray:
    return np.where(x >= 0, x, alpha * x)


def _mish(x: FloatArray) -> FloatArray:
    return x * np.tanh(_softplus(x))


def _selu(x: FloatArray, alpha: float, gamma: float) -> FloatArray:
    return gamma * _elu(x, alpha)


def _shrink(x: FloatArray, bias: float, lambd: float) -> FloatArray:
    return np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, 0))


def _softplus(x: FloatArray) -> FloatArray:
    return np.logaddexp(0, x)


def _softsign(x: FloatArray) -> FloatArray:
    return x / (1 + np.abs(x))


def _thresholded_relu(x: FloatArray, alpha: float) -> FloatArray:
    return np.where(x > alpha, x, 0)


FUNCTIONS: Mapping[str, Callable[..., Any]] = MappingProxyType[str, Callable[..., Any]](
    {
        "Abs": np.abs,
        "Acos": np.arccos,
        "Acosh": np.arccosh,
        "Asin": np.arcsin,
        "Asinh": np.arcsinh,
        "Atan": np.arctan,
        "Atanh": np.arctanh,
        "Celu": _celu,
        "Ceil": np.ceil,
        "Cos": np.cos,
        "Cosh": np.cosh,
        "Elu": _elu,
        "Erf": _erf,
        "Exp": np.exp,
        "Floor": np.floor,
        "Gelu": _gelu,
        "HardSigmoid": _hard_sigmoid,
        "HardSwish": _hard_swish,
        "LeakyRelu": _leaky_relu,
        "Log": np.log,
        "Mish": _mish,
        "Neg": np.negative,
        "Reciprocal": np.reciprocal,
        "Round": np.rint,
        "Selu": _selu,
        "Sigmoid": _sigmoid,
        "Shrink": _shrink,
        "Sign": np.sign,
        "Sin": np.sin,
        "Sinh": np.sinh,
        "Softplus": _softplus,
        "Softsign": _softsign,
        "Sqrt": np.sqrt,
        "Tan": np.tan,
        "Tanh": np.tanh,
        "ThresholdedRelu": _thresholded_relu,
    }
)
"""The functions, by the name of their ONNX operator, of float64 arrays and the attributes below."""

DEFAULTS: Mapping[str, Attributes] = MappingProxyType(
    {
        "Celu": (("alpha", 1.0),),
        "Elu": (("alpha", 1.0),),
        "Gelu": (("approximate", "none"),),
        "HardSigmoid": (("alpha", 0.2), ("beta", 0.5)),
        "LeakyRelu": (("alpha", 0.01),),
        "Selu": (("alpha", 1.67326319217681884765625), ("gamma", 1.05070102214813232421875)),
        "Shrink": (("bias", 0.0), ("lambd", 0.5)),
        "ThresholdedRelu": (("alpha", 1.0),),
    }
)
"""Attributes with the defaults of the ONNX specification."""

_QUANTIZED = MappingProxyType({"QLinearSigmoid": "Sigmoid", "QLinearLeakyRelu": "LeakyRelu"})


@dataclass(frozen=True, slots=True)
class Unary(FloatOp):
    """y = f(x), f named as in ONNX."""

    onnx: ClassVar[tuple[str, ...]] = (
        *FUNCTIONS,
        *(f"com.microsoft.{name}" for name in _QUANTIZED),
    )
    elementwise: ClassVar[bool] = True

    kind: str
    attributes: Attributes = ()

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """Read the attributes of the function."""
        kind = _QUANTIZED.get(node.proto.op_type, node.proto.op_type)
        attributes: list[tuple[str, float | str]] = []
        for name, default in DEFAULTS.get(kind, ()):
            read = (
                node.string(name, default)
                if isinstance(default, str)
                else node.float(name, default)
            )
            attributes.append((name, read))
        return build.add(cls(kind, tuple(attributes)), node.operand(0))

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The operand's shape."""
        return (TensorType(inputs[0].shape, FloatType()),)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """The function in float64, rounded to the operand's type."""
        x = inputs[0]
        with np.errstate(all="ignore"):
            return (
                np.asarray(
                    FUNCTIONS[self.kind](x.astype(np.float64), **dict(self.attributes))
                ).astype(x.dtype),
            )

    def runtime(self, x: FloatArray) -> FloatArray:
        """The function as onnxruntime computes it, in float32."""
        attributes: dict[str, Any] = dict(self.attributes)
        (y,) = ort.evaluate(self.kind, [x.astype(np.float32)], **attributes)
        return y

    def function(self, semantics: Semantics) -> Callable[[FloatArray], FloatArray]:
        """The function that fills the table."""
        if semantics is Semantics.ONNXRUNTIME:
            return self.runtime
        return lambda x: self.reference(x.astype(np.float64))[0]

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """A table of all codes."""
        x = build.integer(site.inputs[0])
        return (
            tabulate(
                build, x, site.result, site.semantics, self.function(site.semantics), site.name
            ),
        )


@dataclass(frozen=True, slots=True)
class Clip(FloatOp):
    """y = min(max(x, low), high): Relu and Clip; None where there is no bound."""

    onnx: ClassVar[tuple[str, ...]] = ("Relu", "Clip")
    keeps_type: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True

    low: float | None
    high: float | None

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """Bounds as attributes (before opset 11) or as constant operands."""
        x = node.operand(0)
        if node.proto.op_type == "Relu":
            return build.add(cls(0.0, None), x)
        bounds: list[float | None] = []
        for index, name in ((1, "min"), (2, "max")):
            array = node.optional_array(index)
            given = node.attribute(name) if array is None else float(array.reshape(()))
            bounds.append(None if given is None or not math.isfinite(given) else float(given))
        return build.add(cls(*bounds), x) if bounds != [None, None] else (x,)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The operand's shape."""
        return (TensorType(inputs[0].shape, FloatType()),)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """numpy.clip."""
        x = inputs[0]
        low = x if self.low is None else np.maximum(x, np.asarray(self.low, x.dtype))
        return (low if self.high is None else np.minimum(low, np.asarray(self.high, x.dtype)),)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """A clamp where the type stays; else by table.

        A wide operand is clamped after its change of type.
        """
        x = build.integer(site.inputs[0])
        target = site.results[0] or x.elem
        if target == x.elem:
            return (clamp_real(build, x, self.low, self.high),)
        if x.elem.storage.width > 8:
            return (
                clamp_real(build, convert(build, x, target, site.semantics), self.low, self.high),
            )
        return (
            tabulate(
                build, x, target, site.semantics, lambda real: self.reference(real)[0], site.name
            ),
        )
