"""Text to passes: ``merge-clamps,assign-types{samples=20}``; `str` of a pass is the way back.

Passes are separated by commas, options in braces by spaces, elements of a tuple by commas.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import msgspec

from binpoint import toml
from binpoint.errors import BadPassOption, UnknownPass
from binpoint.passes.base import Pass, option
from binpoint.passes.manager import Pipeline

_ITEM = re.compile(r"\s*(?P<name>[^\s,{}]+)\s*(?:\{(?P<options>[^{}]*)\})?\s*(?:,|$)")


def parse(text: str, passes: Sequence[type[Pass]]) -> Pipeline:
    """The pipeline that a text states, of these passes.

    Raises:
        UnknownPass: no pass has the name, the text is no list of passes, or stages do not join.
        BadPassOption: a pass has no such option, or not with this value.
    """
    if not text.strip():
        raise UnknownPass("the pipeline has no pass", want="a pipeline's name, or passes")
    found: list[Pass] = []
    at = 0
    while at < len(text):
        item = _ITEM.match(text, at)
        if item is None:
            raise UnknownPass(
                "this is no list of passes",
                at=f"character {at + 1}",
                have=text[at : at + 40],
                want="name{option=value},name",
            )
        found.append(_make(item["name"], item["options"] or "", passes))
        at = item.end()
    return Pipeline(*found)


def _make(name: str, options: str, passes: Sequence[type[Pass]]) -> Pass:
    kind = next((p for p in passes if p.name == name), None)
    if kind is None:
        known = [p.name for p in passes]
        hint = toml.nearest(name, known) or "`binpoint list passes` names them"
        raise UnknownPass(f"there is no pass `{name}`", hint=hint)
    given: dict[str, Any] = {}
    seen: set[str] = set()
    for word in options.split():
        key, equals, value = word.partition("=")
        if not equals or key in seen:
            raise BadPassOption(
                "an option is set once, by KEY=VALUE", at=f"`{name}`", have=word or "nothing"
            )
        seen.add(key)
        field, given_value = _value(kind, key, value)
        given[field] = given_value
    return kind(**given)


def _value(kind: type[Pass], key: str, text: str) -> tuple[str, object]:
    """The field that a pass's option is, and the value in its type."""
    names = {option(f.name): f.name for f in fields(kind)} if is_dataclass(kind) else {}
    if key not in names:
        has = f"it has {', '.join(names)}" if names else "it has none"
        hint = toml.nearest(key, list(names)) or has
        raise BadPassOption(f"`{kind.name}` has no option `{key}`", hint=hint)
    hint = get_type_hints(kind)[names[key]]
    many = getattr(hint, "__origin__", hint) is tuple
    raw = text.split(",") if many else text
    try:
        return names[key], msgspec.convert(raw, type=hint, strict=False)
    except msgspec.ValidationError as error:
        raise BadPassOption(
            f"`{kind.name}` does not take this value of `{key}`", have=text, want=str(error)
        ) from error
