"""Program: calls in order, where every value lives, constants. The only input of emission."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from binpoint.ir.constant import Constant
from binpoint.ir.graph import Graph, Value
from binpoint.ir.kernel import Buffer, Expanded, Table
from binpoint.numeric.fixed import IntType
from binpoint.ops.packed import IntPack, IntUnpack
from binpoint.plan.detector import Detector
from binpoint.plan.fuse import Step


class Place(StrEnum):
    """Where a value lives."""

    ARENA = "arena"
    INPUT = "input"
    OUTPUT = "output"
    CONSTANT = "constant"


@dataclass(frozen=True, slots=True)
class Storage:
    """Place, and offset in the arena, or index of the input, output or constant.

    `within` is how many bytes behind the start of an input or output it lies.
    """

    place: Place
    index: int
    within: int = 0


@dataclass(frozen=True, slots=True)
class ConstantArray:
    """One array of constants, used by any number of calls."""

    name: str
    array: Constant
    elem: IntType

    @property
    def bytes(self) -> int:
        """Size in memory."""
        return self.array.array.size * self.elem.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of the model: C name, the model's own name, its value."""

    name: str
    source: str
    value: Value

    @property
    def bytes(self) -> int:
        """Size in memory."""
        return self.value.type.size * self.value.elem.storage.dtype.itemsize


def boxes_port(detector: Detector) -> Port:
    """The boxes that a head makes, as an output of its own."""
    return Port("boxes", "", detector.value)


@dataclass(frozen=True, slots=True)
class PatchCall:
    """A patch: which piece computes it, where it starts in each operand and in the result.

    Places are in elements.
    """

    piece: int
    sources: tuple[int, ...]
    target: int


@dataclass(frozen=True, slots=True)
class Paste:
    """Rows of a patch in its place in the whole map: `rows` runs, `pitch` elements apart.

    `copy` is the call that moves a run, of a graph of its own.
    """

    rows: int
    run: int
    pitch: int
    graph: Graph
    copy: Step


@dataclass(frozen=True, slots=True)
class Piece:
    """Patches of one size and place relative to the borders: a program of its own.

    Its arena is the scratch memory of the stage. `paste` is None where the program writes into the
    whole map itself.
    """

    program: Program
    paste: Paste | None

    @property
    def planned_cycles(self) -> int | None:
        """What the calls of a patch are modelled to take; None without prices."""
        cycles = self.program.planned_cycles
        if cycles is None or self.paste is None:
            return cycles
        copy = self.paste.copy.modelled
        return None if copy is None else cycles + self.paste.rows * copy.cycles


@dataclass(frozen=True, slots=True)
class Choice:
    """Patches that one of two pieces computes, by what they read.

    Attributes:
        test: the index of what counts outliers in what a patch reads.
        limit: the patch is the piece `above` with more of them, `below` with at most so many.
    """

    test: int
    limit: int
    above: int
    below: int


@dataclass(frozen=True, slots=True)
class Stage:
    """A loop over patches, and the pieces that compute them.

    Where there are choices, those are the pieces of `patches`; `tests` are what they count by.
    """

    pieces: tuple[Piece, ...]
    patches: tuple[PatchCall, ...]
    tests: tuple[Piece, ...] = ()
    choices: tuple[Choice, ...] = ()

    @property
    def programs(self) -> tuple[Piece, ...]:
        """The pieces, and the tests."""
        return (*self.pieces, *self.tests)

    @property
    def bytes(self) -> int:
        """Scratch memory: what the piece that needs most does, whichever are chosen."""
        return max(piece.program.arena_bytes for piece in self.programs)

    @property
    def kernel(self) -> str | None:
        """The kernel that computes a single layer, beside what packs and unpacks its maps."""
        (first, *_) = self.pieces
        steps = [s for s in first.program.steps if not s.alias]
        layers = [s for s in steps if not isinstance(s.nodes[0].op, IntPack | IntUnpack)]
        if len(layers) != 1 or layers[0].modelled is None:
            return None
        bands = " in bands" if len(self.patches) > 1 else ""
        return f"{layers[0].modelled.kernel}{bands}"

    @property
    def planned_cycles(self) -> int | None:
        """What all patches are modelled to take, in the dearer piece; None without prices."""
        each = [piece.planned_cycles for piece in self.programs]
        known = [n for n in each if n is not None]
        if len(known) < len(each):
            return None
        tests = known[len(self.pieces) :]
        pairs = [(tests[c.test], max(known[c.above], known[c.below])) for c in self.choices]
        costs = [sum(pair) for pair in pairs] or known
        return sum(costs[patch.piece] for patch in self.patches)


