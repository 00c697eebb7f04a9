"""What can go wrong, as a tree of exceptions that each say what, where, why and how out.

Codes: BP1xxx the model cannot be read as meant, BP2xxx no types can be assigned, BP3xxx no integer
form exists, BP4xxx the target, BP5xxx emission and tools, BP6xxx verification, BP8xxx usage,
BP9xxx a defect of binpoint. A code is never reused; ``docs/reference/errors.md`` explains each.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class Exit(IntEnum):
    """Exit status of the command line."""

    DONE = 0
    DEFECT = 1
    USAGE = 2
    MODEL = 3
    BUDGET = 4
    DIFFERENT = 5
    TOOL = 6


class BinpointError(Exception):
    """Base of all errors: one sentence; where known the place, what was found, what would do."""

    code: ClassVar[str] = "BP9000"
    exit: ClassVar[Exit] = Exit.DEFECT

    def __init__(
        self,
        message: str,
        *,
        at: str | None = None,
        have: str | None = None,
        want: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.at = at
        self.have = have
        self.want = want
        self.hint = hint

    def __str__(self) -> str:
        """Render as printed by the command line: a headline and up to four labelled lines."""
        lines = [f"error[{self.code}]: {printable(self.message)}"]
        for label, text in (
            ("at", self.at),
            ("have", self.have),
            ("want", self.want),
            ("hint", self.hint),
        ):
            if text is not None:
                lines.append(f"  {label:<4} {printable(text)}")
        return "\n".join(lines)


def printable(text: str) -> str:
    """Return ``text`` with control characters escaped: a file's names cannot forge output."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


# ---- BP1xxx: the model cannot be read as meant


class ModelError(BinpointError):
    """The model cannot be read as meant."""

    code = "BP1000"
    exit = Exit.MODEL


class InvalidModel(ModelError):
    """The file is no valid ONNX model."""

    code = "BP1001"


class DynamicShape(ModelError):
    """A shape is not known at compile time."""

    code = "BP1002"


class UnsupportedOperator(ModelError):
    """An operator, or a form of it, has no integer form here."""

    code = "BP1003"


class InvalidConstant(ModelError):
    """A constant holds NaN or infinity, or a scale that is not a positive finite number."""

    code = "BP1004"


class ExternalDataError(ModelError):
    """External tensor data is missing, too short, or outside the model's folder."""

    code = "BP1005"


# ---- BP2xxx: no types can be assigned


class QuantizationError(BinpointError):
    """No integer types can be assigned."""

    code = "BP2000"
    exit = Exit.MODEL


class MissingSamples(QuantizationError):
    """A float model needs sample inputs to find its ranges."""

    code = "BP2001"


class InvalidSamples(QuantizationError):
    """The samples do not fit the model's inputs."""

    code = "BP2002"


class RangeOverflow(QuantizationError):
    """A range cannot be represented."""

    code = "BP2003"


# ---- BP3xxx: an integer form does not exist


class LoweringError(BinpointError):
    """An integer form does not exist."""

    code = "BP3000"
    exit = Exit.MODEL


class NoIntegerForm(LoweringError):
    """The op, with these types, cannot be computed in integers."""

    code = "BP3001"


class AccumulatorOverflow(LoweringError):
    """A proven range does not fit the widest integer available."""

    code = "BP3003"


# ---- BP4xxx: the target


class TargetError(BinpointError):
    """The target is unknown, invalid or too small."""

    code = "BP4000"
    exit = Exit.USAGE


class UnknownTarget(TargetError):
    """No target has this name."""

    code = "BP4001"


class InvalidTarget(TargetError):
    """A target file is wrong."""

    code = "BP4002"


class DoesNotFit(TargetError):
    """The program needs more memory than the target has."""

    code = "BP4003"
    exit = Exit.BUDGET


# ---- BP5xxx: emission and tools


class EmissionError(BinpointError):
    """The sources cannot be written."""

    code = "BP5000"
    exit = Exit.USAGE


class ToolNotFound(EmissionError):
    """A compiler, emulator or other program is missing."""

    code = "BP5001"
    exit = Exit.TOOL


class TemplateError(EmissionError):
    """A template is wrong: a defect of binpoint."""

    code = "BP5002"
    exit = Exit.DEFECT


class OutputError(EmissionError):
    """The output folder exists already or cannot be written."""

    code = "BP5003"


class ToolFailed(EmissionError):
    """A compiler or emulator stopped with an error."""

    code = "BP5004"
    exit = Exit.DEFECT


# ---- BP6xxx: verification


class VerificationError(BinpointError):
    """Verification could not be done, or found a difference."""

    code = "BP6000"
    exit = Exit.DIFFERENT


class Mismatch(VerificationError):
    """Two witnesses differ."""

    code = "BP6001"


# ---- BP8xxx: usage


class UsageError(BinpointError):
    """The command or call is wrong."""

    code = "BP8000"
    exit = Exit.USAGE


class UnknownPass(UsageError):
    """No pass has this name."""

    code = "BP8001"


class BadPassOption(UsageError):
    """A pass has no such option, or not with this value."""

    code = "BP8002"


class BadOption(UsageError):
    """A compile option is unknown or has a wrong value."""

    code = "BP8003"


class InputNotFound(UsageError):
    """A file named by the user cannot be read."""

    code = "BP8004"


class MissingExtra(UsageError):
    """A part of binpoint needs packages that are not installed."""

    code = "BP8005"
    exit = Exit.TOOL


class NotTrainable(UsageError):
    """A module has no fixed-point form, or is not ready for what was asked."""

    code = "BP8006"


# ---- BP9xxx: a defect of binpoint


class InternalError(BinpointError):
    """A defect of binpoint."""

    code = "BP9000"


class InvariantBroken(InternalError):
    """The graph is not legal at its stage."""

    code = "BP9001"


class PassFailed(InternalError):
    """A pass raised an unexpected exception."""

    code = "BP9002"
