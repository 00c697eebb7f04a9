"""Boxes of a grid of cells, and non-maximum suppression: constants, and what is computed of them.

The network's codes have at most eight bits, so that a function of a code is a table. Corners are
whole sixteenths of a pixel, scores whole parts of 2^30, and two boxes' overlap is compared as a
ratio of whole numbers. The C of `mcu-c/detect.c.j2` gives the same boxes in the same order.

A box is of YOLO (Redmon et al., arXiv 1506.02640): its score is the product of its own and of its
best class's; by falling score, a box is kept if no kept one overlaps it by more than a part of what
both cover.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from binpoint.errors import BadOption
from binpoint.ir.graph import Graph, Value
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import FixedType, IntType, TensorType
from binpoint.options import CompileOptions, Detections

UNITS = 16
"""Of a pixel."""
ONE = 1 << 15
"""A value's score of one; a box's is the product of two."""
FRACTION = 16
"""Bits behind the point of parts of a cell and of an anchor."""
VALUES = 5
"""Of a box: x, y, width, height, sureness."""
FIELDS = ("x0", "y0", "x1", "y1", "kind", "score")
NAME = "detect()"
"""Of the boxes among values; no value of a graph is called so."""

_WIDEST = 8
_FARTHEST = 1 << 28
_LARGEST = (1 << 31) - 1
_EXPONENT = 24.0

Ints = npt.NDArray[np.int64]


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else 1 - 1 / (1 + math.exp(x))


def _exp(x: float) -> float:
    return math.exp(min(x, _EXPONENT))


def _square(x: float) -> float:
    return max(x, 0.0) ** 2


def _wide_place(x: float) -> float:
    return 2 * _sigmoid(x) - 0.5


def _wide_size(x: float) -> float:
    return (2 * _sigmoid(x)) ** 2


_Function = Callable[[float], float]
_PLACES: Mapping[str, _Function] = MappingProxyType(
    {"linear": float, "sigmoid": _sigmoid, "wide-sigmoid": _wide_place}
)
_SIZES: Mapping[str, _Function] = MappingProxyType(
    {"linear": float, "square": _square, "exp": _exp, "wide-sigmoid": _wide_size}
)
_SCORES: Mapping[str, _Function] = MappingProxyType({"linear": float, "sigmoid": _sigmoid})


@dataclass(frozen=True, slots=True)
class Detector:
    """All numbers of the head.

    Attributes:
        output: value of the graph that holds the codes, `index`-th of its outputs.
        grid: rows, columns.
        sides: width and height of the image, in units.
        spans: width and height of a cell, in units, with `FRACTION` bits behind the point.
        steps: elements from a row to the next one, from a column, a box, a value.
        class_start, class_step: element of a cell's first class, and from box to box.
        anchors: width and height for each box, in units.
        places, sizes, shares: by code, from the least one on.
        least: score of a box.
        overlap: numerator and denominator.
        by_class: boxes of several classes do not suppress each other.
    """

    output: str
    index: int
    elem: IntType
    elements: int
    grid: tuple[int, int]
    boxes: int
    classes: int
    sides: tuple[int, int]
    spans: tuple[int, int]
    steps: tuple[int, int, int, int]
    class_start: int
    class_step: int
    anchors: tuple[tuple[int, int], ...]
    places: tuple[int, ...]
    sizes: tuple[int, ...]
    shares: tuple[int, ...]
    least: int
    overlap: tuple[int, int]
    by_class: bool
    limit: int

    @property
    def candidates(self) -> int:
        """Boxes before any is dropped."""
        return self.grid[0] * self.grid[1] * self.boxes

    @property
    def table_bytes(self) -> int:
        """Tables and anchors in flash."""
        return len(self.places) * 10 + self.boxes * 8

    @property
    def value(self) -> Value:
        """The boxes as a value: their number, then six integers for each of `limit`, or zeros."""
        kind = FixedType.per_tensor(IntType(32, signed=True), Dyadic(1, 0))
        return Value(NAME, TensorType((1 + len(FIELDS) * self.limit,), kind))

    def told(self, values: Mapping[str, npt.NDArray[np.integer]]) -> npt.NDArray[np.int32]:
        """What `value` is, for the values of one sample."""
        found = self.detect(values[self.output])
        whole = np.zeros(self.value.type.size, np.int32)
        whole[0] = len(found)
        whole[1 : 1 + found.size] = found.reshape(-1)
        return whole

    def detect(self, codes: npt.NDArray[np.integer]) -> Ints:
        """Rows of `FIELDS` by falling score, of the output's codes ``[…]``.

        Corners are units of a pixel inside of the image; of equal scores the first box in the order
        of rows, columns and boxes comes first.
        """
        entries = codes.astype(np.int64).reshape(-1) - self.elem.min
        places = np.arange(self.candidates)
        cells, box = places // self.boxes, places % self.boxes
        row, column = cells // self.grid[1], cells % self.grid[1]
        start = row * self.steps[0] + column * self.steps[1]
        own = start + box * self.steps[2]
        value = [entries[own + i * self.steps[3]] for i in range(VALUES)]
        first = start + self.class_start + box * self.class_step
        shares = np.array(self.shares, np.int64)
        classes = shares[entries[first[:, None] + np.arange(self.classes) * self.steps[3]]]
        kinds = classes.argmax(axis=1)
        scores = shares[value[4]] * classes.max(axis=1)
        corners = self._corners((column, row), (value[0], value[1]), (value[2], value[3]), box)
        rows = np.stack([*corners, kinds, scores], axis=1)
        order = np.lexsort((places, -scores))
        return self._surest(rows[order[scores[order] >= self.least]])

    def _corners(
        self, cell: Sequence[Ints], centre: Sequence[Ints], extent: Sequence[Ints], box: Ints
    ) -> list[Ints]:
        low: list[Ints] = []
        high: list[Ints] = []
        anchors = np.array(self.anchors, np.int64)
        for axis in range(2):
            part = (cell[axis] << FRACTION) + np.array(self.places, np.int64)[centre[axis]]
            middle = (part * self.spans[axis]) >> (2 * FRACTION)
            factor = np.array(self.sizes, np.int64)[extent[axis]]
            size = (factor * anchors[box, axis]) >> FRACTION
            begin = middle - (size >> 1)
            low.append(np.clip(begin, 0, self.sides[axis]))
            high.append(np.clip(begin + size, 0, self.sides[axis]))
        return [*low, *high]

    def _surest(self, rows: Ints) -> Ints:
        """Non-maximum suppression of sorted rows."""
        kept: list[list[int]] = []
        for row in rows.tolist():
            if len(kept) == self.limit:
                break
            if _area(row) and not any(self._same(k, row) for k in kept):
                kept.append(row)
        return np.array(kept, np.int64).reshape(-1, len(FIELDS))

    def _same(self, a: Sequence[int], b: Sequence[int]) -> bool:
        if self.by_class and a[4] != b[4]:
            return False
        shared = overlap(a, b)
        part, whole = self.overlap
        return shared * whole > part * (_area(a) + _area(b) - shared)


def _area(box: Sequence[int]) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def overlap(a: Sequence[int], b: Sequence[int]) -> int:
    """The area that two boxes x0, y0, x1, y1 share."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0


