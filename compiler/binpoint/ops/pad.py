"""Pad: a constant border (`IntPad`), or one made of the tensor's own elements (a `Take`).

Widths below zero cut elements off first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from binpoint.errors import NoIntegerForm
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Value
from binpoint.ir.kernel import Buffer, KernelCall, Number, Work
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import FloatArray, FloatOp, IntArray, IntegerOp, Permuted, Semantics, Site
from binpoint.numeric import float32
from binpoint.numeric.fixed import FixedType, FloatType, TensorType
from binpoint.numeric.interval import Interval
from binpoint.ops.copy import MOST_AXES, row_major
from binpoint.ops.lookup import convert
from binpoint.ops.slices import take_value

Widths = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pad(FloatOp):
    """`before` and `after` elements of `value`, which the operand's type has, on each axis."""

    onnx: ClassVar[tuple[str, ...]] = ("Pad",)
    keeps_type: ClassVar[bool] = True

    before: Widths
    after: Widths
    value: float

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """Constant, reflect, edge and wrap; older opsets have attributes."""
        x = node.operand(0)
        before, after = _widths(node, len(x.shape))
        if min(n + b + a for n, b, a in zip(x.shape, before, after, strict=True)) < 1:
            node.refuse("the result is empty")
        # A negative width on one side does not change what the other side repeats.
        kept = [
            range(max(0, -b), n - max(0, -a))
            for n, b, a in zip(x.shape, before, after, strict=True)
        ]
        if any(len(k) == 0 for k in kept):
            node.refuse("the widths cut everything off before they add elements")
        mode = node.string("mode", "constant")
        wide = tuple(max(0, b) for b in before), tuple(max(0, a) for a in after)
        if mode == "constant":
            value = _fill(node)
            # Zero, and any code where codes are padded, is an element of the operand's type.
            kind = Pad if value == 0 or _on_codes(node) else ValuePad
            x = take_value(build, x, kept)
            return build.add(kind(*wide, value), x) if any(map(any, wide)) else (x,)
        return (take_value(build, x, _repeated(node, mode, kept, wide)),)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """Sizes with both widths added."""
        shape = zip(self.before, inputs[0].shape, self.after, strict=True)
        return (TensorType(tuple(b + n + a for b, n, a in shape), FloatType()),)

    def permuted(self, order: tuple[int, ...], *inputs: Value) -> Permuted | None:
        """Widths in the new order."""
        before, after = ([widths[axis] for axis in order] for widths in (self.before, self.after))
        return Permuted(replace(self, before=tuple(before), after=tuple(after)), order)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """numpy.pad."""
        widths = list(zip(self.before, self.after, strict=True))
        return (np.pad(inputs[0], widths, constant_values=self.value),)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """The operand in the result's type, in a frame of the value's code."""
        x = build.integer(site.inputs[0])
        target = site.results[0] or x.elem
        x = convert(build, x, target, site.semantics)
        code = self._code(site, target)
        return (build.one(IntPad(self.before, self.after, code, target), x),)

    def _code(self, site: Site, target: FixedType) -> int:
        """The code of the value; in ONNXRUNTIME semantics QuantizeLinear's, which saturates."""
        lo, hi = target.storage.min, target.storage.max
        if site.semantics is Semantics.ONNXRUNTIME:
            real = np.float32(self.value)
            return int(
                float32.quantize_linear(real, float(target.scale), target.zero_point, lo, hi)
            )
        code = int(target.quantize(self.value))
        # An end of the calibrated range itself may saturate by less than a step.
        steps = abs(float(target.dequantize(np.array(code))) - self.value) / float(target.scale)
        if steps >= 1:
            raise NoIntegerForm(
                "the value of a padding lies outside the type of its result",
                at=site.name,
                have=f"{self.value} in {target}",
                hint="give samples that show the whole range of the result",
            )
        return code


@dataclass(frozen=True, slots=True)
class ValuePad(Pad):
    """The same with any value: the result needs a type of its own that covers it."""

    onnx: ClassVar[tuple[str, ...]] = ()
    keeps_type: ClassVar[bool] = False


def _on_codes(node: OnnxNode) -> bool:
    return bool(node.codes) and node.codes[0]


