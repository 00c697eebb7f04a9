"""Errors of softmax, GELU and layer norm by every method: ``python -m benchmarks.methods``.

Each column is an integer op of the package on random or on all codes, against the function in
float64 of the numbers that the codes stand for. With ``--write`` the tables become those of
the page on methods.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks import tables
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph, Value
from binpoint.ir.op import FloatOp, IntegerOp, Limits, Semantics, Site
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, I16, I32, U8, FixedType, IntType, TensorType
from binpoint.ops.blocks import Block
from binpoint.ops.exponential import Exponential, PolynomialExp, ShiftExp
from binpoint.ops.gate import Bend, Gated, IntGated, gated
from binpoint.ops.layernorm import LayerNorm
from binpoint.ops.methods import FUNCTIONS, Method
from binpoint.ops.product import Product
from binpoint.ops.shares import Division, IntShares, Reciprocal
from binpoint.ops.softmax import SHIFTMAX_BITS, Softmax, share_type
from binpoint.ops.unary import Unary

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "methods.md"
Codes = NDArray[np.int64]
Reals = NDArray[np.float64]
_ROWS = 500
_FINE = 2**-12
_SEED = 5
_METHODS = FUNCTIONS["layer-norm"]


# ---- one op on codes


def lowered(
    op: FloatOp,
    x: FixedType,
    y: FixedType,
    codes: Codes,
    *more: NDArray[np.float32],
    semantics: Semantics = Semantics.DYADIC,
) -> Reals:
    """The results of a float op's integer form, as real numbers."""

    def add(build: GraphBuilder, value: Value) -> Value:
        constants = [build.constant(array) for array in more]
        site = Site(
            "op", (value, *constants), (y,), (codes.shape,), semantics, Limits(),
            build.origin,
        )  # fmt: skip
        return op.lower(site, build)[0]

    return y.dequantize(_result(add, x, codes))


def _result(add: Callable[[GraphBuilder, Value], Value], x: FixedType, codes: Codes) -> Codes:
    build = GraphBuilder(Graph("bench"), "op")
    value = build.input("x", TensorType(codes.shape, x))
    build.graph.outputs = (add(build, value).name,)
    return evaluate(build.graph, {value.name: codes})[build.graph.outputs[0]]


def direct(op: IntegerOp, x: FixedType, y: FixedType, codes: Codes) -> Reals:
    """The results of an integer op, as real numbers."""
    return y.dequantize(_result(lambda build, value: build.one(op, value), x, codes))


def _type(storage: IntType, scale: float, zero: int = 0) -> FixedType:
    return FixedType.per_tensor(storage, Dyadic.from_float(np.float32(scale)), zero)


# ---- softmax


@dataclass(frozen=True, slots=True)
class SoftmaxCase:
    """Rows of `count` normal logits in steps of `scale`."""

    count: int
    scale: float
    deviation: float


SOFTMAX = (
    SoftmaxCase(16, 1 / 16, 2.0),
    SoftmaxCase(64, 1 / 16, 2.0),
    SoftmaxCase(197, 1 / 16, 2.0),
    SoftmaxCase(197, 1 / 32, 1.0),
)


def released(x: FixedType, codes: Codes, terms: Exponential, n: int, bits: int) -> Reals:
    """A softmax with a rounded-down reciprocal n and results of `bits` bits."""
    # I-ViT counts one of its bits for the sign.
    sign = int(isinstance(terms, ShiftExp))
    y = _type(U8 if bits - sign < 9 else I32, 2.0 ** (sign - bits))
    division: Division = Reciprocal(n, (31 if sign else 32) - bits + sign)
    block = replace(Block.of(codes.shape, (1,)), shape=codes.shape)
    return direct(IntShares(block, terms, division, y), x, y, codes)


