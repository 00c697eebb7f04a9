"""Einsum: read as the transpositions, sums and products that it is made of.

Operands are joined from left to right. Letters that nobody needs any more are summed: in one
operand by a sum, in two by a matrix product over them; letters of both that stay are its batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.op import Reader
from binpoint.ops.dense import matrix_product
from binpoint.ops.elementwise import Kind, arithmetic
from binpoint.ops.reduce import Reduce
from binpoint.ops.shape import reshape_value, transpose_value
from binpoint.ops.slices import take_value

_REST = "αβγδεζηθ"
"""Letters for the axes of an ellipsis, the last one last."""


class Einsum(Reader):
    """Sums of products over named axes; read as the ops that this is made of."""

    onnx: ClassVar[tuple[str, ...]] = ("Einsum",)

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """A letter twice in an operand is its diagonal."""
        operands = [node.operand(i) for i in range(len(node.inputs))]
        terms, wanted = _parsed(node, operands)
        named = (_Named(v, t) for v, t in zip(operands, terms, strict=True))
        parts = [n.diagonal(build) for n in named]
        joined = parts[0].summed(build, wanted + "".join(terms[1:]))
        for index, part in enumerate(parts[1:], start=1):
            needed = wanted + "".join(terms[index + 1 :])
            joined = _joined(node, build, joined, part, needed)
        return (joined.ordered(build, wanted),)


@dataclass(frozen=True, slots=True)
class _Named:
    """A value, and a letter for each of its axes."""

    value: Value
    letters: str

    def diagonal(self, build: GraphBuilder) -> _Named:
        """Each letter once."""
        twice = next((n for n in self.letters if self.letters.count(n) > 1), None)
        if twice is None:
            return self
        both = [i for i, letter in enumerate(self.letters) if letter == twice][:2]
        others = [i for i in range(len(self.letters)) if i not in both]
        kept, size = [self.value.shape[i] for i in others], self.size(twice)
        square = transpose_value(build, self.value, [*others, *both])
        row = reshape_value(build, square, [*kept, size * size])
        maps = [*(range(n) for n in kept), range(0, size * size, size + 1)]
        letters = "".join(self.letters[i] for i in others) + twice
        return _Named(take_value(build, row, maps), letters).diagonal(build)

    def summed(self, build: GraphBuilder, needed: str) -> _Named:
        """Without the letters that are not needed."""
        axes = tuple(i for i, letter in enumerate(self.letters) if letter not in needed)
        if not axes:
            return self
        y = build.one(Reduce(axes, mean=False), self.value)
        kept = [i for i in range(len(self.letters)) if i not in axes]
        y = reshape_value(build, y, [self.value.shape[i] for i in kept])
        return _Named(y, "".join(self.letters[i] for i in kept))

    def ordered(self, build: GraphBuilder, letters: str) -> Value:
        """The value with its axes in the order of `letters`."""
        return transpose_value(build, self.value, [self.letters.index(n) for n in letters])

    def spread(self, build: GraphBuilder, letters: str) -> Value:
        """The same with axes of size one for letters that it does not have."""
        own = "".join(n for n in letters if n in self.letters)
        shape = [self.size(n) if n in self.letters else 1 for n in letters]
        return reshape_value(build, self.ordered(build, own), shape)

    def matrices(self, build: GraphBuilder, batch: str, rows: str, columns: str) -> Value:
        """As ``[batch, rows, columns]``, without the first axis if there are no batches."""
        shape = [math.prod(self.size(n) for n in group) for group in (batch, rows, columns)]
        ordered = self.ordered(build, batch + rows + columns)
        return reshape_value(build, ordered, shape if batch else shape[1:])

    def size(self, letter: str) -> int:
        """Of the axis of this letter."""
        return self.value.shape[self.letters.index(letter)]


def _joined(node: OnnxNode, build: GraphBuilder, a: _Named, b: _Named, needed: str) -> _Named:
    """The product of two operands, summed over what is not needed."""
    a, b = a.summed(build, needed + b.letters), b.summed(build, needed + a.letters)
    both = [n for n in a.letters if n in b.letters]
    batch = "".join(n for n in both if n in needed)
    inner = "".join(n for n in both if n not in needed)
    left, right = ("".join(n for n in x.letters if n not in both) for x in (a, b))
    letters = batch + left + right
    if not inner:
        pair = (x.spread(build, letters) for x in (a, b))
        return _Named(arithmetic(node, build, Kind.MUL, *pair), letters)
    rows = a.matrices(build, batch, left, inner)
    y = matrix_product(node, build, rows, b.matrices(build, batch, inner, right))
    sizes = [(a if n in a.letters else b).size(n) for n in letters]
    return _Named(reshape_value(build, y, sizes), letters)


def _parsed(node: OnnxNode, operands: Sequence[Value]) -> tuple[list[str], str]:
    """Letters of each operand and of the result, those of an ellipsis included."""
    given = node.string("equation", "").replace(" ", "")
    left, arrow, right = given.partition("->")
    terms = left.split(",")
    if len(terms) != len(operands):
        node.refuse(f"equation `{given}` for {len(operands)} operands")
    ranks = [len(v.shape) - len(t.replace("...", "")) for v, t in zip(operands, terms, strict=True)]
    if any(rank and "..." not in term for rank, term in zip(ranks, terms, strict=True)):
        node.refuse(f"equation `{given}` does not fit the ranks of the operands")
    if min(ranks) < 0 or max(ranks) > len(_REST):
        node.refuse(f"equation `{given}` does not fit the ranks of the operands")
    spelled = [t.replace("...", _REST[len(_REST) - r :]) for t, r in zip(terms, ranks, strict=True)]
    if arrow:
        wanted = right.replace("...", _REST[len(_REST) - max(ranks) :])
    else:
        every = "".join(spelled)
        wanted = "".join(sorted(n for n in set(every) if n in _REST or every.count(n) == 1))
    if len(set(wanted)) < len(wanted) or not set(wanted) <= set("".join(spelled)):
        node.refuse(f"equation `{given}`: a letter of the result twice, or in no operand")
    _check_sizes(node, given, operands, spelled)
    return spelled, wanted


def _check_sizes(
    node: OnnxNode, given: str, operands: Sequence[Value], terms: Sequence[str]
) -> None:
    sizes: dict[str, int] = {}
    for value, term in zip(operands, terms, strict=True):
        for letter, size in zip(term, value.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                node.refuse(
                    f"equation `{given}`: axes of one letter differ",
                    have=f"{sizes[letter]} and {size}",
                    hint="expand them before export",
                )
