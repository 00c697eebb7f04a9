"""Random ONNX models: `Weave` grows one op by op, `models` is the hypothesis strategy of them.

Everything is decided by one `random.Random`: hypothesis gives one that it can shrink, the long run
gives one made from a seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

import numpy as np
import onnx
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from binpoint import ort

Array = NDArray[Any]
Choice = TypeVar("Choice")

LARGEST = 1500
"""Elements of a tensor at most."""

FARTHEST = 300.0
"""Absolute value of an element at most, so that no chain of products runs away."""

_OPSETS = (13, 17, 18, 19, 21)
_PREFIXES = ("", "t", "block/1:", 'a"b*/', "int ", "ünï.")


@dataclass(slots=True)
class Weave:
    """A float model under construction; every tensor carries the values it has for one sample."""

    random: Random
    opset: int
    prefix: str = ""
    nodes: list[onnx.NodeProto] = field(default_factory=list[onnx.NodeProto])
    constants: dict[str, Array] = field(default_factory=dict[str, Array])
    values: dict[str, Array] = field(default_factory=dict[str, Array])
    inputs: list[str] = field(default_factory=list[str])
    final: set[str] = field(default_factory=set[str])
    """Tensors that no op can read, since they hold integers."""
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        """Make the generator of array contents."""
        self.rng = np.random.default_rng(self.random.getrandbits(32))

    # ---- choices

    def pick(self, options: Sequence[Choice]) -> Choice:
        """One of the options."""
        return options[self.random.randrange(len(options))]

    def chance(self, share: float) -> bool:
        """True in about this share of cases."""
        return self.random.randrange(100) < share * 100

    def number(self, low: int, high: int) -> int:
        """An integer from `low` to `high`."""
        return self.random.randint(low, high)

    def normal(self, shape: Sequence[int], size: float = 1.0) -> Array:
        """Normal numbers."""
        return (self.rng.normal(size=tuple(shape)) * size).astype(np.float32)

    # ---- tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self.values[name].shape

    def live(self) -> list[str]:
        """The tensors that an op may read."""
        return [n for n in self.values if n not in self.constants and n not in self.final]

    def input(self, shape: Sequence[int]) -> str:
        """A model input."""
        name = f"{self.prefix}in{len(self.inputs)}"
        self.values[name] = self.normal(shape)
        self.inputs.append(name)
        return name

    def constant(self, array: Array) -> str:
        """An initializer."""
        name = f"{self.prefix}c{len(self.constants)}"
        self.constants[name] = self.values[name] = array
        return name

    def integers(self, *numbers: int) -> str:
        """An int64 initializer."""
        return self.constant(np.array(numbers, np.int64))

    def many(
        self, op: str, inputs: Sequence[str], outputs: int, **attributes: Any
    ) -> list[str] | None:
        """Add a node, unless a result is empty, too large or runs away."""
        names = [f"{self.prefix}{op.lower()}{len(self.nodes)}_{i}" for i in range(outputs)]
        node = helper.make_node(
            op, list(inputs), names, f"{self.prefix}{op}{len(self.nodes)}", **attributes
        )
        feeds = {name: self.values[name] for name in inputs if name}
        arrays = ort.run_node(node, feeds, self.opset)
        for array in arrays:
            real = array.astype(np.float64)
            if (
                not 1 <= array.size <= LARGEST
                or not np.isfinite(real).all()
                or np.abs(real).max() > FARTHEST
            ):
                return None
        self.nodes.append(node)
        self.values.update(zip(names, arrays, strict=True))
        self.final.update(n for n, a in zip(names, arrays, strict=True) if a.dtype.kind != "f")
        return names

    def apply(self, op: str, *inputs: str, **attributes: Any) -> str | None:
        """Add a node of one result."""
        names = self.many(op, inputs, 1, **attributes)
        return None if names is None else names[0]

    # ---- the result

    def outputs(self) -> list[str]:
        """All tensors that nobody reads, and now and then one that somebody does."""
        read = {name for node in self.nodes for name in node.input}
        made = [name for node in self.nodes for name in node.output]
        ends = [name for name in made if name not in read]
        inner = [n for n in made if n in read]
        return ends + ([self.pick(inner)] if inner and self.chance(0.15) else [])

    def model(self, outputs: Sequence[str]) -> onnx.ModelProto:
        """The model as it stands."""
        read = {name for node in self.nodes for name in node.input}
        body = helper.make_graph(
            self.nodes,
            "random",
            [_info(n, self.values[n]) for n in self.inputs],
            [_info(n, self.values[n]) for n in outputs],
            [numpy_helper.from_array(a, n) for n, a in self.constants.items() if n in read],
        )
        return finished(body, self.opset)


def _info(name: str, array: Array) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
    )


def finished(body: onnx.GraphProto, opset: int) -> onnx.ModelProto:
    """A graph as a valid model."""
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    checker: Any = onnx.checker
    checker.check_model(model)
    return model


def weave(random: Random, *, operators: int = 8) -> Weave:
    """A float model of at most this many random operators."""
    from tests.operators import MAKERS

    w = Weave(
        random, _OPSETS[random.randrange(len(_OPSETS))], _PREFIXES[random.randrange(len(_PREFIXES))]
    )
    for _ in range(1 + w.chance(0.25)):
        w.input(_input_shape(w))
    for _ in range(w.number(1, operators)):
        live = w.live()
        # Mostly the newest tensor, so that models grow deep, now and then an older one: a branch.
        x = live[-1] if w.chance(0.7) else w.pick(live)
        w.pick(MAKERS)(w, x)
    while not w.nodes:
        w.pick(MAKERS)(w, w.inputs[0])
    return w


def _input_shape(w: Weave) -> tuple[int, ...]:
    match w.number(0, 9):
        case 0 | 1 | 2 | 3 | 4:
            return (1, w.number(1, 6), w.number(2, 9), w.number(2, 9))
        case 5 | 6:
            return (1, w.number(1, 6), w.number(2, 16))
        case 7:
            return (1, w.number(2, 6), w.number(1, 5))
        case _:
            return (1, w.number(1, 20))


def weaves() -> st.SearchStrategy[Weave]:
    """Random float models."""
    return st.randoms(use_true_random=False).map(weave)
