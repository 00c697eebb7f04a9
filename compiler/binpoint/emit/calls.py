"""Texts of a kernel's call that model and stages have in common."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from binpoint.emit.environment import comment, ctype
from binpoint.ir.graph import Value
from binpoint.ir.kernel import Argument, Buffer, Expanded, KernelCall, Number, Table
from binpoint.plan.fuse import Step

WIDTH = 110
_BOUND = "\0"
"""A space at which no line ends, while lines are chosen."""


def parameter(argument: Argument) -> str:
    """The parameter that takes an argument."""
    match argument:
        case Buffer(name=name, elem=elem, written=written):
            return f"{'' if written else 'const '}{ctype(elem)} *{name}"
        case Table(name=name, elem=elem) | Expanded(name=name, elem=elem):
            return f"const {ctype(elem)} *{name}"
        case Number(name=name, kind=kind):
            return f"{kind} {name}"


def statement(call: KernelCall, words: Sequence[str]) -> str:
    """The call, with the words of all arguments in order; of an `Expanded` one that is its array.

    Where `scratch` is the call's memory.
    """
    strides = dict(call.strides) if call.slices > 1 else {}
    passed: list[str] = []
    before: list[str] = []
    for argument, word in zip(call.all_arguments, words, strict=True):
        text = word
        if isinstance(argument, Expanded):
            tile = f"scratch + {call.tile}" if call.tile else "scratch"
            slice_ = f" + slice * {argument.array.array[0].size}" if call.slices > 1 else ""
            before.append(
                f"{argument.symbol}((uint32_t *)(void *)({tile}), {word}{slice_}, "
                f"{argument.blocks}, {-argument.least});"
            )
            text = f"(const {ctype(argument.elem)} *)(const void *)({tile})"
        elif argument.name in strides:
            text = f"{word} + slice * {strides[argument.name]}"
        passed.append(text)
    if call.scratch:
        passed.append("scratch")
    lines = [*before, f"{call.symbol}({', '.join(passed)});"]
    if call.slices == 1:
        return "\n".join(wrapped(line, 4) for line in lines)
    inner = "\n".join(textwrap.indent(wrapped(line, 4), " " * 4) for line in lines)
    return f"for (int32_t slice = 0; slice < {call.slices}; ++slice) {{\n{inner}\n}}"


def formulas(step: Step) -> Sequence[str]:
    """Lines of the comment on a call: what is computed, and why a variant is exact."""
    formulas = [step.call.formula]
    if len(step.nodes) > 1:
        formulas.append(str(getattr(step.nodes[1].op, "formula", "")))
    head = f"kernel {step.call.variant}: " if step.call.variant else ""
    note = [head + step.call.note] if step.call.note else []
    if step.modelled is not None:
        note.append(f"chosen as {step.modelled.kernel}: {step.modelled.cycles} modelled cycles")
    return [*(tidy(f) for f in formulas if f), *note]


def tidy(formula: str) -> str:
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
    """Code of any length, on lines of which the later ones are indented; broken behind commas."""
    lines = textwrap.wrap(
        re.sub("(?<!,) ", _BOUND, text),
        WIDTH,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines).replace(_BOUND, " ")
