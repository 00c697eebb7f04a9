"""What an ONNX node of a recurrent layer says: functions, matrices, biases, initial states.

Forms that have no integer form are refused here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ops.cell import Cell
from binpoint.ops.recurrent_numbers import FUNCTIONS
from binpoint.ops.shape import reshape_value
from binpoint.ops.slices import take_value

_ENDS: Mapping[int, float] = MappingProxyType({5: 1.0, 6: 16.0})
"""Of the initial states by operand: that of the state, and of an LSTM's cell."""
_SHARES = ("sigmoid", "hardsigmoid")
"""Functions with values from 0 to 1: what gates need for the state to stay within ±1."""
_DEFAULTS: Mapping[Cell, tuple[str, ...]] = MappingProxyType(
    {
        Cell.RNN: ("tanh",),
        Cell.GRU: ("sigmoid", "tanh"),
        Cell.LSTM: ("sigmoid", "tanh", "tanh"),
    }
)


def refuse_forms(node: OnnxNode, cell: Cell) -> None:
    """Refuse attributes, peepholes, shapes and lengths that have no integer form."""
    if node.int("layout", 0) != 0:
        node.refuse("layout 1", hint="transpose its operands and results, and use layout 0")
    if node.float("clip", 0.0) != 0.0:
        node.refuse("clipped gates", hint="export it without `clip`; the tables saturate at ±8")
    for name in ("activation_alpha", "activation_beta"):
        if node.attribute(name):
            node.refuse(f"`{name}`", hint="use Sigmoid, Tanh, or HardSigmoid of the default slope")
    if cell is Cell.LSTM and node.int("input_forget", 0) != 0:
        node.refuse("coupled input and forget gates", hint="export it with separate gates")
    peephole = node.optional_array(7)
    if peephole is not None and peephole.any():
        node.refuse("peepholes", hint="train it without: no framework's default layer has them")
    shape = node.operand(0).shape
    if len(shape) != 3:
        node.refuse(f"an operand of shape {list(shape)}", want="[steps, batch, inputs]")
    lengths = node.optional_array(4)
    if lengths is not None and (lengths != shape[0]).any():
        node.refuse(
            "sequences of different lengths",
            have=str(lengths.tolist()),
            want=f"{shape[0]} for each",
            hint="cut the input to the length that is used",
        )


def ways_of(node: OnnxNode) -> tuple[bool, ...]:
    """The directions of the layer: of each whether it runs backwards."""
    direction = node.string("direction", "forward").lower()
    ways = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}.get(direction)
    if ways is None:
        node.refuse(f"the direction `{direction}`", want="forward, reverse or bidirectional")
    return ways


def functions_of(node: OnnxNode, cell: Cell, ways: int) -> list[tuple[str, ...]]:
    """The functions of each direction, in lower case."""
    defaults = _DEFAULTS[cell]
    stated: list[bytes] = node.attribute("activations") or []
    given = tuple(v.decode("utf-8", "replace").lower() for v in stated) or defaults * ways
    size = len(defaults)
    if len(given) != size * ways:
        node.refuse(f"{len(given)} activations", want=str(size * ways))
    for index, name in enumerate(given):
        gate = index % size == 0 and cell is not Cell.RNN
        allowed = _SHARES if gate else tuple(FUNCTIONS)
        if name not in allowed:
            node.refuse(
                f"the activation `{name}`",
                want=", ".join(allowed),
                hint="only functions that keep the state within ±1 have integer tables",
            )
    return [given[i * size : (i + 1) * size] for i in range(ways)]


def operands_of(node: OnnxNode, build: GraphBuilder, cell: Cell, way: int) -> list[Value]:
    """Matrices, biases and initial states of one direction."""
    x = node.operand(0)
    w, r = (_matrix(node, build, index, way) for index in (1, 2))
    gates, hidden = r.shape
    if gates != cell.gates * hidden or w.shape != (gates, x.shape[2]):
        node.refuse("its matrices do not fit", have=f"W {list(w.shape)}, R {list(r.shape)}")
    if node.int("hidden_size", hidden) != hidden:
        node.refuse(f"hidden_size {node.int('hidden_size', hidden)}", want=str(hidden))
    biases = np.zeros(2 * gates, np.float32)
    if node.has(3):
        node.array(3)
        biases = constant_array(node.operand(3))[way].astype(np.float32)
    parts = [build.constant(b, hint=f"{build.hint}_bias") for b in (biases[:gates], biases[gates:])]
    starts = [_start(node, build, 5, way, hidden)]
    if cell is Cell.LSTM:
        starts.append(_start(node, build, 6, way, hidden))
    return [w, r, *parts, *starts]


def _matrix(node: OnnxNode, build: GraphBuilder, index: int, way: int) -> Value:
    """One direction's matrix ``[G·H, …]``; codes of a per-tensor type stay what they are."""
    array, value = node.array(index), node.operand(index)
    kind = value.fixed
    if kind is not None and (kind.axis is not None or any(kind.zero_points)):
        array, kind = constant_array(value), None
    return build.constant(array[way], fixed=kind, hint=f"{build.hint}_{'wr'[index - 1]}")


def _start(node: OnnxNode, build: GraphBuilder, index: int, way: int, hidden: int) -> Value:
    """The initial state ``[B, H]`` of one direction, zero if it is not given."""
    batch = node.operand(0).shape[1]
    if not node.has(index):
        return build.constant(np.zeros((batch, hidden), np.float32), hint=f"{build.hint}_start")
    value = node.operand(index)
    if len(value.shape) != 3 or value.shape[1:] != (batch, hidden):
        node.refuse(
            f"an initial state of shape {list(value.shape)}", want=f"[ways, {batch}, {hidden}]"
        )
    end = _ENDS[index]
    if value.constant is not None and (np.abs(constant_array(value)) > end).any():
        node.refuse("an initial state that no step could reach", want=f"from {-end:g} to {end:g}")
    one = take_value(build, value, [range(way, way + 1), range(batch), range(hidden)])
    return reshape_value(build, one, (batch, hidden))
