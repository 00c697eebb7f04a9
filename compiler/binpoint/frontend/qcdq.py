"""Codes of QuantizeLinear as exact steps, and Clip of them, as Brevitas's QCDQ has it."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np

from binpoint.frontend.exact import apply
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.numeric.fixed import FixedType, IntType
from binpoint.numeric.monotone import Clip, Step
from binpoint.ops.rational import Quantizer, Rational, rounding


def quantize_linear(node: OnnxNode, build: GraphBuilder, kind: FixedType) -> Value:
    """A computed tensor rounded to codes, exactly."""
    x = node.operand(0)
    quantizer = Quantizer(kind, kind.storage.min, kind.storage.max)
    axis = kind.axis
    if axis is not None:
        quantizer = replace(quantizer, type=replace(kind, axis=len(x.shape) - 1))
    return apply(build, x, Rational(rounding(quantizer), quantizer), axis)


def clip_codes(node: OnnxNode, build: GraphBuilder, *, alone: bool) -> Value:
    """Codes in a narrower range, and the narrower type that this makes.

    `alone` tells that nobody else reads the codes as they were.
    """
    x = node.operand(0)
    kind = x.fixed
    if kind is None:
        node.refuse("codes of unknown type", hint="clip what QuantizeLinear gives")
    lo, hi = kind.storage.min, kind.storage.max
    for index, name in ((1, "min"), (2, "max")):
        array = node.optional_array(index)
        bound = node.attribute(name) if array is None else array.reshape(-1)[0]
        if bound is not None:
            lo, hi = (max(lo, int(bound)), hi) if index == 1 else (lo, min(hi, int(bound)))
    if lo > hi:
        node.refuse("an empty range of codes", have=f"{lo} to {hi}")
    narrow = _narrowed(kind, lo, hi)
    if x.constant is not None:
        return build.constant(np.clip(x.constant.array, lo, hi), fixed=narrow, hint=x.name)
    quantizer = Quantizer(narrow, lo, hi)
    producer = build.graph.producer(x.name)
    if alone and producer is not None and isinstance(producer.op, Rational):
        steps = tuple(_clipped(s, lo, hi) for s in producer.op.steps)
        build.graph.replace(replace(producer, op=Rational(steps, quantizer)))
        narrowed = replace(x, fixed=narrow)
        build.graph.set_value(narrowed)
        return narrowed
    return apply(build, x, Rational(rounding(quantizer), quantizer), kind.axis)


def _clipped(step: Step, lo: int, hi: int) -> Step:
    return Clip(Fraction(lo), Fraction(hi)) if isinstance(step, Clip) else step


def _narrowed(kind: FixedType, lo: int, hi: int) -> FixedType:
    """The narrowest type of the same sign for codes of a range, and the zero point."""
    low, high = min(lo, *kind.zero_points), max(hi, *kind.zero_points)
    for width in range(1, kind.storage.width + 1):
        storage = IntType(width, kind.storage.signed)
        if storage.min <= low and high <= storage.max:
            return kind.with_storage(storage)
    return kind