def softmax_columns(case: SoftmaxCase, logits: Reals) -> dict[str, tuple[Reals, Reals]]:
    """For each method its shares, and those of the numbers that it was given."""
    x, fine = _type(I8, case.scale), _type(I16, _FINE)
    share, ones = _type(U8, 2.0**-8), 2**31 - 1
    codes, more = x.quantize(logits), fine.quantize(np.clip(logits, -7.9, 7.9))
    coarse, near = (_softmax(kind.dequantize(c)) for kind, c in ((x, codes), (fine, more)))
    scale = float(x.scale)
    shift = ShiftExp.of(scale, SHIFTMAX_BITS, ones // case.count, "")
    found = {
        str(m): (lowered(Softmax(1, m), x, share, codes), coarse)
        for m in (Method.TABLE, Method.SHIFT)
    }
    runtime = lowered(Softmax(1), x, share_type(I8), codes, semantics=Semantics.ONNXRUNTIME)
    found = {"onnxruntime": (runtime, coarse)} | found
    for bits in (8, 16):
        name = f"shift-released, {bits} bits"
        found[name] = released(x, codes, shift, ones, bits), coarse
    found["polynomial"] = lowered(Softmax(1, Method.POLYNOMIAL), x, share, codes), coarse
    wide, narrow = PolynomialExp.of(_FINE, ""), PolynomialExp.of(scale, "")
    found["I-BERT on int8 logits, 8 bits"] = released(x, codes, narrow, 2**32, 8), coarse
    for bits in (8, 16):
        name = f"I-BERT on fine logits, {bits} bits"
        found[name] = released(fine, more, wide, 2**32, bits), near
    return found


def _softmax(x: Reals) -> Reals:
    raised = np.exp(x - x.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def softmax_table() -> list[list[str]]:
    """Largest and mean error in steps of 1/256, and the mean sum of a row."""
    rng = np.random.default_rng(_SEED)
    rows: list[list[str]] = []
    for case in SOFTMAX:
        logits = rng.normal(0, case.deviation, (_ROWS, case.count))
        cells = [f"{case.count}, 1/{1 / case.scale:.0f}, {case.deviation:g}"]
        columns = softmax_columns(case, logits)
        for found, wanted in columns.values():
            off = np.abs(found - np.minimum(wanted, found.max(initial=255 / 256))) * 256
            cells.append(f"{off.max():.2f} / {off.mean():.3f} / {found.sum(axis=1).mean():.2f}")
        if not rows:
            rows.append(["elements, scale, deviation", *columns])
        rows.append(cells)
    return rows


# ---- GELU


def gelu_columns(reach: float) -> dict[str, tuple[Codes, Codes, Reals, Reals]]:
    """For each method wanted and found codes, then wanted and found numbers."""
    x, fine = _type(I8, reach / 127), _type(I16, reach / 2**13)
    codes = np.arange(-128, 128)[None]
    step = reach / 127
    y, precise = _type(I8, step), _type(I16, step / 128)
    small = np.arange(-128, 21)[None]
    table = Unary("Gelu", (("approximate", "none"),))
    more = fine.quantize(x.dequantize(codes))

    def column(op: FloatOp, kind: FixedType, given: Codes) -> tuple[Codes, Codes, Reals, Reals]:
        numbers = gated("gelu", kind.dequantize(given)).astype(np.float64)
        return (
            y.quantize(numbers), y.quantize(lowered(op, kind, y, given)),
            numbers, lowered(op, kind, y if op == table else precise, given),
        )  # fmt: skip

    exact = gated("gelu", x.dequantize(codes)).astype(np.float64)

    def fixed(numbers: Callable[[Codes], Reals]) -> tuple[Codes, Codes, Reals, Reals]:
        """A function that no op of the package computes."""
        found = numbers(codes)
        return y.quantize(exact), y.quantize(found), exact, found

    def logistic(given: Codes) -> Reals:
        """What shifts and I-ViT approximate, in float64."""
        real = x.dequantize(given)
        return real / (1 + np.exp(-1.702 * real))

    gelu = {m: Gated("gelu", m) for m in Method}
    return {
        "table": column(table, x, codes),
        "x·sigmoid(1.702·x), exact": fixed(logistic),
        "shift": column(gelu[Method.SHIFT], x, codes),
        "shift-released, largest of a row 127": column(gelu[Method.SHIFT_RELEASED], x, codes),
        "shift-released, largest of a row 20": column(gelu[Method.SHIFT_RELEASED], x, small),
        "polynomial": column(gelu[Method.POLYNOMIAL], x, codes),
        "I-BERT as released, n = 14": fixed(i_gelu_released(x, _type(I16, step / 8))),
        "polynomial on fine input": column(gelu[Method.POLYNOMIAL], fine, more),
    }


def i_gelu_released(x: FixedType, y: FixedType) -> Callable[[Codes], Reals]:
    """I-GELU with I-BERT's 14 bits dropped from the parabola, whatever the scale."""

    def numbers(codes: Codes) -> Reals:
        build = GraphBuilder(Graph("bench"), "op")
        fine, unit = Bend.of(build.input("x", TensorType(codes.shape, x)), "")
        more = 14 - fine.drop
        coarse = replace(fine, drop=14, one=-(-fine.one >> more) if more >= 0 else fine.one)
        store = Product.of(x.scale.as_fraction() * unit * 2**more, y)
        return direct(IntGated(coarse, x.zero_point, store), x, y, codes)

    return numbers


def gelu_table() -> list[list[str]]:
    """Largest and mean error in steps, codes that differ, and the largest error in numbers."""
    rows: list[list[str]] = []
    for reach in (2.0, 4.0, 8.0, 12.7):
        columns = gelu_columns(reach)
        cells = [f"±{reach:g}"]
        for wanted, found, numbers, near in columns.values():
            off = np.abs(near - numbers)
            steps = off * 127 / reach
            wrong = np.count_nonzero(wanted != found)
            cells.append(f"{steps.max():.2f} / {steps.mean():.2f} / {wrong} / {off.max():.3f}")
        if not rows:
            rows.append(["range", *columns])
        rows.append(cells)
    return rows


# ---- layer norm


def _normalized(codes: Codes) -> Reals:
    apart: Reals = codes - codes.mean(axis=1, keepdims=True, dtype=np.float64)
    root: Reals = np.sqrt(np.square(apart).mean(axis=1, keepdims=True, dtype=np.float64))
    return apart / root


def norm_table() -> list[list[str]]:
    """Largest error of normalized numbers, and the share of int8 results that differ."""
    rng = np.random.default_rng(_SEED)
    rows = [["elements, operand", *map(str, _METHODS)]]
    for count in (192, 384, 768):
        for storage, deviation in ((I16, 3000), (I8, 30), (I8, 10)):
            x, fine, y = _type(storage, 1.0), _type(I16, 2.0**-12), _type(I8, 4 / 127)
            codes = x.quantize(rng.normal(rng.normal(0, deviation / 4), deviation, (_ROWS, count)))
            exact = _normalized(codes)
            one, none = np.ones(count, np.float32), np.zeros(count, np.float32)
            cells = [f"{count}, {storage} of deviation {deviation}"]
            for method in _METHODS:
                op = LayerNorm(1, 1e-12, method)
                near = lowered(op, x, fine, codes, one, none)
                found = y.quantize(lowered(op, x, y, codes, one, none))
                wrong = np.count_nonzero(found != y.quantize(exact)) / found.size
                cells.append(f"{np.abs(near - exact).max():.4f} / {wrong:.2%}")
            rows.append(cells)
    return rows


# ---- page


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows, the first one being the head."""
    lines = [tables.head(rows[0]), *map(tables.line, rows[1:])]
    return "\n".join(lines) + "\n"


def write(page: Path, name: str, text: str) -> None:
    """Put a table between its marks."""
    marks = f"(<!-- {name}: begin -->\n).*(<!-- {name}: end -->)"
    whole = page.read_text(encoding="utf-8")
    if re.search(marks, whole, re.DOTALL) is None:
        raise click.ClickException(f"{page.name} has no place for {name}")
    put = re.sub(marks, lambda found: found[1] + text + found[2], whole, flags=re.DOTALL)
    page.write_text(put, encoding="utf-8")


@click.command()
@click.option("--write", "writes", is_flag=True, help="Put the tables into the page on methods.")
def main(writes: bool) -> None:
    """Print three tables of errors."""
    for name, make in (("softmax", softmax_table), ("gelu", gelu_table), ("norm", norm_table)):
        text = table(make())
        print(f"\n{name}\n\n{text}", flush=True)
        if writes:
            write(PAGE, name, text)


if __name__ == "__main__":
    main()
