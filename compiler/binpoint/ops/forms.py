"""Forms: how a requantizer is emitted, and the epilogue that a kernel stores through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from binpoint.ir.constant import Constant
from binpoint.ir.kernel import Argument, Epilogue, Number, Table
from binpoint.numeric.exact import ExactScale
from binpoint.numeric.fixed import I8, I32, I64, U8, IntType
from binpoint.numeric.mulshift import MulShift

U16 = IntType(16, signed=False)
U32 = IntType(32, signed=False)
_WORD_BITS = 32
_WORD = 2**_WORD_BITS
_SPARE = 31 - 24


@dataclass(frozen=True, slots=True)
class Form:
    """How a requantizer is emitted, with its constants: one entry per channel, or one for all.

    ``mulshift``: multipliers, shifts, and offsets; no offsets where half of 2^shift plus the zero
    point is meant. ``exact``: mantissas, shifts, and the window of `numeric.exact.ExactScale`.
    ``mixed``: each channel one of the two; a window of zero marks the first. ``thresholds``: a row
    of them a channel, and signs where the result falls as the sum rises. ``even``: as mulshift,
    ties to even. ``wide``: as mulshift, multipliers of up to 62 bits; ``wider``: products of two
    words, whose offsets and shifts count from the upper one. ``fpu``: the bits of float32 scales.
    """

    name: str
    multipliers: tuple[int, ...] = ()
    shifts: tuple[int, ...] = ()
    offsets: tuple[int, ...] = ()
    thresholds: tuple[tuple[int, ...], ...] = ()
    window: int = 0
    windows: tuple[int, ...] = ()
    signs: tuple[int, ...] = ()

    def counts(self, channels: int) -> dict[str, int]:
        """How many of `channels` channels take which form."""
        if self.name != "mixed":
            return {self.name: channels}
        proved = self.windows.count(0)
        return {"mulshift": proved, "exact": len(self.windows) - proved}


def mixed(proofs: Sequence[MulShift | None], exact: Sequence[ExactScale], zero: int) -> Form | None:
    """Proved channels as mulshift, the others exact; None where one does not fit the high word.

    All offsets are without the zero point, in units of the high word.
    """
    rows: list[tuple[int, int, int, int]] = []
    for proof, scale in zip(proofs, exact, strict=True):
        row = _exact_row(scale) if proof is None else _proved_row(proof, zero)
        if row is None:
            return None
        rows.append(row)
    multipliers, shifts, offsets, windows = (tuple(c) for c in zip(*rows, strict=True))
    return Form("mixed", multipliers, shifts, offsets, windows=windows)


def _proved_row(proof: MulShift, zero: int) -> tuple[int, int, int, int] | None:
    if proof.shift <= _WORD_BITS or proof.offset % _WORD:
        return None
    shift = proof.shift - _WORD_BITS
    return proof.multiplier, shift, proof.offset // _WORD - (zero << shift), 0


def _exact_row(scale: ExactScale) -> tuple[int, int, int, int] | None:
    shift = scale.shift + _SPARE - _WORD_BITS
    window = 1 << max(shift - scale.window, 0)
    if shift < 1 or window > np.iinfo(np.uint16).max:
        return None
    return scale.mantissa << _SPARE, shift, (1 << (shift - 1)) + window, window


def epilogue(form: Form, zero: int, result: IntType, lo: int, hi: int) -> Epilogue:
    """The last step of a kernel: from an int32 sum to a stored result."""
    many = max(len(form.multipliers), len(form.thresholds)) > 1
    last = (Number("lo", lo), Number("hi", hi))
    match form.name:
        case "thresholds":
            table = Constant(np.array(form.thresholds, np.int64).astype(np.int32))
            levels = Number("levels", len(form.thresholds[0]))
            arguments = (Table("thresholds", table, I32), levels, Number("lo", lo))
            if not form.signs:
                return Epilogue("thresholds", many, arguments, result)
            sign = _column("sign", form.signs, many, I8, "int32_t")
            return Epilogue("thresholds_signed", many, (sign, *arguments), result)
        case "even":
            offset = _column("offset", form.offsets, many, I64, "int64_t")
            return Epilogue("even", many, (*_scale(form, many), offset, *last), result)
        case "wide" | "wider":
            scale = _column("multiplier", form.multipliers, many, I64, "int64_t")
            shift = _column("shift", form.shifts, many, U8, "uint32_t")
            offset = _column("offset", form.offsets, many, I64, "int64_t")
            return Epilogue(form.name, many, (scale, shift, offset, *last), result)
        case "fpu":
            scale = _column("multiplier", form.multipliers, many, U32, "uint32_t")
            return Epilogue("fpu", many, (scale, Number("zero", zero), *last), result)
        case "mixed":
            window = _column("window", form.windows, many, U16, "int32_t")
            rest = (_column("offset", form.offsets, many, I32, "int32_t"), window)
            arguments = (*_scale(form, many), *rest, Number("zero", zero), *last)
            return Epilogue("mixed", many, arguments, result)
        case "exact":
            name, form, window = _exact(form)
            arguments = (*_scale(form, many), Number("zero", zero), window, *last)
            return Epilogue(name, many, arguments, result)
        case _:
            return _mulshift(form, many, zero, result, last)


def _exact(form: Form) -> tuple[str, Form, Number]:
    """The exact form, in the high word where all shifts reach it."""
    if min(form.shifts) < _WORD_BITS + 1 - _SPARE:
        return "exact", form, Number("window", form.window, "uint32_t")
    # 24-bit mantissas moved up by seven bits bring the binary point into the high word.
    shifts = tuple(s + _SPARE - _WORD_BITS for s in form.shifts)
    multipliers = tuple(m << _SPARE for m in form.multipliers)
    window = max(1, *(1 << max(s - form.window, 0) for s in shifts))
    moved = replace(form, multipliers=multipliers, shifts=shifts)
    return "exacthi", moved, Number("window", window)


def _mulshift(
    form: Form, many: bool, zero: int, result: IntType, last: tuple[Number, ...]
) -> Epilogue:
    """The mulshift form, in the high word where all shifts and offsets allow it."""
    high = min(form.shifts) > _WORD_BITS and not any(o % _WORD for o in form.offsets)
    if high:
        shifts = tuple(s - _WORD_BITS for s in form.shifts)
        form = replace(form, shifts=shifts, offsets=tuple(o // _WORD for o in form.offsets))
    name = "mulhi" if high else "mulshift"
    if not form.offsets:
        arguments = (*_scale(form, many), Number("zero", zero), *last)
        return Epilogue(name, many, arguments, result)
    kind = ("offset", form.offsets, many, *((I32, "int32_t") if high else (I64, "int64_t")))
    return Epilogue(f"{name}_offset", many, (*_scale(form, many), _column(*kind), *last), result)


def _scale(form: Form, many: bool) -> tuple[Argument, Argument]:
    return (
        _column("multiplier", form.multipliers, many, I32, "int32_t"),
        _column("shift", form.shifts, many, U8, "uint32_t"),
    )


def _column(name: str, numbers: tuple[int, ...], many: bool, elem: IntType, kind: str) -> Argument:
    """Constants of all channels: a table, or a literal where there is one for all."""
    if not many:
        return Number(name, numbers[0], kind)
    return Table(name, Constant(np.array(numbers, elem.dtype)), elem)
