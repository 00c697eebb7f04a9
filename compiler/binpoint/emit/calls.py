"""Texts of a kernel's call that model and stages have in common."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from binpoint.emit.environment import comment, ctype
from binpoint.ir.graph import Value
from binpoint.ir.kernel import Argument, Buffer, Number, Table
from binpoint.plan.fuse import Step

WIDTH = 110


def parameter(argument: Argument) -> str:
    """The parameter that takes an argument."""
    match argument:
        case Buffer(name=name, elem=elem, written=written):
            return f"{'' if written else 'const '}{ctype(elem)} *{name}"
        case Table(name=name, elem=elem):
            return f"const {ctype(elem)} *{name}"
        case Number(name=name, kind=kind):
            return f"{kind} {name}"


def formulas(step: Step) -> Sequence[str]:
    """Lines of the comment on a call: what is computed, and why a variant is exact."""
    formulas = [step.call.formula]
    if len(step.nodes) > 1:
        formulas.append(str(getattr(step.nodes[1].op, "formula", "")))
    head = f"kernel {step.call.variant}: " if step.call.variant else ""
    note = [head + step.call.note] if step.call.note else []
    if step.modelled is not None:
        note.append(f"chosen as {step.modelled.kernel}: {step.modelled.cycles} modelled cycles")
    return [*(_tidy(f) for f in formulas if f), *note]


def _tidy(formula: str) -> str:
    """A formula without signs of signs and without zeros: ``x - -128`` is ``x + 128``."""
    signs = formula.replace("- -", "+ ").replace("+ -", "- ")
    return re.sub(r"\((\w+) [-+] 0\)", r"\1", re.sub(r" [-+] 0(?=[,)]|$)", "", signs))


def type_text(value: Value) -> str:
    """Shape and type."""
    return f"{list(value.shape)} {value.elem}"


def title(step: Step) -> str:
    """The first line of the comment on a call."""
    ops = " + ".join(type(n.op).__name__ for n in step.nodes)
    return comment(f"{step.name}: {ops}, from {', '.join(step.origin.names) or 'the compiler'}")


def wrapped(text: str, indent: int) -> str:
    """Code of any length, on lines of which the later ones are indented."""
    lines = textwrap.wrap(
        text, WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines)
