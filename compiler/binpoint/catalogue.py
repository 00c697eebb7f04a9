"""What there is: targets, ops, passes, pipelines, error codes and tools, as rows of text."""

from __future__ import annotations

import re
from importlib import resources
from typing import Literal, assert_never

from binpoint import toml
from binpoint.errors import ToolNotFound, UsageError
from binpoint.target import McuTarget, list_targets, load_target

Row = dict[str, str]


def rows(what: Literal["targets", "ops", "passes", "pipelines"]) -> list[Row]:
    """Return one row per target, operator, pass or pipeline, in a fixed order."""
    match what:
        case "targets":
            return [_target_row(name) for name in list_targets()]
        case "ops":
            return _op_rows()
        case "passes":
            return _pass_rows()
        case "pipelines":
            return _pipeline_rows()
        case _:
            assert_never(what)


def explanation(code: str) -> str:
    """Return the entry of the error reference for a code such as ``BP1003``.

    Raises:
        UsageError: no error has this code.
    """
    text = reference_text("errors.md")
    entries = {
        entry[:6]: entry.strip() for entry in re.split(r"^## (?=BP\d{4} )", text, flags=re.M)
    }
    found = entries.get(code.upper())
    if found is None:
        hint = toml.nearest(code.upper(), [key for key in entries if key.startswith("BP")])
        raise UsageError(f"no error has the code `{code}`", hint=hint)
    return found


def reference_text(name: str) -> str:
    """Return the text of a reference page that comes with the package."""
    return resources.files("binpoint.reference").joinpath(name).read_text(encoding="utf-8")


def tools() -> list[Row]:
    """Return one row per core: whether its compiler, C library and emulator are found."""
    from binpoint.sim.emulator import find_tools

    found: list[Row] = []
    for target in map(load_target, list_targets()):
        if (
            not isinstance(target, McuTarget)
            or target.extends is not None
            or target.toolchain.emulator is None
        ):
            continue
        row = {"target": target.name, "state": "found", "to do": ""}
        try:
            find_tools(target)
        except ToolNotFound as missing:
            row |= {"state": missing.message, "to do": missing.hint or ""}
        found.append(row)
    return found


def _target_row(name: str) -> Row:
    target = load_target(name)
    core, flash, sram = "-", None, None
    if isinstance(target, McuTarget):
        core, flash, sram = target.extends or name, target.budget("code"), target.budget("arena")
    return {
        "target": name,
        "family": target.family,
        "core": core,
        "flash": "-" if flash is None else f"{flash // 1024} KiB",
        "sram": "-" if sram is None else f"{sram // 1024} KiB",
        "summary": target.summary,
    }


def _op_rows() -> list[Row]:
    """Return one row per ONNX operator that is read, sorted by name."""
    from binpoint.ops import OPS

    pairs = sorted(((name, op) for op in OPS for name in op.onnx), key=lambda pair: pair[0])
    return [{"operator": n, "op": op.__name__, "meaning": _first_line(op)} for n, op in pairs]


def _pass_rows() -> list[Row]:
    """Return one row per pass, in the order in which they run."""
    from binpoint.pipelines import PASSES

    return [{"pass": p.name, "meaning": _first_line(p)} for p in PASSES]


def _pipeline_rows() -> list[Row]:
    """Return one row per named pipeline, with its passes in order."""
    from binpoint.pipelines import PIPELINES

    return [{"pipeline": name, "passes": str(passes)} for name, passes in PIPELINES.items()]


def _first_line(thing: type) -> str:
    return (thing.__doc__ or "").strip().partition("\n")[0]
