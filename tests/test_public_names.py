from __future__ import annotations

import pytest

import binpoint


@pytest.mark.parametrize("name", binpoint.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    thing: object = getattr(binpoint, name)
    assert thing.__doc__


def test_an_unknown_name_is_refused_as_python_does() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        binpoint.nonsense  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue, reportUnusedExpression]
