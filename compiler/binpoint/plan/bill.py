"""What a kernel's call is modelled to take: counts of what it does, at the target's prices.

A bill counts a call's turns of loops, outermost to innermost, as they follow from its numbers. The
target's table ``price.kernels`` has the cycles of one of each, fitted to runs on the emulated core
(`benchmarks/kernel_prices.py`); a kernel that is not in it is priced by its loads, products and
stores alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from binpoint.ir.graph import Graph
from binpoint.ir.kernel import KernelCall, Work
from binpoint.ir.op import IntegerOp
from binpoint.plan.fuse import Modelled, Step
from binpoint.target import Event, Price

Terms = dict[str, int]

_MATRIX = ("conv", "dense")
_LANES = 4
_VECTOR = 16
_PAIRED_ROWS = {"wide": 4, "tall": 8}
_STEPS: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "wide": {"": 14, "bytes": 18, "n4": 14, "n2": 15},
        "tall": {"": 15, "bytes": 21, "n4": 16, "n2": 17},
    }
)
"""Instructions of a step by the shape of the block and the packing of the weights."""


@dataclass(frozen=True, slots=True)
class Bill:
    """A kernel by the name that prices know it by, and how often its parts run in one call."""

    kernel: str
    terms: Mapping[str, int]
    work: Work

    def modelled(self, price: Price) -> Modelled:
        """The kernel's cycles on a target with this price list."""
        rates = price.kernels.get(self.kernel)
        if rates is None:
            return Modelled(self.kernel, round(_plain(self.work, price)))
        total = sum(rate * self.terms.get(term, 0) for term, rate in rates.items())
        return Modelled(self.kernel, round(total))


def bill(step: Step, graph: Graph) -> Bill:
    """The bill of a step's call."""
    call, work = step.call, _work(step, graph)
    n = call.numbers
    match call.variant, call.stem:
        case "dsp", "conv" | "dense":
            name, terms = _pairs(call, n)
        case "dsp", "depthwise":
            name, terms = dict(call.traits)["form"], _planes(call, n)
        case "block", _:
            name, terms = _blocks(call, n)
        case "mve", "conv" | "dense":
            name, terms = dict(call.traits)["direct"], _vectors(call, n)
        case "mve", "depthwise_lines":
            name, terms = "", _lines(n)
        case "mve", "depthwise":
            name, terms = "", _eights(n)
        case "", "conv" | "dense" | "depthwise" | "conv_transpose" | "matmul":
            name, terms = "", _fours(n, work)
        case _:
            name, terms = dict(call.traits).get("form", ""), {"read": work.loads}
    outputs = graph.value(step.writes[0]).type.size
    words = (call.variant or "portable", call.stem, name)
    return Bill(" ".join(w for w in words if w), {**terms, "output": outputs, "call": 1}, work)


def _work(step: Step, graph: Graph) -> Work:
    op = step.nodes[0].op
    assert isinstance(op, IntegerOp)
    return op.work(graph.arguments(step.nodes[0]), graph.results(step.nodes[0]))


def _plain(work: Work, price: Price) -> float:
    """Two loads and a product for each multiply-accumulate, and what is loaded and stored."""
    product: tuple[Event, ...] = ("multiply", "other")
    if "multiply_add" in price.cycles:
        product = ("multiply_add",)

    def of(*events: Event) -> float:
        return sum(price.cycles.get(event, 1) for event in events)

    return (
        work.macs * of("load", "load", *product)
        + (work.loads + work.lookups) * of("load", "other")
        + work.stores * of("store", "other")
    )


