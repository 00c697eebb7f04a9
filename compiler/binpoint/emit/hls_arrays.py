"""Constant arrays of HLS projects: text, types, and how hardware holds them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.constant import Constant
from binpoint.numeric.digits import parts
from binpoint.numeric.fixed import IntType
from binpoint.numeric.interval import Interval
from binpoint.plan.store import Store, spread

_SMALL_ROM = 64
_PER_LINE = 16
Names = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ArrayView:
    """A constant array: declaration, initialiser, and how it is held in hardware."""

    name: str
    elem: str
    dims: str
    text: str
    pragmas: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a unit adds to its layer's configuration, and how its kernel is called.

    The kernel gets the arrays in `own` as arguments; those of the store are named in its body.
    """

    kernel: str
    constants: dict[str, int]
    types: Names = ()
    own: tuple[ArrayView, ...] = ()
    stored: tuple[ArrayView, ...] = ()
    store: StoreView | None = None
    operand: str = ""
    functions: tuple[tuple[str, str, str], ...] = ()
    sums: SumsView | None = None

    @property
    def arrays(self) -> tuple[ArrayView, ...]:
        """All of them."""
        return self.own + self.stored

    @property
    def settings(self) -> Names:
        """Type and text of each constant, by name."""
        kinds = {name: "int" if abs(v) < 2**31 else "int64_t" for name, v in self.constants.items()}
        return tuple((f"{kinds[n]} {n}", literal(v)) for n, v in self.constants.items())


@dataclass(frozen=True, slots=True)
class SumsView:
    """Sums as statements: numbers of a graph of adders, then the text of each sum."""

    operands: int
    numbers: tuple[str, ...]
    results: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StoreView:
    """A store with its constants as literals or as names of arrays; `at` indexes the arrays."""

    form: str
    lo: int
    hi: int
    at: str = ""
    table: str = ""
    paren_low: str = ""
    thresholds: str = ""
    sign: str = ""
    levels: int = 0
    product: str = ""
    offset: str = ""
    shift: str = ""
    exact: bool = True
    even: bool = False
    odd_zero: int = 0
    corrections: tuple[tuple[str, int, str], ...] = ()


def int_name(elem: IntType, kind: str = "int") -> str:
    """The alias template's name for a type of this width and sign; kind is ``int`` or ``rom``."""
    return f"bp_{'' if elem.signed else 'u'}{kind}<{elem.width}>"


def wide(elem: IntType) -> str:
    """A signed type that holds all values, for arithmetic: comparisons then mean what they say."""
    return int_name(IntType(min(64, elem.width + (not elem.signed)), signed=True))


def array_view(
    name: str, array: NDArray[np.int64], *, reshape: tuple[int, ...] = (), signed: bool = False
) -> ArrayView:
    """An array of the narrowest type, with the axes `reshape` (from 1) joined into one memory word.

    An array of one row is no memory but constants; small ones are kept in logic, others in blocks.
    `signed` is for numbers that are compared with signed ones.
    """
    elem = Interval.of(array).int_type()
    if signed and not elem.signed:
        elem = IntType(elem.width + 1, signed=True)
    dims = "".join(f"[{n}]" for n in array.shape)
    if array.shape[0] == 1:
        pragmas = (f"ARRAY_PARTITION variable={name} complete dim=0",)
    else:
        impl = "lutram" if array.shape[0] <= _SMALL_ROM else "bram"
        joined = (f"ARRAY_RESHAPE variable={name} complete dim={axis}" for axis in reshape)
        pragmas = (*joined, f"BIND_STORAGE variable={name} type=rom_1p impl={impl}")
    return ArrayView(name, int_name(elem, "rom"), dims, initialiser(array), pragmas)


def initialiser(array: NDArray[np.int64]) -> str:
    """Nested braces, one line for every sixteen numbers."""
    if array.ndim > 1:
        return "{\n" + ",\n".join(initialiser(part) for part in array) + "}"
    words = [literal(v) for v in array.tolist()]
    lines = [", ".join(words[i : i + _PER_LINE]) for i in range(0, len(words), _PER_LINE)]
    return "{" + ",\n ".join(lines) + "}"


