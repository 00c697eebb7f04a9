"""What was emitted, as the witnesses see it: C for a processor, or HLS C++ for an FPGA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from binpoint.emit.fpga_hls import model_ports
from binpoint.errors import InvalidTarget, ToolFailed, ToolNotFound
from binpoint.ir.graph import Value
from binpoint.plan.design import Design
from binpoint.sim.host_c import HostBuild, run_project
from binpoint.sim.host_hls import Build, HlsInterface, Wire, run_files
from binpoint.sim.interface import Codes, Interface
from binpoint.sim.measure import Measurement, emulate
from binpoint.sim.witness import (
    NOT_ASKED,
    Answer,
    Compare,
    Compute,
    Witness,
    WitnessResult,
    judged,
    reason_of,
)
from binpoint.target import McuTarget

EMULATED_SAMPLES = 3
_AP_WORK = 500_000_000
"""Multiply-accumulates with arbitrary precision integers: about half a minute."""

Emulated = tuple[WitnessResult, Measurement | None, str | None]


@dataclass(frozen=True, slots=True)
class Trial:
    """How a witness computes, and on how many of the samples."""

    compute: Compute
    samples: int


class Emitted(Protocol):
    """A project that can be built and run."""

    def trials(self, inputs: Sequence[Codes], *, deep: bool) -> Mapping[Witness, Trial]:
        """The builds on this machine; with `deep` they tell every value they can."""
        ...

    def outputs(self, inputs: Sequence[Codes]) -> Sequence[Codes]:
        """The outputs of the fastest build, by value name.

        Raises:
            ToolNotFound: no host compiler.
        """
        ...

    def emulated(
        self, inputs: Sequence[Codes], compare: Compare, asked: Sequence[Witness]
    ) -> Emulated | None:
        """The emulator's answer, the figures of the build, or why none; None if there is none."""
        ...


@dataclass(frozen=True, slots=True)
class EmittedC:
    """A C project for a target."""

    interface: Interface
    files: Mapping[str, bytes]
    target: McuTarget | None
    """None where a folder names a target that is no longer known; `unknown` says so."""
    unknown: str = ""

    def trials(self, inputs: Sequence[Codes], *, deep: bool) -> Mapping[Witness, Trial]:
        """Under sanitizers, and as an application builds it: compilers err in other ways."""
        fast, files = HostBuild(sanitize=False), self.files
        return {
            Witness.HOST: Trial(
                lambda: run_project(self.interface, files, inputs, deep=deep), len(inputs)
            ),
            Witness.OPTIMISED: Trial(
                lambda: run_project(self.interface, files, inputs, deep=deep, build=fast),
                len(inputs),
            ),
        }

    def outputs(self, inputs: Sequence[Codes]) -> Sequence[Codes]:
        """Of the optimised build."""
        return run_project(self.interface, self.files, inputs, build=HostBuild(sanitize=False))

    def emulated(
        self, inputs: Sequence[Codes], compare: Compare, asked: Sequence[Witness]
    ) -> Emulated | None:
        """Of the first samples; the program is built even if the emulator is not asked."""
        witness, run = Witness.EMULATOR, Witness.EMULATOR in asked
        not_run = WitnessResult(witness.label, Answer.NOT_RUN, reason=NOT_ASKED)
        if self.target is None:
            return replace(not_run, reason=self.unknown), None, self.unknown
        few = inputs[:EMULATED_SAMPLES]
        try:
            found, figures = emulate(self.interface, self.files, self.target, few, run=run)
        except (ToolNotFound, InvalidTarget) as missing:
            reason = reason_of(missing)
            return (replace(not_run, reason=reason) if run else not_run), None, reason
        except ToolFailed as failure:
            if "overflowed" not in (failure.have or ""):
                raise
            reason = f"larger than the emulated board's memory: {failure.have}"
            return replace(not_run, reason=reason), None, reason
        if not run:
            return not_run, figures, None
        answer = judged(witness, compare(found), len(few))
        return replace(answer, reason=answer.reason or linked_parts(figures)), figures, None


def linked_parts(figures: Measurement) -> str | None:
    """What the image holds that it should not: floating point, a heap."""
    found = [
        f"{what} is linked: {', '.join(parts)}"
        for what, parts in (("float", figures.float_parts), ("a heap", figures.heap_parts))
        if parts
    ]
    return "; ".join(found) or None


@dataclass(frozen=True, slots=True)
class EmittedHls:
    """An HLS project: `inputs` and `outputs` are the model's values, in the order of the ports."""

    interface: HlsInterface
    files: Mapping[str, bytes]
    inputs: tuple[Value, ...]
    outputs_of: tuple[Value, ...]
    macs: int
    """Multiply-accumulates of one inference."""

    @classmethod
    def of(cls, design: Design, files: Mapping[str, bytes], macs: int) -> EmittedHls:
        """The project that a design was rendered into."""
        inputs, outputs = (tuple(p.value for p in ports) for ports in model_ports(design))
        return cls(HlsInterface.of(design), files, inputs, outputs, macs)

    def trials(self, inputs: Sequence[Codes], *, deep: bool) -> Mapping[Witness, Trial]:
        """Native integers on all samples, exact widths on as many as half a minute allows.

        Outputs are compared, whether `deep` or not.
        """
        few = inputs[: max(1, _AP_WORK // max(1, self.macs))]
        return {
            Witness.NATIVE: Trial(lambda: self.build(inputs, Build.NATIVE), len(inputs)),
            Witness.AP: Trial(lambda: self.build(few, Build.AP), len(few)),
        }

    def outputs(self, inputs: Sequence[Codes]) -> Sequence[Codes]:
        """Of native integers, without sanitizers."""
        return self.build(inputs, Build.NATIVE, checked=False)

    def emulated(
        self, inputs: Sequence[Codes], compare: Compare, asked: Sequence[Witness]
    ) -> Emulated | None:
        """No processor runs it."""
        del inputs, compare, asked
        return None

    def build(
        self, inputs: Sequence[Codes], build: Build, *, checked: bool = True
    ) -> list[dict[str, NDArray[Any]]]:
        """The outputs of one build; `checked` is under sanitizers."""
        carried = [self._sent(sample) for sample in inputs]
        found = run_files(self.interface, self.files, carried, build, checked=checked)
        return [self._received(values) for values in found]

    def _sent(self, sample: Codes) -> dict[str, NDArray[Any]]:
        """What the ports take: the host brings the axes into their order."""
        return {
            wire.value: _ordered(sample[value.name].reshape(value.shape), wire)
            for wire, value in zip(self.interface.inputs, self.inputs, strict=True)
        }

    def _received(self, values: Codes) -> dict[str, NDArray[Any]]:
        return {
            value.name: _ordered(values[wire.value], wire).reshape(value.shape)
            for wire, value in zip(self.interface.outputs, self.outputs_of, strict=True)
        }


def _ordered(array: NDArray[Any], wire: Wire) -> NDArray[Any]:
    return np.transpose(array, wire.view.order) if wire.view.order else array