def _widths(node: OnnxNode, rank: int) -> tuple[Widths, Widths]:
    """Widths before and after every axis."""
    given = node.ints("pads") or node.ints("paddings")
    if not given:
        given = tuple(int(v) for v in np.atleast_1d(node.array(1)))
    axes = tuple(range(rank))
    if node.has(3):
        axes = tuple(int(v) for v in np.atleast_1d(node.array(3)))
    if len(given) != 2 * len(axes) or any(not -rank <= axis < rank for axis in axes):
        node.refuse(f"pads {list(given)} do not fit axes {list(axes)} of rank {rank}")
    before, after = [0] * rank, [0] * rank
    for index, axis in enumerate(axes):
        before[axis], after[axis] = given[index], given[index + len(axes)]
    return tuple(before), tuple(after)


def _fill(node: OnnxNode) -> float:
    """The real number to pad with; stored integers are taken in the operand's type."""
    x = node.operand(0)
    if _on_codes(node):
        code = node.optional_array(2)
        if x.fixed is None:
            node.refuse("stored integers of an unknown scale")
        stored = np.array(0) if code is None else code.reshape(()).astype(np.int64)
        value = float(x.fixed.dequantize(stored))
    elif node.has(2):
        node.array(2)
        value = float(constant_array(node.operand(2)).reshape(()))
    else:
        value = node.float("value", 0.0)
    if not math.isfinite(value):
        node.refuse(f"padding with {value}", hint="pad within the pooling that follows")
    return value


def _repeated(
    node: OnnxNode, mode: str, kept: Sequence[range], wide: tuple[Widths, Widths]
) -> list[tuple[int, ...]]:
    """Index maps of a border made of the tensor's own elements."""
    if mode not in ("reflect", "edge", "wrap"):
        node.refuse(f"mode `{mode}`", want="constant, reflect, edge or wrap")
    maps: list[tuple[int, ...]] = []
    for axis, before, after in zip(kept, *wide, strict=True):
        most = {"reflect": len(axis) - 1, "edge": before + after, "wrap": len(axis)}[mode]
        if max(before, after) > most:
            node.refuse(f"{mode} of {max(before, after)} elements on an axis of {len(axis)}")
        index = np.array(axis, np.int64)
        padded = np.pad(index, (before, after), mode=mode) if before or after else index
        maps.append(tuple(padded.tolist()))
    return maps


@dataclass(frozen=True, slots=True)
class IntPad(IntegerOp):
    """The operand in a frame of `code`."""

    stem: ClassVar[str] = "pad"

    before: Widths
    after: Widths
    code: int
    result: FixedType

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """Sizes with both widths added; the type stays."""
        assert inputs[0].elem == self.result, "padding keeps the type"
        shape = zip(self.before, inputs[0].shape, self.after, strict=True)
        return (TensorType(tuple(b + n + a for b, n, a in shape), self.result),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """The operand's and the code."""
        return (inputs[0].interval.union(Interval(self.code, self.code)),)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        widths = list(zip(self.before, self.after, strict=True))
        return (np.pad(inputs[0], widths, constant_values=self.code),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Pad."""
        return (w.pad(inputs[0], self.before, self.after, self.code),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """Fill, then nested loops over the operand; axes without padding are joined."""
        (x,), (y,) = inputs, outputs
        steps = row_major(y.shape)
        offset = sum(b * s for b, s in zip(self.before, steps, strict=True))
        loops: list[tuple[int, int]] = []
        for size, step in zip(x.shape, steps, strict=True):
            if loops and loops[-1][1] == step * size:
                loops[-1] = (loops[-1][0] * size, step)
            elif size > 1:
                loops.append((size, step))
        loops = loops or [(1, 1)]
        if len(loops) > MOST_AXES:
            raise NoIntegerForm(f"padding of {len(loops)} axes", want=f"at most {MOST_AXES}")
        arguments = (
            Buffer("x", x.name, x.elem.storage),
            Buffer("y", y.name, y.elem.storage, written=True),
            Number("count", y.type.size),
            Number("code", self.code),
            Number("offset", offset),
            *(Number(f"n{i}", size) for i, (size, _) in enumerate(loops)),
            *(Number(f"s{i}", step) for i, (_, step) in enumerate(loops)),
        )
        traits = (("rank", f"{len(loops)}d"),)
        return KernelCall(self.stem, arguments, traits, formula=f"y = x in a frame of {self.code}")

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """A store an element of the result, a load and a store an element of the operand."""
        size = inputs[0].type.size
        return Work(loads=size, stores=size + outputs[0].type.size)
