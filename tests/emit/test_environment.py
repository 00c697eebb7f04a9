"""Text that goes into C: literals, comments, arrays."""

from __future__ import annotations

import ast
import re

import jinja2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binpoint.emit import environment
from binpoint.emit.calls import wrapped
from binpoint.emit.environment import c_array, c_int, c_string, comment, ctype, render_template
from binpoint.errors import TemplateError
from binpoint.numeric.fixed import I32, IntType

MARKS = st.text(alphabet="*/\\?\n\r\t\"' aé\0", max_size=12)


@given(text=MARKS | st.text(max_size=30))
def test_a_comment_holds_on_one_line_of_ascii(text: str) -> None:
    made = comment(text)
    assert made.isascii()
    assert made.isprintable() or not made
    assert not re.search(r"\*/|/\*|\?\?|\\", made)


def test_a_comment_stays_readable() -> None:
    assert comment("conv1/weights:0") == "conv1/weights:0"
    assert comment("a*/b") == "a* /b"
    assert comment("*\\") == "* /"


@given(text=MARKS | st.text(max_size=30))
def test_a_string_literal_is_its_text(text: str) -> None:
    made = c_string(text)
    assert made.isascii()
    assert "\n" not in made
    assert "??" not in made
    # C and Python read the escapes of these bytes alike.
    assert ast.literal_eval("b" + made) == text.encode()


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (-(2**31), "int32_t", "INT32_MIN"),
        (2**31 - 1, "int32_t", "2147483647"),
        (-(2**63), "int64_t", "INT64_MIN"),
        (2**63 - 1, "int64_t", "INT64_C(9223372036854775807)"),
        (2**32 - 1, "uint32_t", "4294967295u"),
        (-7, "int32_t", "-7"),
    ],
)
def test_integers_at_the_ends_of_their_types(value: int, kind: str, text: str) -> None:
    assert c_int(value, kind) == text


@pytest.mark.parametrize("width", [4, 8, 16, 32])
@pytest.mark.parametrize("signed", [True, False])
def test_arrays_read_back(width: int, signed: bool) -> None:
    elem = IntType(width, signed)
    array = np.array([elem.min, elem.max, *range(5)] * 9, np.int64)
    text = c_array(array, elem).replace("INT32_MIN", str(-(2**31))).replace("u", "")
    assert [int(word) for word in text.split(",")] == array.tolist()
    assert ctype(elem).strip("uint_") == str(max(8, width))


def test_a_long_array_has_short_lines() -> None:
    lines = c_array(np.full(1000, -(2**31) + 1, np.int64), I32).splitlines()
    assert max(map(len, lines)) < 240


def test_a_wrong_template_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> jinja2.Environment:
        loader = jinja2.DictLoader({"a.j2": "fine\n{{ absent }}\n", "b.j2": "{% if %}"})
        return jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, autoescape=True)

    monkeypatch.setattr(environment, "environment", broken)
    with pytest.raises(TemplateError, match=r"mcu-c/a\.j2"):
        render_template("mcu-c", "a.j2")
    with pytest.raises(TemplateError, match=r"mcu-c/b\.j2") as caught:
        render_template("mcu-c", "b.j2")
    assert caught.value.at == "line 1"
    with pytest.raises(TemplateError, match=r"absent\.j2"):
        render_template("mcu-c", "absent.j2")


def test_long_code_is_broken_behind_commas() -> None:
    words = [f"const int32_t *operand_{i}" for i in range(8)]
    lines = wrapped(f"static void function({', '.join(words)})", 4).split("\n")
    assert len(lines) > 1
    assert [line[-1] for line in lines] == [*"," * (len(lines) - 1), ")"]
    assert "".join(lines).replace(",    ", ", ") == f"static void function({', '.join(words)})"
