"""Laws that every integer op obeys, checked on all nodes of an integer graph.

1. `infer` agrees with the shape of what `reference` returns.
2. Results lie within `bounds`, and `bounds` is monotone: narrower operands, no wider results.
3. The check graph equals `reference`.
4. The C kernel equals `reference`, under sanitizers.
5. The HLS kernel equals `reference`, under sanitizers.
7. A kernel's symbol determines its text.
8. Kernels for an instruction set equal `reference` on the emulated core.

Moreover a clamp that an op takes in is the clamp after it.

(6, the error of lowering, is in `tests/ops/test_lowering.py`.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from binpoint.emit.environment import render_template
from binpoint.emit.fpga_hls import render as render_hls
from binpoint.emit.mcu_c import KernelView, render
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph, Node, Value
from binpoint.ir.op import IntegerOp
from binpoint.ir.verify import verify
from binpoint.numeric.interval import Interval
from binpoint.ops.logshares import IntShiftMatMul
from binpoint.options import CompileOptions
from binpoint.plan.arrange import arrange
from binpoint.plan.dataflow import design
from binpoint.plan.design import Design
from binpoint.plan.program import Program
from binpoint.sim.check_graph import run_onnx, write_onnx
from binpoint.sim.compare import first_difference
from binpoint.sim.host_c import run_host
from binpoint.sim.host_hls import run_native
from binpoint.sim.interface import Interface
from binpoint.sim.measure import emulate
from binpoint.target import FpgaTarget, McuTarget, load_target, microcontroller

Codes = Mapping[str, NDArray[np.int64]]
Values = Sequence[Mapping[str, NDArray[np.int64]]]


def samples(
    graph: Graph, rng: np.random.Generator, count: int = 3
) -> list[dict[str, NDArray[np.int64]]]:
    """Codes for all inputs, within bounds: uniform, then at the ends, then near the middle."""
    return [
        {name: codes(graph.value(name), rng, kind) for name in graph.inputs}
        for kind in range(count)
    ]


def codes(value: Value, rng: np.random.Generator, kind: int = 0) -> NDArray[np.int64]:
    """Codes within a value's bounds."""
    lo, hi = value.interval.lo, value.interval.hi
    match kind:
        case 0:
            return rng.integers(lo, hi + 1, value.shape)
        case 1:
            return rng.choice(np.array([lo, lo + 1 if hi > lo else lo, hi], np.int64), value.shape)
        case _:
            middle, spread = (lo + hi) // 2, max(1, (hi - lo) // 64)
            return np.clip(rng.integers(middle - spread, middle + spread + 1, value.shape), lo, hi)


def op_of(node: Node) -> IntegerOp:
    """The op of a node of an integer graph."""
    assert isinstance(node.op, IntegerOp)
    return node.op


def evaluated(graph: Graph, inputs: Sequence[Codes]) -> Values:
    """All values by the interpreter; it checks that results are within their bounds."""
    verify(graph, "integer")
    return [evaluate(graph, sample) for sample in inputs]


def law_1_shapes(graph: Graph, values: Values) -> None:
    """`infer` agrees with `reference`, in shapes and in types of storage."""
    for node in graph.nodes():
        kinds = op_of(node).infer(*graph.arguments(node))
        for kind, value in zip(kinds, graph.results(node), strict=True):
            assert kind == value.type
            for sample in values:
                assert sample[value.name].shape == kind.shape, node.name


def law_2_bounds(graph: Graph, rng: np.random.Generator) -> None:
    """`bounds` holds for operands in any part of their range, and is monotone.

    That of `IntShiftMatMul` is of codes of a softmax alone; `evaluated` holds it to that.
    """
    for node in graph.nodes():
        op, operands = op_of(node), graph.arguments(node)
        if isinstance(op, IntShiftMatMul):
            continue
        wide = op.bounds(*operands)
        narrow = tuple(v if v.constant is not None else _narrowed(v, rng) for v in operands)
        inner = op.bounds(*narrow)
        for outside, inside in zip(wide, inner, strict=True):
            assert outside.lo <= inside.lo <= inside.hi <= outside.hi, node.name
        for kind in (0, 1):
            arrays = [_operand(v, rng, kind) for v in narrow]
            for result, bound in zip(op.reference(*arrays), inner, strict=True):
                assert bound.contains(Interval.of(result)), (
                    f"{node.name}: {Interval.of(result)} in {bound}"
                )


