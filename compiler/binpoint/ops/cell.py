"""One step of a recurrent layer in integers, repeated over all steps.

Of the state h (codes of 2^-F), the sums a of the input in steps of 2^-f, and s = ⌊(R·h + b)·m/2^s⌉
in the same steps, with ⌊x⌉ = ⌊x + 1/2⌋ throughout:

    gate(u): v = clamp(u, −8·2^f, 8·2^f − 1) + 8·2^f,  i = v >> k,  k = f − 5
             t[i] + ⌊(t[i+1] − t[i])·(v mod 2^k) / 2^k⌉      512 segments, 16-bit ends in 2^-15

    RNN      h' = ⌊tanh(a + s)⌉
    GRU      z = σ(a_z + s_z), r = σ(a_r + s_r), n = tanh(a_n + ⌊r·s_n⌉); with the reset before the
             product, s_n is of R_n·clamp(⌊r·h⌉) instead
             h' = ⌊z·h + (1 − z)·n⌉
    LSTM     c' = clamp(⌊f·c + ⌊i·g⌋⌉), ⌊i·g⌋ rounded down to 2^-15 of c's step
             h' = ⌊o·tanh(c')⌉

Everything is rounded once to its own type: gates to 2^-15, c to its 16 bits, h to its F bits. A
straight segment is off by at most (1/32)²/8·max|t″|: 10^-4 for tanh, 10^-5 for the sigmoid; outside
of ±8 both are off by 3.4·10^-4 at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import numpy as np

from binpoint.ir.graph import Value
from binpoint.ir.kernel import Buffer, KernelCall, Number, Work
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import IntArray, IntegerOp
from binpoint.numeric.fixed import I32, FixedType, TensorType
from binpoint.numeric.interval import Interval

UNIT = 1 << 15
"""One, in the steps of gates."""
REACH = 8
"""Where tables end, on either side."""
SEGMENTS = 512
SEGMENT_BITS = 5
"""A segment is 2^-5 wide."""
_BITS = 15


class Cell(StrEnum):
    """What a step computes."""

    RNN = "rnn"
    GRU = "gru"
    LSTM = "lstm"

    @property
    def gates(self) -> int:
        """Rows of each matrix for one element of the state."""
        return {Cell.RNN: 1, Cell.GRU: 3, Cell.LSTM: 4}[self]


@dataclass(frozen=True, slots=True)
class IntRecurrent(IntegerOp):
    """All steps of a layer.

    Operands: a ``[T, B, G·H]``, R ``[G·H, H]``, its bias and factors ``[G·H]``, the initial state
    ``[B, H]``, for an LSTM that of the cell, and a table for each function. Results: the states of
    all steps ``[T, B, H]``, or with `sequence` off the last ``[B, H]``; with `keeps` the last of
    the cell. `backwards` tells that the first step is the last in time.
    """

    stem: ClassVar[str] = "recurrent"

    cell: Cell
    before: bool
    sequence: bool
    keeps: bool
    fraction: int
    shift: int
    state: FixedType
    memory: FixedType
    backwards: bool = False
    notes: tuple[str, ...] = ()

    @property
    def state_bits(self) -> int:
        """F."""
        return -self.state.scale.exponent

    @property
    def memory_bits(self) -> int:
        """Fraction bits of the cell's state."""
        return -self.memory.scale.exponent

    @property
    def kind(self) -> str:
        """Name of the form of a step."""
        return "gru_before" if self.before else str(self.cell)

    def starts(self, inputs: Sequence[Value]) -> dict[str, Value]:
        """Initial states by the kernel's name for them."""
        names = ("start", "memory") if self.cell is Cell.LSTM else ("start",)
        return dict(zip(names, inputs[4:], strict=False))

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """All states, or the last one."""
        a, r, _, _, h = inputs[:5]
        assert a.shape[1:] == (h.shape[0], r.shape[0]), f"{a.shape} for {r.shape}"
        assert h.elem == self.state, f"{h.elem} for {self.state}"
        shape = (a.shape[0], *h.shape) if self.sequence else h.shape
        kinds = [TensorType(shape, self.state), TensorType(h.shape, self.memory)]
        return tuple(kinds[: 1 + self.keeps])

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """The whole range of the types; proves that sums and pre-activations fit."""
        r, bias = (v.constant for v in inputs[1:3])
        assert r is not None
        assert bias is not None
        most = np.abs(r.array.astype(np.int64)).sum(axis=1) * -self.state.storage.min
        most += np.abs(bias.array.astype(np.int64))
        assert int(most.max()) < 2**31, "a sum leaves 32 bits"
        assert SEGMENT_BITS <= self.fraction <= 12, "no table for these steps"
        storages = (self.state.storage, self.memory.storage)
        return tuple(Interval.of_type(s) for s in storages[: 1 + self.keeps])

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        a, r, bias, factors, h, *rest = inputs
        c = rest.pop(0) if self.cell is Cell.LSTM else np.zeros_like(h)
        states: list[IntArray] = []
        for row in a:
            h, c = self._step(row, (r, bias, factors), h, c, rest)
            states.append(h)
        return (np.stack(states) if self.sequence else h, *[c] * self.keeps)

    def _step(
        self,
        a: IntArray,
        weights: tuple[IntArray, IntArray, IntArray],
        h: IntArray,
        c: IntArray,
        tables: Sequence[IntArray],
    ) -> tuple[IntArray, IntArray]:
        n, f = h.shape[1], self.fraction
        parts = [slice(k * n, k * n + n) for k in range(a.shape[1] // n)]
        s = self._sums(h, *weights)
        match self.cell:
            case Cell.RNN:
                return self._stored(gate(a + s, tables[0], f), 1), c
            case Cell.GRU:
                z, reset = (gate(a[:, p] + s[:, p], tables[0], f) for p in parts[:2])
                product = rounded(reset * s[:, parts[2]], _BITS)
                if self.before:
                    product = self._sums(self._clamped(rounded(reset * h, _BITS)), *(
                        v[parts[2]] for v in weights
                    ))  # fmt: skip
                new = gate(a[:, parts[2]] + product, tables[1], f)
                wide = h << (_BITS - self.state_bits)
                return self._stored(z * wide + (UNIT - z) * new, 2), c
            case Cell.LSTM:
                i, o, keep = (gate(a[:, p] + s[:, p], tables[0], f) for p in parts[:3])
                new = gate(a[:, parts[3]] + s[:, parts[3]], tables[1], f)
                c = rounded(keep * c + (i * new >> (_BITS - self.memory_bits)), _BITS)
                c = np.clip(c, self.memory.storage.min, self.memory.storage.max)
                return self._stored(o * gate(c, tables[2], self.memory_bits), 2), c

    def _sums(self, h: IntArray, r: IntArray, bias: IntArray, factors: IntArray) -> IntArray:
        # Exact: sums stay below 2^31.
        acc = (h.astype(np.float64) @ r.T.astype(np.float64)).astype(np.int64) + bias
        return rounded(acc * factors, self.shift)

    def _clamped(self, h: IntArray) -> IntArray:
        return np.clip(h, self.state.storage.min, self.state.storage.max)

    def _stored(self, h: IntArray, units: int) -> IntArray:
        """A product of so many numbers in steps of 2^-15 as the state."""
        return self._clamped(rounded(h, units * _BITS - self.state_bits))

    # ---- onnxruntime

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """A Scan over the steps."""
        a, r, bias, factors, h, *rest = inputs
        c = [rest.pop(0)] if self.cell is Cell.LSTM else []
        turned = w.transpose(r, (1, 0))

        def step(states: Sequence[Tensor], row: Tensor) -> tuple[list[Tensor], Tensor]:
            found = self._onnx_step(w, row, (turned, bias, factors), states, rest)
            return found, found[0]

        storages = (self.state.storage, self.memory.storage)
        ranges = [Interval.of_type(s) for s in storages[: 1 + len(c)]]
        final, stacked = w.scan(step, [h, *c], ranges, a)
        return (stacked if self.sequence else final[0], *final[1:][: int(self.keeps)])

    def _onnx_step(
        self,
        w: OnnxWriter,
        a: Tensor,
        weights: tuple[Tensor, Tensor, Tensor],
        states: Sequence[Tensor],
        tables: Sequence[Tensor],
    ) -> list[Tensor]:
        h, f = states[0], self.fraction
        s = self._onnx_sums(w, h, *weights)
        count = a.shape[1] // h.shape[1]
        total = [w.add(_part(w, a, k, count), _part(w, s, k, count)) for k in range(count)]
        match self.cell:
            case Cell.RNN:
                return [self._onnx_stored(w, _onnx_gate(w, total[0], tables[0], f), 1)]
            case Cell.GRU:
                z, reset = (_onnx_gate(w, u, tables[0], f) for u in total[:2])
                product = _onnx_rounded(w, w.mul(reset, _part(w, s, 2, count)), _BITS)
                if self.before:
                    inner = self._onnx_clamped(w, _onnx_rounded(w, w.mul(reset, h), _BITS))
                    product = self._onnx_sums(w, inner, *(_tail(w, v) for v in weights))
                new = _onnx_gate(w, w.add(_part(w, a, 2, count), product), tables[1], f)
                wide = w.mul(h, w.const(1 << (_BITS - self.state_bits)))
                mixed = w.add(w.mul(z, wide), w.mul(w.sub(w.const(UNIT), z), new))
                return [self._onnx_stored(w, mixed, 2)]
            case Cell.LSTM:
                i, o, keep = (_onnx_gate(w, u, tables[0], f) for u in total[:3])
                new = _onnx_gate(w, total[3], tables[1], f)
                added = w.floor_shift(w.mul(i, new), _BITS - self.memory_bits)
                c = _onnx_rounded(w, w.add(w.mul(keep, states[1]), added), _BITS)
                c = w.clamp(c, self.memory.storage.min, self.memory.storage.max)
                out = w.mul(o, _onnx_gate(w, c, tables[2], self.memory_bits))
                return [self._onnx_stored(w, out, 2), c]

    def _onnx_sums(
        self, w: OnnxWriter, h: Tensor, r: Tensor, bias: Tensor, factors: Tensor
    ) -> Tensor:
        bound = (h.range * r.range * r.shape[0]).union(Interval(0, 0))
        acc = w.add(w.matmul(h, r, bound), bias)
        acc = Tensor(acc.name, acc.shape, Interval.of_type(I32))  # proved by `bounds`
        return _onnx_rounded(w, w.mul(acc, factors), self.shift)

    def _onnx_clamped(self, w: OnnxWriter, h: Tensor) -> Tensor:
        return w.clamp(h, self.state.storage.min, self.state.storage.max)

    def _onnx_stored(self, w: OnnxWriter, h: Tensor, units: int) -> Tensor:
        return self._onnx_clamped(w, _onnx_rounded(w, h, units * _BITS - self.state_bits))

    # ---- code

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """A loop over steps; the states of all steps are stored, or one again and again."""
        a, _, _, _, h = inputs[:5]
        batch, hidden = h.shape
        names = (
            "a",
            "r",
            "bias",
            "factors",
            *self.starts(inputs),
            *(f"table{i}" for i in range(3)),
        )
        operands = [Buffer(n, v.name, v.elem.storage) for n, v in zip(names, inputs, strict=False)]
        results = [
            Buffer(n, v.name, v.elem.storage, written=True)
            for n, v in zip(("y", "cell"), outputs, strict=False)
        ]
        steps, gates = a.shape[0], a.shape[2]
        numbers = (
            Number("steps", steps),
            Number("batch", batch),
            Number("hidden", hidden),
            Number("pitch", batch * hidden if self.sequence else 0),
            Number("fraction", self.fraction, "uint32_t"),
            Number("shift", self.shift, "uint32_t"),
            Number("state_bits", self.state_bits, "uint32_t"),
            Number("lo", self.state.storage.min),
            Number("hi", self.state.storage.max),
        )
        if self.cell is Cell.LSTM:
            numbers = (*numbers, Number("memory_bits", self.memory_bits, "uint32_t"))
        scratch = 4 * gates
        if self.before:
            scratch += hidden * self.state.storage.dtype.itemsize
        if self.cell is Cell.LSTM and not self.keeps:
            scratch += batch * hidden * self.memory.storage.dtype.itemsize
        traits = (("cell", self.kind), ("kept", "kept" if self.keeps else ""))
        formula = {
            Cell.RNN: "h = tanh(a + R h)",
            Cell.GRU: "h = z h + (1 - z) tanh(a + r R h)",
            Cell.LSTM: "c = f c + i g; h = o tanh(c)",
        }[self.cell]
        return KernelCall(
            self.stem, (*operands, *results, *numbers), traits, formula=formula, scratch=scratch
        )

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """The products of R, and two look-ups a gate."""
        a, r = inputs[:2]
        size = a.type.size
        return Work(
            macs=size * r.shape[1], loads=size, lookups=2 * size, stores=size, notes=self.notes
        )


def rounded(x: IntArray, bits: int) -> IntArray:
    """⌊x / 2^bits⌉, halves up."""
    return (x + ((1 << bits) >> 1)) >> bits


def gate(u: IntArray, table: IntArray, fraction: int) -> IntArray:
    """A function of u, in steps of 2^-fraction, by straight segments."""
    reach, bits = REACH << fraction, fraction - SEGMENT_BITS
    v = np.clip(u, -reach, reach - 1) + reach
    index = v >> bits
    part = v - (index << bits)
    return table[index] + rounded((table[index + 1] - table[index]) * part, bits)


def _onnx_rounded(w: OnnxWriter, x: Tensor, bits: int) -> Tensor:
    half = (1 << bits) >> 1
    return w.floor_shift(w.add(x, w.const(half)) if half else x, bits)


def _onnx_gate(w: OnnxWriter, u: Tensor, table: Tensor, fraction: int) -> Tensor:
    reach, bits = REACH << fraction, fraction - SEGMENT_BITS
    v = w.add(w.clamp(u, -reach, reach - 1), w.const(reach))
    index = w.floor_shift(v, bits)
    part = w.sub(v, w.mul(index, w.const(1 << bits)))
    part = Tensor(part.name, part.shape, Interval(0, (1 << bits) - 1))
    low = _entry(w, table, index)
    step = w.sub(_entry(w, table, w.add(index, w.const(1))), low)
    found = w.add(low, _onnx_rounded(w, w.mul(step, part), bits))
    # Between two entries.
    return Tensor(found.name, found.shape, table.range)


def _entry(w: OnnxWriter, table: Tensor, index: Tensor) -> Tensor:
    return w.emit("Gather", [table.name, index.name], index.shape, table.range, axis=0)


def _part(w: OnnxWriter, x: Tensor, index: int, count: int) -> Tensor:
    """One gate of all that lie side by side."""
    rows, size = x.shape[0], x.shape[1] // count
    return w.strided(x, [0, index * size], [rows, index * size + size], [1, 1])


def _tail(w: OnnxWriter, x: Tensor) -> Tensor:
    """The last third of the last axis."""
    *rest, size = x.shape
    starts, stops = [*[0] * len(rest), size // 3 * 2], [*rest, size]
    return w.strided(x, starts, stops, [1] * len(x.shape))
