"""Jinja2 set-up and the filters; templates hold text, Python holds numbers."""

from __future__ import annotations

import re
import string
from functools import cache
from importlib import resources
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from binpoint.errors import TemplateError, printable
from binpoint.numeric.fixed import IntType
from binpoint.ops.packed import fields_of

_PER_LINE = 16
_MARK = re.compile(r"(?<=\*)(?=/)|(?<=/)(?=\*)|(?<=\?)(?=\?)")
"""Inside of comment marks and of what begins a trigraph."""
_PLAIN = frozenset(string.ascii_letters + string.digits + " _-./:,;()[]{}<>=+*#@!$%^&|~")


class _Loader(jinja2.BaseLoader):
    """Reads templates from the package, below one folder."""

    def __init__(self, folder: str) -> None:
        self.root = resources.files("binpoint.templates") / folder

    def get_source(
        self, environment: jinja2.Environment, template: str
    ) -> tuple[str, str | None, Any]:
        place = self.root
        for part in template.split("/"):
            place = place / part
        if not place.is_file():
            raise jinja2.TemplateNotFound(template)
        return place.read_text(encoding="utf-8"), template, lambda: True


def ctype(elem: IntType) -> str:
    """C type that stores an integer type."""
    bits = elem.dtype.itemsize * 8
    return f"int{bits}_t" if elem.signed else f"uint{bits}_t"


def c_int(value: int, kind: str = "int32_t") -> str:
    """An integer literal of a C type, portable at the ends of its range."""
    if kind == "int64_t":
        return "INT64_MIN" if value == -(2**63) else f"INT64_C({value})"
    if kind.startswith("uint"):
        return f"{value}u"
    if value == -(2**31):
        return "INT32_MIN"
    return str(value)


def c_array(array: NDArray[Any], elem: IntType) -> str:
    """The elements of an array as initialiser text, a number of them a line."""
    kind = ctype(elem)
    flat: list[int] = array.reshape(-1).astype(np.int64).tolist()
    if kind in ("int8_t", "uint8_t", "int16_t", "uint16_t"):
        words = [str(v) for v in flat]
    else:
        words = [c_int(v, kind) for v in flat]
    lines = [", ".join(words[i : i + _PER_LINE]) for i in range(0, len(words), _PER_LINE)]
    return ",\n    ".join(lines)


def comment(text: str) -> str:
    """Text that is safe inside a C comment: one line, no comment marks, no trigraphs, ASCII."""
    plain = printable(text).encode("ascii", "backslashreplace").decode().replace("\\", "/")
    return _MARK.sub(" ", plain)


def c_string(text: str) -> str:
    """A C string literal of any text, in UTF-8."""
    safe = "".join(c if c in _PLAIN else f"\\{ord(c):03o}" for c in text.encode().decode("latin-1"))
    return f'"{safe}"'


@cache
def environment(folder: str) -> jinja2.Environment:
    """The strict environment of one folder of templates."""
    found = jinja2.Environment(
        loader=_Loader(folder),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    filters: dict[str, Any] = found.filters
    filters.update(ctype=ctype, c_int=c_int, c_array=c_array, comment=comment, c_string=c_string)
    filters.update(fields=fields_of)
    return found


def render_template(folder: str, name: str, **views: object) -> str:
    """Render a template; an error names template and line.

    Raises:
        TemplateError: the template is wrong.
    """
    try:
        return environment(folder).get_template(name).render(**views)
    except jinja2.TemplateError as error:
        line = getattr(error, "lineno", None)
        raise TemplateError(
            f"the template `{folder}/{name}` is wrong: {error}", at=f"line {line}" if line else None
        ) from error
