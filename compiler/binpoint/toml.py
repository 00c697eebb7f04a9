"""TOML files decoded into typed structs, with errors that name file, key and the nearest key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

import msgspec

from binpoint.errors import BinpointError, InputNotFound

T = TypeVar("T", bound=msgspec.Struct)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return a hint that names the known words most like ``word``, or None if none is near."""
    near = get_close_matches(word, sorted(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(f'`{name}`' for name in near)}?" if near else None


def read_text(path: Path) -> str:
    """Return the text of a file that the user named.

    Raises:
        InputNotFound: the file is missing, unreadable or not UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputNotFound(f"cannot read the file: {reason}", at=str(path)) from error


def parse(text: str, *, at: str, error: type[BinpointError]) -> dict[str, object]:
    """Parse TOML text; a syntax error is raised as ``error`` at ``at``."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise error("the file is no valid TOML", at=at, have=str(problem)) from problem


def decode(
    raw: Mapping[str, object],
    kind: type[T],
    *,
    at: str,
    error: type[BinpointError],
    keys: Iterable[str] = (),
) -> T:
    """Convert parsed TOML to ``kind``; ``keys`` are the valid keys of its nested tables, for hints.

    Raises:
        BinpointError: of class ``error``, naming the key, what was found and what would do.
    """
    try:
        return msgspec.convert(raw, type=kind)
    except msgspec.ValidationError as problem:
        text, _, where = str(problem).partition(" - at ")
        path = "".join(re.findall(r"\$\.?([^`]*)", where))
        place = f"{at}, {path}" if path else at
        known = {*kind.__struct_fields__, *keys}
        raise _explain(text, place, known, error) from problem


def _explain(text: str, place: str, known: set[str], error: type[BinpointError]) -> BinpointError:
    """Return the error that says in our words what the decoder found wrong."""
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", text, re.DOTALL):
        hint = nearest(unknown[1], known) or f"the keys are {', '.join(sorted(known))}"
        return error(f"unknown key `{unknown[1]}`", at=place, hint=hint)
    if missing := re.fullmatch(r"Object missing required field `(.*)`", text):
        return error(f"the key `{missing[1]}` is missing", at=place)
    if mismatch := re.fullmatch(r"Expected (.*), got (.*)", text):
        have, want = mismatch[2].replace("`", ""), mismatch[1].replace("`", "")
        return error("a value of the wrong kind", at=place, have=have, want=want)
    return error(f"a value that is not allowed: {text[0].lower()}{text[1:]}", at=place)