def literal(value: int) -> str:
    """An integer literal of a type that holds it, in parentheses if negative."""
    if -(2**31) < value < 2**31:
        return str(value) if value >= 0 else f"({value})"
    assert value > -(2**63), "a literal beyond 64 bits"
    return f"INT64_C({value})"


def each_lane(view: ArrayView, ports: int = 1) -> ArrayView:
    """An array whose rows are memories of their own, with one or two ports to read."""
    pragmas = (
        f"ARRAY_PARTITION variable={view.name} complete dim=1",
        f"BIND_STORAGE variable={view.name} type=rom_{ports}p impl=bram",
    )
    return ArrayView(view.name, view.elem, view.dims, view.text, pragmas)


def product(
    arithmetic: str, weight: IntType, codes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], IntType, str]:
    """Weights as they are held, their type, and the product of ``a`` and ``w`` as an expression."""
    if arithmetic in ("signs", "count"):
        kind = "equal" if arithmetic == "count" else "signed"
        bits = (codes > 0).astype(np.int64)
        return bits, IntType(1, signed=False), f"bp_{kind}<product_t>(a, w)"
    if arithmetic == "planes":
        one = (weight.width, weight.signed) == (1, True)
        first, second = (-1, 0) if one else (1, -2 if weight.signed else 2)
        return codes, weight, f"bp_planes<product_t, {first}, {second}>(a, w)"
    return codes, weight, "bp_mul<product_t>(a, w)"


def folded_weights(
    weights: NDArray[np.int64], folds: int, lanes: tuple[int, int]
) -> NDArray[np.int64]:
    """Weights ``[folds·PE, depth]`` as words of PE by SIMD, in the order fold, step."""
    pe, simd = lanes
    split = weights.reshape(folds, pe, -1, simd)
    return split.transpose(0, 2, 1, 3).reshape(-1, pe * simd)


def by_kind(store: Store, lanes: int) -> Store:
    """A store with constants by kind of row as one with a constant for each of a row's lanes."""

    def repeated(constant: Constant | None) -> Constant | None:
        if constant is None or constant.array.shape[0] == 1:
            return constant
        return Constant(np.repeat(constant.array, lanes, axis=0))

    return replace(
        store,
        multiplier=repeated(store.multiplier),
        offset=repeated(store.offset),
        shift=repeated(store.shift),
    )


def totals(store: Store) -> Names:
    """The type of what a store shifts, if it does."""
    return () if store.total is None else (("total_t", wide(store.total)),)


def store_view(
    name: str, store: Store, folds: int, pe: int
) -> tuple[tuple[ArrayView, ...], StoreView]:
    """Arrays of a store's constants, and the store as its template sees it."""
    lo, hi = store.lo, store.hi
    if store.table is not None:
        tables = spread(store.table.array, folds, pe)
        array = _rom(f"{name}_table", tables)
        return (array,), StoreView(
            "lookup",
            lo,
            hi,
            "f" if len(tables) > 1 else "0",
            array.name,
            literal(store.low),
        )
    if store.thresholds is not None:
        levels = store.thresholds.array.shape[1]
        rows = spread(store.thresholds.array, folds, pe)
        array = _lists(f"{name}_thresholds", rows)
        at = "f" if len(rows) > 1 else "0"
        if store.sign is None:
            view = StoreView("thresholds", lo, hi, at, thresholds=array.name, levels=levels)
            return (array,), view
        signs, sign = _column(f"{name}_sign", store.sign, folds, pe)
        view = StoreView("thresholds", lo, hi, at, thresholds=array.name, levels=levels, sign=sign)
        return (array, *([] if signs is None else [signs])), view
    if store.multiplier is None:
        return (), StoreView(store.form, lo, hi)
    return _mulshift(name, store, folds, pe)


