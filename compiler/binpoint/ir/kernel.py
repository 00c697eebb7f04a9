"""What an op tells the emitters: a kernel by its signature, and the arguments of one call.

An argument's place in the C parameter list is its place in `KernelCall.arguments`; templates name
the parameters, so the order is known in one place only.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from binpoint.ir.constant import Constant
from binpoint.numeric.fixed import IntType
from binpoint.numeric.planes import BLOCK


@dataclass(frozen=True, slots=True)
class Buffer:
    """A pointer to a value of the graph: an activation in the arena, or a constant.

    It points to the element `start` of an activation.
    """

    name: str
    value: str
    elem: IntType
    written: bool = False
    start: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """A pointer to a constant array that belongs to the call: multipliers, thresholds, tables."""

    name: str
    array: Constant
    elem: IntType


@dataclass(frozen=True, slots=True)
class Number:
    """An integer literal. `kind` is the C type of the parameter."""

    name: str
    value: int
    kind: str = "int32_t"


@dataclass(frozen=True, slots=True)
class Expanded:
    """A pointer to a constant array that lies packed in planes (`numeric.planes`).

    The call unpacks it into memory of its own first.

    Args:
        array: words of the planes, ``[slices, …]``.
        elem: of the unpacked array.
        bits: of a code.
        least: the value of code zero, not above zero.
        lanes: ``bytes``, or ``halfwords`` of 256 times one value plus the one before.
        unit: codes in a unit of the planes.
    """

    name: str
    array: Constant
    elem: IntType
    bits: int
    least: int
    lanes: str
    unit: int

    @property
    def stored(self) -> IntType:
        """Of the packed array."""
        return _WORDS

    @property
    def blocks(self) -> int:
        """Blocks in a slice."""
        return self.array.array[0].size * 4 // (self.bits * self.unit)

    @property
    def bytes(self) -> int:
        """Memory for a slice that is unpacked."""
        return self.blocks * BLOCK * self.unit

    @property
    def symbol(self) -> str:
        """Name of the function that unpacks it: it determines its text."""
        wide = "" if self.unit == _UNIT else f"_{self.unit}"
        return f"bp_expand_{self.lanes}_{self.bits}{wide}"


_UNIT = 4
_WORDS = IntType(32, signed=False)
Argument = Buffer | Table | Number | Expanded


@dataclass(frozen=True, slots=True)
class Epilogue:
    """What happens to an accumulator before it is stored: requantize and clamp.

    `form` is one of ``mulshift``, ``thresholds``, ``exact``; see `ops/requantize.py`.
    """

    form: str
    per_channel: bool
    arguments: tuple[Argument, ...]
    result: IntType


@dataclass(frozen=True, slots=True)
class Block:
    """A function that kernels of a variant share: a template of its folder, with traits."""

    stem: str
    traits: tuple[tuple[str, str], ...] = ()

    @property
    def symbol(self) -> str:
        """Name of the function: it determines its text."""
        return "_".join(["bp", self.stem, *(value for _, value in self.traits if value)])


@dataclass(frozen=True, slots=True)
class KernelCall:
    """One call of a kernel. `traits` select forms within a template, by name and value.

    `variant` is the folder of the template, empty for portable C; `note` says what a variant relies
    on, in the comment of the emitted call; `blocks` are the functions it calls. A `shared` kernel
    is one function even where others are compiled anew for each call. `scratch` bytes of the arena
    are the kernel's own.

    A call with an `Expanded` argument runs the kernel for `slices` of the channels in turn;
    `strides` are how many elements a pointer moves from one to the next, by name.
    """

    stem: str
    arguments: tuple[Argument, ...]
    traits: tuple[tuple[str, str], ...] = ()
    epilogue: Epilogue | None = None
    formula: str = ""
    scratch: int = 0
    variant: str = ""
    note: str = ""
    blocks: tuple[Block, ...] = ()
    shared: bool = False
    slices: int = 1
    strides: tuple[tuple[str, int], ...] = ()

    @property
    def expanded(self) -> Expanded | None:
        """The argument that is unpacked first."""
        return next((a for a in self.arguments if isinstance(a, Expanded)), None)

    @property
    def tile(self) -> int:
        """Where the unpacked argument lies in the call's memory."""
        return -(-self.scratch // _UNIT) * _UNIT

    @property
    def memory(self) -> int:
        """Bytes of the arena that are the call's own: scratch, and what is unpacked."""
        found = self.expanded
        return self.scratch if found is None else self.tile + found.bytes

    @property
    def symbol(self) -> str:
        """Name of the kernel: it determines the kernel's text."""
        parts = ["bp", *([self.variant] if self.variant else []), self.stem]
        parts += [str(a.elem) for a in self.all_arguments if not isinstance(a, Number)]
        parts += [value for _, value in self.traits if value]
        if self.epilogue is not None:
            parts += [self.epilogue.form] + (["pc"] if self.epilogue.per_channel else [])
        return "_".join(parts).replace("-", "m")

    @property
    def all_arguments(self) -> tuple[Argument, ...]:
        """The call's own arguments, then those of the epilogue."""
        return self.arguments + (self.epilogue.arguments if self.epilogue is not None else ())

    @property
    def numbers(self) -> dict[str, int]:
        """The call's own numbers by name."""
        return {a.name: a.value for a in self.arguments if isinstance(a, Number)}

    def fused(self, epilogue: Epilogue, result: Buffer) -> KernelCall:
        """The same call storing through an epilogue into another buffer."""
        arguments = tuple(
            result if isinstance(a, Buffer) and a.written else a for a in self.arguments
        )
        return replace(self, arguments=arguments, epilogue=epilogue)


@dataclass(frozen=True, slots=True)
class Work:
    """What one evaluation of an op costs, in counts without prices."""

    macs: int = 0
    loads: int = 0
    stores: int = 0
    lookups: int = 0
    notes: tuple[str, ...] = field(default=())
