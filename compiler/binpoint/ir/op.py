"""What an op must be able to do: `FloatOp` and `IntegerOp`, all methods abstract or refusing.

Ops know no target and no language: `kernel` returns a signature and literal arguments, `work`
counts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.graph import Origin, Value
from binpoint.ir.kernel import KernelCall, Work
from binpoint.numeric.fixed import FixedType, TensorType
from binpoint.numeric.interval import Interval

if TYPE_CHECKING:
    from binpoint.ir.build import GraphBuilder
    from binpoint.ir.onnx_node import OnnxNode
    from binpoint.ir.onnx_writer import OnnxWriter, Tensor

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.int64]


class Semantics(StrEnum):
    """How rounding between ops is defined.

    ``DYADIC`` rounds half up with a nearby multiplier, ``ONNXRUNTIME`` as its float32 kernels do,
    ``RATIONAL`` computes exactly up to the rounding that a quantizer of the model states.
    """

    DYADIC = "dyadic"
    ONNXRUNTIME = "onnxruntime"
    RATIONAL = "rational"


@dataclass(frozen=True, slots=True)
class Limits:
    """What the target's arithmetic offers: numbers, not a device."""

    multiplier_bits: int = 31
    accumulator_bits: int = 32


@dataclass(frozen=True, slots=True)
class Site:
    """Where a float op is lowered: operands in the integer graph, wanted result types, limits.

    `inputs` are values of the integer graph under construction; `results` the types assigned to the
    op's results (None where no type was assigned: the op then chooses one).
    """

    name: str
    inputs: tuple[Value, ...]
    results: tuple[FixedType | None, ...]
    shapes: tuple[tuple[int, ...], ...]
    semantics: Semantics
    limits: Limits
    origin: Origin

    @property
    def result(self) -> FixedType:
        """Type of the only result."""
        (result,) = self.results
        assert result is not None, f"no type was assigned to the result of {self.name}"
        return result


class Role(StrEnum):
    """What an operand is to an op, for the assignment of types."""

    ACTIVATION = "activation"
    WEIGHT = "weight"
    """A constant, symmetric, one scale per output channel (axis 0) where the op allows it."""
    BIAS = "bias"
    """A real constant; lowering brings it to the accumulator's scale."""
    PARAMETER = "parameter"
    """A real constant that lowering turns into tables or multipliers."""


class Op(ABC):
    """What float and integer ops share."""

    @abstractmethod
    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """Types of the results. Float ops: ranks and shapes; integer ops: scales too."""


@dataclass(frozen=True, slots=True)
class Permuted:
    """An op for operands whose axes are permuted, and the order in which its results come out."""

    op: FloatOp
    order: tuple[int, ...]


class Reader:
    """What reads operators of ONNX: a float op, or a description of it in several others."""

    onnx: ClassVar[tuple[str, ...]] = ()
    """The operators, with their domain if it is not the default one."""

    keeps_type: ClassVar[bool] = False
    """Whether results are elements of the operands, unchanged or clamped: one type serves both."""

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """Add the meaning of an ONNX node to the graph, or refuse by name."""
        raise NotImplementedError(cls.__name__)


class FloatOp(Op, Reader):
    """An op on real numbers, as imported; channel-last where it has a layout."""

    elementwise: ClassVar[bool] = False
    """Whether it is one function applied to every element of its one operand."""

    reads_wide: ClassVar[bool] = False
    """Whether operands may have 16 bits."""

    def roles(self, count: int) -> tuple[Role, ...]:
        """The role of each of `count` operands."""
        return (Role.ACTIVATION,) * count

    def result_type(self, *inputs: FixedType | None) -> FixedType | None:
        """A type that the op itself prescribes for its results (softmax, argmax), if any."""
        return None

    def result_types(self, *inputs: FixedType | None) -> tuple[FixedType | None, ...]:
        """The same where results differ: one for each; empty if `result_type` tells for all."""
        return ()

    def operand_types(self) -> tuple[FixedType | None, ...]:
        """Types that the op prescribes for operands that have none; those not listed are free."""
        return ()

    @property
    def own_rounding(self) -> bool:
        """Whether results are rounded to numbers that no type lists, as `rounded` says.

        Then a type that the op prescribes keeps its width, whatever is asked of activations.
        """
        return False

    def rounded(self, *results: FloatArray) -> tuple[FloatArray, ...]:
        """Exact results as the integer form has them before they take their type."""
        return results

    def permuted(self, order: tuple[int, ...], *inputs: Value) -> Permuted | None:
        """The op g with g(transpose(x, order)) = transpose(self(x), result.order), if there is one.

        `inputs` are the operands as they are now. Operands that are data are all transposed alike;
        biases and parameters stay.
        """
        return Permuted(self, order) if self.elementwise else None

    @abstractmethod
    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """Results in floating point, for calibration and fidelity."""

    @abstractmethod
    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """Add the integer form to the integer graph; returns its results."""


class IntegerOp(Op):
    """An op on stored integers. `reference` is its definition."""

    stem: ClassVar[str]

    accumulates: ClassVar[bool] = False
    """Whether its kernel can store its int32 sums through an epilogue (see `ir/kernel.py`)."""

    @abstractmethod
    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """Range of stored integers of each result, exact or wider."""

    @abstractmethod
    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition, on int64 arrays."""

    @abstractmethod
    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The same in integer operators of ONNX."""

    @abstractmethod
    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """The call that computes it, for the emitters."""

    @abstractmethod
    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """Counts, no prices."""

    def alias(self) -> bool:
        """Whether the result is the operand's bytes as they are, so that no code is needed."""
        return False

    def clamped(self, lo: int, hi: int) -> IntegerOp | None:
        """The op with its result clamped as well, if it can do so itself."""
        return None

    def in_place(self) -> tuple[int, ...]:
        """Operands whose memory the result may take over element by element."""
        return ()