def _up(count: int, size: int) -> int:
    return -(-count // size)


def _pairs(call: KernelCall, n: Mapping[str, int]) -> tuple[str, Terms]:
    """Blocks of channels by pairs of patches; a step has two elements of every patch."""
    traits = dict(call.traits)
    shape, layout = traits["shape"], traits.get("layout", "")
    groups = _up(n["channels"], _PAIRED_ROWS[shape])
    parts = n.get("groups", 1)
    out_h, out_w = n.get("out_h", 1), n.get("out_w", n.get("rows", 1))
    if traits.get("pairs") == "across":
        out_h, out_w = out_w, out_h
    # Windows of each phase of a dilated row are pairs by themselves.
    phases = n.get("phases", 1)
    out_w = _up(out_w, phases)
    rows = n.get("batches", 1) * out_h * phases
    pairs = rows * (out_w if shape == "tall" else _up(out_w, 2))
    runs = groups * pairs * n.get("runs", 1)
    plain, packed = (_STEPS[shape][pack] for pack in ("", traits["pack"]))
    terms = {
        "step": runs * n["run"] // 2 * packed // plain,
        "run": runs,
        "block": groups * pairs,
        "row": rows,
    }
    terms["widened"] = _widened(n, layout, int(traits.get("depth", "d1")[1:]))
    terms["sum"] = n["channels"] * rows * out_w if traits["store"] == "sums" else 0
    return layout or shape, {term: parts * count for term, count in terms.items()}


def _widened(n: Mapping[str, int], layout: str, depth: int) -> int:
    match layout:
        case "columns":
            return n["batches"] * n["out_h"] * n["kernel_h"] * n["width"] * depth
        case "rows":
            parts = n["parts"] if "parts" in n else n["in_w"]
            return n["batches"] * n["in_h"] * parts * n["part"]
        case "pieces":
            return n["batches"] * n["line"]
        case _:
            return n.get("rows", 1) * n["depth"]


def _planes(call: KernelCall, n: Mapping[str, int]) -> Terms:
    """Channels in turn: rows of the plane are widened, then rows of pairs of outputs made."""
    traits = dict(call.traits)
    channels = n["batches"] * n["channels"]
    rows = channels * n["across"]
    pairs = rows * _up(n["along"], 2)
    words = 3 if traits["form"] == "packed" else int(traits["last"]) - int(traits["first"])
    return {
        "word": pairs * int(traits["rows"]) * words, "pair": pairs, "row": rows,
        "widened": channels * n["in_across"] * n["taken"],
        "band": channels * _up(n["across"], n["band"]), "channel": channels,
    }  # fmt: skip


def _blocks(call: KernelCall, n: Mapping[str, int]) -> tuple[str, Terms]:
    """Blocks of channels and positions; a step has four elements of every window."""
    traits = dict(call.traits)
    channels, together = int(traits["rows"]), int(traits["positions"])
    windows = n["rows"] if call.stem == "dense" else n["batches"] * n["out_h"] * n["out_w"]
    groups, many, few = _up(n["channels"], channels), windows // together, windows % together
    terms = {
        "step": groups * many * n["depth"] // 4, "last_step": groups * few * n["depth"] // 4,
        "block": groups * (many + few), "window": windows, "tap": windows * n.get("kernel_h", 0),
        "copied": 0 if traits["direct"] else windows * n["depth"],
    }  # fmt: skip
    return f"{channels}x{together}", terms


def _vectors(call: KernelCall, n: Mapping[str, int]) -> Terms:
    """Four channels by two windows; a step has sixteen elements of both."""
    traits = dict(call.traits)
    windows = n["count"] if call.stem == "dense" else n["batches"] * n["out_h"] * n["out_w"]
    pairs = _up(n["channels"], _LANES) * _up(windows, 2)
    taps = n.get("kernel_h", 1)
    run = n["kernel_w"] * n["in_c"] if "in_c" in n else n["depth"]
    copied = 0 if traits["direct"] else windows * taps * _up(run, _VECTOR)
    return {
        "step": pairs * n["steps"], "block": pairs, "window": windows, "tap": windows * taps,
        "copied": copied, "sum": n["channels"] * windows if traits["lanes"] == "raw" else 0,
    }  # fmt: skip


def _lines(n: Mapping[str, int]) -> Terms:
    """Lines of each channel, four outputs at a time, from lines that were spread before."""
    rows = n["batches"] * n["out_slow"]
    lines = rows * n["channels"]
    eights = _up(n["channels"], 8)
    return {
        "four": lines * _up(n["out_fast"], _LANES), "line": lines, "row": rows,
        "spread": rows * eights * n["kernel_slow"] * n["in_fast"],
    }  # fmt: skip


def _eights(n: Mapping[str, int]) -> Terms:
    """Eight channels of two positions at a time, from a ring of rows."""
    rows, eights = n["batches"] * n["out_h"], _up(n["channels"], 8)
    pairs = rows * eights * _up(n["out_w"], 2)
    return {
        "tap": pairs * n["kernel_h"] * n["kernel_w"], "pair": pairs, "row": rows * eights,
        "copied": n["batches"] * n["in_h"] * _up(n["width"] * n["channels"], _VECTOR),
    }  # fmt: skip


def _fours(n: Mapping[str, int], work: Work) -> Terms:
    """Four channels share a loop; those left over have their own."""
    channels = n.get("out_c", n.get("channels", 1)) // n.get("groups", 1)
    last = channels % 4 if channels else 0
    alone = work.macs * last // max(channels, 1)
    windows = max(1, work.stores // max(1, n.get("out_c", n.get("channels", 1))))
    taps = n.get("kernel_h", 1)
    return {
        "product": work.macs - alone, "last_product": alone,
        "window": windows, "run": windows * taps * n.get("groups", 1) * _up(channels, 4),
    }  # fmt: skip