def _mulshift(
    name: str, store: Store, folds: int, pe: int
) -> tuple[tuple[ArrayView, ...], StoreView]:
    multiplier, offset, shift = (
        _column(f"{name}_{key}", constant, folds, pe)
        for key, constant in (
            ("multiplier", store.multiplier),
            ("offset", store.offset),
            ("shift", store.shift),
        )
    )
    columns, product_text = _times(name, store, multiplier, folds, pe)
    arrays = [array for array, _ in (*columns, offset, shift) if array is not None]
    corrections: list[tuple[str, int, str]] = []
    at = ""
    for key, sign, constant in (("ups", "+", store.ups), ("downs", "-", store.downs)):
        if constant is None:
            continue
        rows = spread(constant.array, folds, pe)
        at = "f" if len(rows) > 1 else "0"
        arrays.append(_lists(f"{name}_{key}", rows))
        corrections.append((f"{name}_{key}", constant.array.shape[1], sign))
    view = StoreView(
        "mulshift",
        store.lo,
        store.hi,
        at,
        exact=not (corrections or store.even),
        even=store.even,
        odd_zero=store.zero & 1,
        corrections=tuple(corrections),
        product=product_text,
        offset=offset[1],
        shift=shift[1],
    )
    return tuple(arrays), view


def _times(
    name: str, store: Store, whole: _Column, folds: int, pe: int
) -> tuple[tuple[_Column, ...], str]:
    """Columns of numbers, and the product of x with the store's multiplier.

    Where every multiplier has a place of its own it is two numbers, of its positive and of its
    negative digits, so that few bits of either are set.
    """
    assert store.multiplier is not None
    assert store.total is not None
    numbers = store.multiplier.array
    if store.arithmetic != "rows":
        return (whole,), f"bp_mul<total_t>(x, {whole[1]})"
    if folds > 1:
        return (whole,), by_bits("total_t", store.total, "x", whole[1], Interval.of(numbers))
    up, down = parts(numbers)
    columns = tuple(
        _column(f"{name}_{key}", Constant(half), folds, pe)
        for key, half in (("up", up), ("down", down))
    )
    bits = int(max(up.max(), down.max(), 1)).bit_length()
    wider = int_name(IntType(min(64, store.total.width + 2), signed=True))
    left, right = (f"bp_rows<{wider}, {bits}>(x, {text})" for _, text in columns)
    return columns, f"total_t({left} - {right})"


def by_bits(result: str, elem: IntType, operand: str, number: str, numbers: Interval) -> str:
    """The product with a number of some range by its bits, as `result`, an alias of `elem`.

    A number that may be negative counts by its size, so that no sum on the way exceeds the product.
    """
    bits = max(-numbers.lo, numbers.hi, 1).bit_length()
    wider = int_name(IntType(min(64, elem.width + 2), signed=True))
    plus, minus = (f"bp_rows<{wider}, {bits}>({operand}, {n})" for n in (number, f"-{number}"))
    if numbers.lo >= 0:
        return f"{result}({plus})"
    if numbers.hi <= 0:
        return f"{result}(-{minus})"
    return f"({number} < 0 ? {result}(-{minus}) : {result}({plus}))"


_Column = tuple["ArrayView | None", str]
"""An array, if it is no literal, and the text of its element."""


def _column(
    name: str, constant: Constant | None, folds: int, pe: int
) -> tuple[ArrayView | None, str]:
    """One number a channel as an array and an element of it, or one for all as a literal."""
    assert constant is not None
    if constant.array.shape[0] == 1:
        return None, literal(int(constant.array[0]))
    rows = spread(constant.array, folds, pe)
    view = array_view(name, rows, reshape=(2,))
    return view, f"{name}[{'f' if len(rows) > 1 else '0'}][p]"


def _lists(name: str, rows: NDArray[np.int64]) -> ArrayView:
    """Lists ``[folds, pe, n]`` that are compared with all at once: those of a word side by side."""
    return array_view(name, rows.reshape(rows.shape[0], -1), reshape=(2,), signed=True)


def _rom(name: str, tables: NDArray[np.int64]) -> ArrayView:
    """Lookup tables ``[folds, pe, codes]``: each lane reads a memory of its own."""
    elem = Interval.of(tables).int_type()
    dims = "".join(f"[{n}]" for n in tables.shape)
    impl = "lutram" if tables.shape[0] * tables.shape[2] <= 4 * _SMALL_ROM else "bram"
    pragmas = (
        f"ARRAY_PARTITION variable={name} complete dim=2",
        f"BIND_STORAGE variable={name} type=rom_1p impl={impl}",
    )
    return ArrayView(name, int_name(elem, "rom"), dims, initialiser(tables), pragmas)