def detector_of(graph: Graph, options: CompileOptions) -> Detector | None:
    """The head that the options ask for, if any, for the types of an integer graph's outputs.

    Raises:
        BadOption: the output is not there, or its shape or type is none that the head reads.
    """
    asked = options.detections
    if asked is None:
        return None
    names = tuple(graph.output_names or graph.outputs)
    values = [graph.value(name) for name in graph.outputs]
    return build(asked, names, values)


def build(
    asked: Detections, names: Sequence[str], values: Sequence[Value], *, widest: int = _WIDEST
) -> Detector:
    """The head for outputs known by the model's names for them; codes have `widest` bits at most.

    Raises:
        BadOption: see `detector_of`.
    """
    if len(asked.anchors) not in (0, asked.boxes):
        raise BadOption(
            "an anchor belongs to each box of a cell, or none is given",
            at="detections.anchors",
            have=f"{len(asked.anchors)} anchors, {asked.boxes} boxes",
        )
    index = _index(asked, names)
    value = values[index]
    steps, class_start, class_step = _steps(asked, value)
    reals = _reals(value, widest)
    height, width = (side * UNITS for side in asked.image)
    anchors = asked.anchors or ((asked.image[1], asked.image[0]),) * asked.boxes
    rows, columns = asked.grid
    return Detector(
        output=value.name,
        index=index,
        elem=value.elem.storage,
        elements=value.type.size,
        grid=asked.grid,
        boxes=asked.boxes,
        classes=asked.classes,
        sides=(width, height),
        spans=(_span(width, columns), _span(height, rows)),
        steps=steps,
        class_start=class_start,
        class_step=class_step,
        anchors=tuple((_rounded(w * UNITS), _rounded(h * UNITS)) for w, h in anchors),
        places=_table(reals, _PLACES[asked.place], 1 << FRACTION, (-_FARTHEST, _FARTHEST)),
        sizes=_table(reals, _SIZES[asked.size], 1 << FRACTION, (0, _LARGEST)),
        shares=_table(reals, _SCORES[asked.score], ONE, (0, ONE)),
        least=math.ceil(Fraction(repr(asked.confidence)) * ONE * ONE),
        overlap=_ratio(asked.overlap),
        by_class=asked.suppress == "class",
        limit=asked.limit,
    )