def _narrowed(value: Value, rng: np.random.Generator) -> Value:
    ends = rng.integers(value.interval.lo, value.interval.hi + 1, 2)
    return replace(value, bounds=Interval(int(ends.min()), int(ends.max())))


def _operand(value: Value, rng: np.random.Generator, kind: int) -> NDArray[np.int64]:
    if value.constant is not None:
        return value.constant.array.astype(np.int64)
    return codes(value, rng, kind)


def law_3_check_graph(graph: Graph, inputs: Sequence[Codes], values: Values) -> None:
    """onnxruntime computes the same integers from operators of its own."""
    found = run_onnx(write_onnx(graph, deep=True), graph, inputs)
    assert set(found[0]) == {name for node in graph.nodes() for name in node.outputs}
    difference = first_difference(graph, values, found)
    assert difference is None, str(difference)


def unpriced(target: str) -> McuTarget:
    """A microcontroller for which kernels are chosen in the order of families.

    By price many would not be chosen for maps as small as those of tests.
    """
    device = microcontroller(load_target(target))
    return msgspec.structs.replace(device, price=None)


def law_4_kernels(
    graph: Graph,
    inputs: Sequence[Codes],
    values: Values,
    options: CompileOptions,
    target: str | McuTarget = "host",
) -> None:
    """The emitted C computes the same integers, without a warning or a sanitizer's finding.

    For another target than the host these are the kernels of its instruction set in portable C.
    """
    device = unpriced(target) if isinstance(target, str) else target
    program = arrange(graph, options, device)
    project = render(program, device, options)
    found = run_host(program, project, options, inputs, deep=True)
    difference = first_difference(graph, values, found)
    assert difference is None, str(difference)


def law_8_instructions(
    graph: Graph, inputs: Sequence[Codes], values: Values, options: CompileOptions, target: str
) -> None:
    """The kernels of a target's instruction set compute the same integers on its emulated core."""
    device = unpriced(target)
    program = arrange(graph, options, device)
    files = render(program, device, options).files
    found, _ = emulate(Interface.of(program, options), files, device, inputs, run=True)
    difference = first_difference(graph, values, found)
    assert difference is None, str(difference)


def law_5_hardware(
    graph: Graph, inputs: Sequence[Codes], values: Values, plan: Design | None = None
) -> None:
    """The emitted HLS C++ carries the same integers on every stream."""
    target = load_target("zynq-7020")
    assert isinstance(target, FpgaTarget)
    plan = plan or design(graph, target, CompileOptions(name="laws"))
    project = render_hls(plan, target, values[:1])
    carried = [{**sample, **found} for sample, found in zip(inputs, values, strict=True)]
    found = run_native(plan, project, carried, deep=True)
    difference = first_difference(graph, values, found)
    assert difference is None, str(difference)


def law_clamped(graph: Graph, values: Values, rng: np.random.Generator) -> None:
    """An op that takes a clamp in computes what the clamp after it would, wherever that lies."""
    for node in graph.nodes():
        (result, *others) = graph.results(node)
        storage = result.elem.storage
        ends = rng.integers(storage.min, storage.max + 1, 2)
        lo, hi = int(ends.min()), int(ends.max())
        op = op_of(node).clamped(lo, hi)
        if op is None:
            continue
        assert not others
        for sample in values:
            (found,) = op.reference(*(sample[n].astype(np.int64) for n in node.inputs))
            np.testing.assert_array_equal(found, np.clip(sample[result.name], lo, hi), node.name)


def law_7_variants(program: Program, texts: dict[str, str]) -> None:
    """The same of the kernels chosen for a target."""
    for step in program.steps:
        call = step.call
        if not step.alias and call.variant:
            view = KernelView(call, "static")
            text = render_template("mcu-c", f"{call.variant}/{call.stem}.c.j2", k=view)
            assert texts.setdefault(call.symbol, text) == text, call.symbol


def law_7_symbols(graph: Graph, texts: dict[str, str]) -> None:
    """The same signature has the same text; `texts` keeps those of all graphs seen."""
    for node in graph.nodes():
        call = op_of(node).kernel(graph.arguments(node), graph.results(node))
        view = KernelView(call, "static")
        text = render_template("mcu-c", f"ops/{call.stem}.c.j2", k=view)
        assert texts.setdefault(call.symbol, text) == text, call.symbol
