from __future__ import annotations

import pytest

from docs.pages import REFERENCE, pages


@pytest.mark.parametrize("name", sorted(pages()))
def test_the_page_is_what_the_package_says(name: str) -> None:
    text = (REFERENCE / name).read_text(encoding="utf-8")
    assert text == pages()[name], "python docs/pages.py writes it anew"
