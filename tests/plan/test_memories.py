"""Units keep the distances that the templates state for their memories, and never lose a word."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from binpoint.numeric.fixed import IntType
from binpoint.numeric.interval import Interval
from binpoint.plan import units
from binpoint.plan.store import as_it_is
from binpoint.plan.units import AHEAD

BYTE = IntType(8, signed=True)
TEMPLATES = Path(__file__).parents[2] / "templates" / "fpga-hls" / "ops"
Uses = list[tuple[int, int]]


def _check(written: dict[int, list[int]], uses: Uses, slots: dict[int, int]) -> None:
    """Each use at an iteration of a word: long after it was written, long before it is lost.

    Args:
        written: iterations in which each slot is written, ascending, by slot.
        uses: iteration and word.
        slots: of each word; words are numbered in the order in which they are written.
    """
    order: dict[int, int] = {}
    count: dict[int, int] = {}
    for word, slot in sorted(slots.items()):
        order[word] = count.get(slot, 0)
        count[slot] = order[word] + 1
    for at, word in uses:
        times = written[slots[word]]
        mine = order[word]
        assert at - times[mine] >= AHEAD, "read too soon"
        if mine + 1 < len(times):
            assert times[mine + 1] - at >= AHEAD, "overwritten too soon"


def _by_slot(times: list[int], slots: dict[int, int]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for word, at in enumerate(times):
        found.setdefault(slots[word], []).append(at)
    return found


@st.composite
def windows(draw: st.DrawFn) -> units.Window:
    """Any window that has a result."""
    axes = [
        (
            draw(st.integers(1, 7)),
            draw(st.integers(1, 4)),
            draw(st.integers(1, 4)),
            draw(st.integers(1, 3)),
        )
        for _ in range(2)
    ]
    size, kernel, strides, dilations = zip(*axes, strict=True)
    before = (draw(st.integers(0, kernel[0] - 1)), draw(st.integers(0, kernel[1] - 1)))
    after = tuple(draw(st.integers(0, k - 1)) for k in kernel)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    rest = [n + b + a - s for n, b, a, s in zip(size, before, after, spans, strict=True)]
    assume(min(rest) >= 0)
    outputs = tuple(r // s + 1 for r, s in zip(rest, strides, strict=True))
    return units.Window(
        size=size,
        outputs=outputs,
        kernel=kernel,
        strides=strides,
        dilations=dilations,
        before=before,
        groups=draw(st.integers(1, 3)),
        words=draw(st.integers(1, 3)),
        lanes=1,
        elem=BYTE,
        fill=0,
        images=draw(st.integers(1, 3)),
        together=draw(st.sampled_from([1, kernel[0]])),
    )


def _taken(window: units.Window, image: int, row: int, column: int) -> list[list[int]]:
    """The words, by number, that each word sent for one pixel of results holds."""
    sent: list[list[int]] = []
    rows = [range(window.kernel[0])]
    if window.together == 1:
        rows = [range(k, k + 1) for k in range(window.kernel[0])]
    for group in range(window.groups):
        for some in rows:
            for kx in range(window.kernel[1]):
                x = column * window.strides[1] - window.before[1] + kx * window.dilations[1]
                for word in range(window.words):
                    inside: list[int] = []
                    for ky in some:
                        y = row * window.strides[0] - window.before[0] + ky * window.dilations[0]
                        if 0 <= y < window.size[0] and 0 <= x < window.size[1]:
                            pixel = (image * window.size[0] + y) * window.size[1] + x
                            inside.append((pixel * window.groups + group) * window.words + word)
                    sent.append(inside)
    return sent


@given(windows())
def test_the_ring_of_a_window(window: units.Window) -> None:
    (read,), (sent,) = window.reads(), window.writes()
    total = window.images * window.size[0] * window.row_words
    assert read.size == total
    slots = {
        word: (word // window.row_words % window.size[0] % window.rows_held) * window.row_words
        + word % window.row_words
        for word in range(total)
    }
    uses: Uses = []
    at = iter(sent.tolist())
    for image in range(window.images):
        for row in range(window.outputs[0]):
            for column in range(window.outputs[1]):
                for words in _taken(window, image, row, column):
                    time = next(at)
                    uses += [(time, word) for word in words]
    assert next(at, None) is None
    _check(_by_slot(read.tolist(), slots), uses, slots)


@given(st.data())
def test_the_ring_of_a_copy(data: st.DataObject) -> None:
    sizes = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    strides = tuple(data.draw(st.integers(0, 4)) for _ in sizes)
    offset = data.draw(st.integers(0, 5))
    last = offset + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
    words = last + 1 + data.draw(st.integers(0, 4))
    unit = units.Copy(words, sizes, strides, offset, BYTE, 1)
    (read,), (sent,) = unit.reads(), unit.writes()
    assert read.size == words
    assert sent.size == math.prod(sizes)
    slots = {word: word % unit.ring for word in range(words)}
    uses = list(zip(sent.tolist(), unit.indices().tolist(), strict=True))
    _check(_by_slot(read.tolist(), slots), uses, slots)


@given(st.data())
def test_the_matrix_of_a_product(data: st.DataObject) -> None:
    batches, rows, folds, steps, simd = (data.draw(st.integers(1, 4)) for _ in range(5))
    unit = units.Product(
        batches=batches, rows=rows, depth=steps * simd, columns=folds, zero_a=0, zero_b=0,
        a=BYTE, b=BYTE, left=BYTE, right=BYTE, acc=IntType(24, signed=True),
        product=IntType(16, signed=True), store=as_it_is(Interval(0, 1)), pe=1, simd=simd,
    )  # fmt: skip
    _, loaded = unit.reads()
    (sent,) = unit.writes()
    assert (np.diff(loaded) > 0).all()
    loads = unit.loads
    slots = {word: word // loads % 2 * loads + word % loads for word in range(batches * loads)}
    uses: Uses = []
    for index, end in enumerate(sent.tolist()):
        batch, rest = divmod(index, rows * folds)
        for step in range(steps):
            at = end - (steps - 1 - step)
            words = ((step * simd + lane) * folds + rest % folds for lane in range(simd))
            uses += [(at, batch * loads + word) for word in words]
    _check(_by_slot(loaded.tolist(), slots), uses, slots)


@pytest.mark.parametrize(
    "name", ["window", "window_columns", "copy", "gather", "neighbours", "product"]
)
def test_templates_state_the_distance(name: str) -> None:
    text = (TEMPLATES / f"{name}.hpp.j2").read_text(encoding="utf-8")
    for direction in ("RAW", "WAR"):
        assert f"inter {direction} distance={AHEAD} true" in text