def _index(asked: Detections, names: Sequence[str]) -> int:
    if asked.output is None and len(names) == 1:
        return 0
    if asked.output is None or asked.output not in names:
        raise BadOption(
            "the boxes' output is not told" if asked.output is None else "no such output",
            at="detections.output",
            have=asked.output,
            want=" or ".join(f"`{name}`" for name in names),
        )
    return names.index(asked.output)


def _steps(asked: Detections, value: Value) -> tuple[tuple[int, int, int, int], int, int]:
    """Elements from row to row, column, box, value; those of classes, see `Detector`."""
    (rows, columns), boxes, own = asked.grid, asked.boxes, VALUES + asked.classes
    shared = asked.shared_classes
    axes = {"row": rows, "column": columns, "box": boxes, "value": own}
    if shared:
        axes = {"row": rows, "column": columns, "value": boxes * VALUES + asked.classes}
    if shared and asked.order == "boxes":
        raise BadOption(
            "an axis of boxes comes first, but they share their classes",
            at="detections.order",
            want="cells or channels",
        )
    order = _ORDERS[asked.order]
    if not _joins([axes[a] for a in order if a in axes], value.shape):
        raise BadOption(
            f"the output `{value.source or value.name}` is not laid out as the boxes are told",
            at="detections",
            have=f"shape {list(value.shape)}",
            want=" by ".join(f"{axes[a]} ({a}s)" for a in order if a in axes),
            hint=_fitting(axes, value.shape, shared=shared),
        )
    steps: dict[str, int] = {}
    step = 1
    for axis in reversed([a for a in order if a in axes]):
        steps[axis] = step
        step *= axes[axis]
    each = steps["value"]
    if shared:
        return (steps["row"], steps["column"], VALUES * each, each), boxes * VALUES * each, 0
    box = steps["box"]
    return (steps["row"], steps["column"], box, each), VALUES * each, box


_ORDERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "cells": ("row", "column", "box", "value"),
        "channels": ("box", "value", "row", "column"),
        "boxes": ("box", "row", "column", "value"),
    }
)


def _joins(fine: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether a shape has these axes in this order, some joined with their neighbours."""
    ends = set(np.cumprod(fine).tolist())
    return math.prod(shape) == math.prod(fine) and all(
        end in ends or end == 1 for end in np.cumprod(shape).tolist()
    )


def _fitting(axes: Mapping[str, int], shape: Sequence[int], *, shared: bool) -> str | None:
    fits = [
        name
        for name, order in _ORDERS.items()
        if not (shared and name == "boxes") and _joins([axes[a] for a in order if a in axes], shape)
    ]
    return f"detections.order may be {' or '.join(fits)}" if fits else None


def _reals(value: Value, widest: int) -> list[float]:
    """What each code stands for, from the least one on."""
    kind = value.elem
    if kind.storage.width > widest or kind.axis is not None or value.reading is not None:
        raise BadOption(
            f"the output `{value.source or value.name}` has a type that boxes are not read from",
            at="detections",
            have=str(kind),
            want=f"one scale, and at most {widest} bits",
            hint="let a quantizer of the whole output be the model's last node",
        )
    zero, scale = kind.zero_point, float(kind.scale)
    codes = range(kind.storage.min, kind.storage.max + 1)
    return [(code - zero) * scale for code in codes]


def _table(
    reals: Sequence[float],
    function: _Function,
    one: int,
    ends: tuple[int, int],
) -> tuple[int, ...]:
    return tuple(min(max(_rounded(function(x) * one), ends[0]), ends[1]) for x in reals)


def _rounded(x: float | Fraction) -> int:
    """The nearest integer, half up."""
    return math.floor(x + Fraction(1, 2))


def _span(side: int, cells: int) -> int:
    """A side of a cell with `FRACTION` bits behind the point."""
    return _rounded(Fraction(side << FRACTION, cells))


def _ratio(part: float) -> tuple[int, int]:
    """A decimal as a ratio of whole numbers below 2^31."""
    exact = Fraction(repr(part))
    if exact.denominator > _LARGEST:
        raise BadOption(
            "the overlap has too many digits", at="detections.overlap", have=repr(part),
            want="at most nine behind the point",
        )  # fmt: skip
    return exact.numerator, exact.denominator
