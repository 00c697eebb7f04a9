from __future__ import annotations

import re

import pytest

from binpoint import catalogue, errors
from binpoint.errors import BinpointError, Exit, UsageError


def error_classes() -> list[type[BinpointError]]:
    found = [c for c in vars(errors).values() if isinstance(c, type)]
    return [c for c in found if issubclass(c, BinpointError) and c is not BinpointError]


CLASSES = error_classes()


def test_no_code_is_used_twice() -> None:
    codes = [c.code for c in CLASSES]
    assert len(codes) > 20
    assert sorted(set(codes)) == sorted(codes)


@pytest.mark.parametrize("error", CLASSES, ids=lambda c: c.__name__)
def test_every_code_is_explained_under_its_class_name(error: type[BinpointError]) -> None:
    headline, _, body = catalogue.explanation(error.code).partition("\n")
    assert headline == f"{error.code} {error.__name__}"
    assert len(body.strip()) > 25


@pytest.mark.parametrize("error", CLASSES, ids=lambda c: c.__name__)
def test_the_first_digit_of_a_code_is_its_familys(error: type[BinpointError]) -> None:
    family = next(c for c in CLASSES if c.__base__ is BinpointError and issubclass(error, c))
    assert re.fullmatch(r"BP\d{4}", error.code)
    assert error.code[:3] == family.code[:3]


def test_no_entry_is_left_of_a_code_that_is_gone() -> None:
    text = catalogue.reference_text("errors.md")
    documented = re.findall(r"^## (BP\d{4})", text, flags=re.M)
    assert sorted(documented) == sorted(c.code for c in CLASSES)


def test_an_unknown_code_is_refused_with_a_near_one() -> None:
    with pytest.raises(UsageError) as caught:
        catalogue.explanation("BP103")
    assert "BP1003" in str(caught.value.hint)


def test_an_error_prints_what_it_knows_and_no_more() -> None:
    error = errors.UnsupportedOperator("`Foo` is not supported", at="node 3", hint="cut it off")
    assert str(error) == ("error[BP1003]: `Foo` is not supported\n  at   node 3\n  hint cut it off")
    assert error.exit is Exit.MODEL


def test_names_from_a_file_cannot_forge_lines_or_colours() -> None:
    text = str(errors.InvalidModel("node `a\nerror[BP0000]: b\x1b[31m`", at="x\r\ty"))
    assert len(text.splitlines()) == 2
    assert "\x1b" not in text
    assert "\\n" in text