@dataclass(frozen=True, slots=True)
class State:
    """What a call of a streaming model leaves to the next one, in memory of the caller's.

    Args:
        name: an identifier.
        initial: the constant that it begins as.
        source: the value that holds it after its step, from element `offset` on.
    """

    name: str
    initial: ConstantArray
    source: Buffer
    offset: int

    @property
    def size(self) -> int:
        """Elements."""
        return self.initial.array.array.size


@dataclass(frozen=True, slots=True)
class Program:
    """All that emission needs: order, offsets, types, arguments are decided."""

    name: str
    graph: Graph
    steps: tuple[Step, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    storage: Mapping[str, Storage]
    constants: tuple[ConstantArray, ...]
    arena_bytes: int
    arena_bound: int
    scratch: Mapping[str, int] = field(default_factory=dict[str, int])
    stages: Mapping[str, Stage] = field(default_factory=dict[str, Stage])
    """By the name of the step that is one."""
    states: Mapping[tuple[str, str], State] = field(default_factory=dict[tuple[str, str], State])
    """By step and argument that reads it."""
    detector: Detector | None = None
    """What makes boxes of an output, if that is asked for."""

    @property
    def constant_bytes(self) -> int:
        """Weights and tables."""
        return sum(c.bytes for c in self.constants)

    @property
    def planned_cycles(self) -> int | None:
        """What all kernels are modelled to take, with patches as often as they come.

        None without prices.
        """
        total = 0
        for step in self.steps:
            stage = self.stages.get(step.name)
            if stage is not None:
                cycles = stage.planned_cycles
            elif step.alias:
                continue
            else:
                cycles = None if step.modelled is None else step.modelled.cycles
            if cycles is None:
                return None
            total += cycles
        return total

    def constant_of(self, argument: Buffer | Table | Expanded) -> ConstantArray:
        """The array that an argument points to, or is unpacked from."""
        if isinstance(argument, Buffer):
            return self.constants[self.storage[argument.value].index]
        return self.constant_like(argument.array, stored(argument))

    def constant_like(self, array: Constant, elem: IntType) -> ConstantArray:
        """The array of this content."""
        return next(c for c in self.constants if c.array == array and c.elem == elem)

    def calls(self) -> Iterator[tuple[Graph, Step]]:
        """All steps with code, those of stages in place of the stage, and the graph of each."""
        return calls_of(self.graph, self.steps, self.stages)


def stored(argument: Buffer | Table | Expanded) -> IntType:
    """What an argument's array has as elements where it is constant."""
    return argument.stored if isinstance(argument, Expanded) else argument.elem


def constant_of(
    graph: Graph, argument: Buffer | Table | Expanded
) -> tuple[Constant, IntType] | None:
    """The constant array that an argument points to, or is unpacked from, and its elements."""
    array = graph.value(argument.value).constant if isinstance(argument, Buffer) else argument.array
    return None if array is None else (array, stored(argument))


def calls_of(
    graph: Graph, steps: Sequence[Step], stages: Mapping[str, Stage]
) -> Iterator[tuple[Graph, Step]]:
    """The same of a program that is not complete yet."""
    for step in steps:
        stage = stages.get(step.name)
        if stage is None:
            if not step.alias:
                yield graph, step
            continue
        for piece in stage.programs:
            yield from piece.program.calls()
            if piece.paste is not None:
                yield piece.paste.graph, piece.paste.copy
