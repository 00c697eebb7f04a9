from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from binpoint.ir.names import hides, identifier, prefix_of, unique

C_WORDS = """
    auto break case char const continue default do double else enum extern float for goto if inline
    int long register restrict return short signed sizeof static struct switch typedef union
    unsigned void volatile while class new delete this template namespace try catch
"""


@given(text=st.text(max_size=80))
def test_any_text_gives_an_identifier_and_always_the_same(text: str) -> None:
    name = identifier(text)
    assert re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name)
    assert "__" not in name
    assert name not in C_WORDS.split()
    assert len(name) <= 50
    assert identifier(name) == name == identifier(text)


@pytest.mark.parametrize("word", [*C_WORDS.split(), "main", "NULL", "arena", "context"])
def test_words_of_the_language_are_not_names(word: str) -> None:
    assert identifier(word) == f"v_{word}"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("conv1/weights:0", "conv1_weights_0"),
        ("/encoder/layer.0/Add", "encoder_layer_0_Add"),
        ("0", "v_0"),
        ("", "v"),
        ("***", "v"),
        ("größe", "gr_e"),
        ("a" * 60 + "tail", "a" * 44 + "tail"),
    ],
)
def test_names_stay_readable(text: str, name: str) -> None:
    assert identifier(text) == name


@given(texts=st.lists(st.text(alphabet="ab_2*", max_size=4), max_size=20))
def test_unique_names_are_unique(texts: list[str]) -> None:
    taken: list[str] = []
    for text in texts:
        taken.append(unique(text, taken))
    assert len(set(taken)) == len(taken)


def test_a_prefix_hides_nothing() -> None:
    assert prefix_of("String") == "string_model"
    assert prefix_of("test") == "test_model"
    assert prefix_of("Keyword Spotting") == "keyword_spotting"
    assert not hides(prefix_of("stdint"))
