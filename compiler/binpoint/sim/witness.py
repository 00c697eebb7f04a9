"""Who computes the outputs besides the interpreter, what each says, and the verdict of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from binpoint.errors import BinpointError, ToolNotFound, UsageError
from binpoint.sim.compare import Difference
from binpoint.sim.interface import Codes
from binpoint.sim.measure import Measurement

NOT_ASKED = "not asked for"
Compute = Callable[[], Sequence[Codes]]
Compare = Callable[[Sequence[Codes]], Difference | None]
"""The first difference of the first samples' outputs."""


class Answer(StrEnum):
    """What a witness says."""

    EQUAL = "equal"
    DIFFERENT = "different"
    NOT_RUN = "not run"


class Witness(StrEnum):
    """Who computes the outputs besides the interpreter."""

    ORT = "ort"
    HOST = "host"
    OPTIMISED = "host -O2"
    NATIVE = "native integers"
    AP = "ap_types"
    EMULATOR = "emulator"

    @property
    def label(self) -> str:
        """Its name in reports."""
        return "onnxruntime" if self is Witness.ORT else self.value


def witnesses_of(text: str) -> tuple[Witness, ...]:
    """The witnesses of `none`, `all`, or of a list such as `ort,host`.

    The host's C counts twice: under sanitizers, and optimised; `host` is native integers for HLS.

    Raises:
        UsageError: no witness has the name.
    """
    known: Mapping[str, tuple[Witness, ...]] = {
        "none": (),
        "ort": (Witness.ORT,),
        "host": (Witness.HOST, Witness.OPTIMISED, Witness.NATIVE),
        "ap": (Witness.AP,),
        "emulator": (Witness.EMULATOR,),
        "all": tuple(Witness),
    }
    found: list[Witness] = []
    for word in (word.strip() for word in text.split(",")):
        if word not in known:
            raise UsageError(f"there is no witness `{word}`", want=", ".join(known))
        found += known[word]
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class WitnessResult:
    """One witness: its answer over how many samples, and why, or where it differs.

    `counts` tells whether a difference makes the whole verdict "different".
    """

    name: str
    verdict: Answer
    samples: int = 0
    reason: str | None = None
    difference: Difference | None = None
    counts: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """All witnesses, and the figures of the emulated program where it was built."""

    witnesses: tuple[WitnessResult, ...]
    measurement: Measurement | None = None
    unmeasured: str | None = None

    @property
    def answer(self) -> Answer:
        """Different if any that counts is; equal if any ran besides the interpreter."""
        answers = [w.verdict for w in self.witnesses if w.counts and w.name != "interpreter"]
        if Answer.DIFFERENT in answers:
            return Answer.DIFFERENT
        return Answer.EQUAL if Answer.EQUAL in answers else Answer.NOT_RUN

    @property
    def first_difference(self) -> WitnessResult:
        """The first witness that makes the verdict "different"."""
        return next(w for w in self.witnesses if w.counts and w.verdict is Answer.DIFFERENT)


def ask(
    witness: Witness, compute: Compute, compare: Compare, asked: Sequence[Witness]
) -> WitnessResult:
    """One witness; a missing tool is a reason, never an answer."""
    if witness not in asked:
        return WitnessResult(witness.label, Answer.NOT_RUN, reason=NOT_ASKED)
    try:
        found = compute()
    except ToolNotFound as missing:
        return WitnessResult(witness.label, Answer.NOT_RUN, reason=reason_of(missing))
    return judged(witness, compare(found), len(found))


def judged(witness: Witness, difference: Difference | None, samples: int) -> WitnessResult:
    """The answer of a witness that ran."""
    if difference is None:
        return WitnessResult(witness.label, Answer.EQUAL, samples)
    reason = str(difference)
    return WitnessResult(witness.label, Answer.DIFFERENT, samples, reason, difference)


def reason_of(missing: BinpointError) -> str:
    """Why a witness did not run, in one line."""
    return "; ".join(text for text in (missing.message, missing.have, missing.hint) if text)
