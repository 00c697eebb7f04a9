from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from binpoint.errors import BadPassOption, BinpointError, UnknownPass
from binpoint.ir.graph import Graph
from binpoint.passes.base import Context, Effect, Pass, Stage
from binpoint.passes.spec import parse
from binpoint.pipelines import PASSES, PIPELINES
from binpoint.quantize.assign_types import AssignTypes


class Taste(StrEnum):
    SWEET = "sweet"
    SOUR = "sour"


@dataclass(frozen=True, slots=True)
class Cook(Pass):
    """A pass with options of every kind."""

    name: ClassVar[str] = "cook"
    before: ClassVar[Stage] = Stage.FLOAT
    after: ClassVar[Stage] = Stage.FLOAT
    effect: ClassVar[Effect] = Effect.KEEPS_VALUES

    widths: tuple[int, ...] = (8, 16)
    hot: bool = False
    salt: float = 0.5
    taste: Taste = Taste.SWEET

    def run(self, graph: Graph, context: Context) -> Graph:
        return graph


@dataclass(frozen=True, slots=True)
class Eat(Cook):
    """Another pass."""

    name: ClassVar[str] = "eat"


KNOWN: tuple[type[Pass], ...] = (Cook, Eat)


def test_a_pass_with_its_defaults_is_its_name() -> None:
    assert str(Cook()) == "cook"
    assert parse("cook", KNOWN).passes == (Cook(),)


def test_options_of_every_kind_are_read() -> None:
    text = "cook{widths=4,8 hot=true salt=2 taste=sour}, eat{widths=1}"
    expected = (Cook((4, 8), hot=True, salt=2.0, taste=Taste.SOUR), Eat(widths=(1,)))
    assert parse(text, KNOWN).passes == expected


@given(
    widths=st.lists(st.integers(1, 64), min_size=1).map(tuple),
    hot=st.booleans(),
    salt=st.floats(allow_nan=False, allow_infinity=False),
    taste=st.sampled_from(Taste),
)
def test_text_and_pass_are_two_forms_of_one_thing(
    widths: tuple[int, ...], hot: bool, salt: float, taste: Taste
) -> None:
    made = Cook(widths, hot, salt, taste)
    pipeline = parse(f"{made},eat", KNOWN)
    assert pipeline.passes == (made, Eat())
    assert parse(str(pipeline), KNOWN) == pipeline


@pytest.mark.parametrize("name", sorted(PIPELINES))
def test_named_pipelines_read_back(name: str) -> None:
    assert parse(str(PIPELINES[name]), PASSES) == PIPELINES[name]


def test_a_pass_of_the_compiler_takes_its_option() -> None:
    assert parse("assign-types{samples=20}", PASSES).passes == (AssignTypes(samples=20),)


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("coook", UnknownPass, "did you mean `cook`"),
        ("", UnknownPass, "no pass"),
        ("cook eat", UnknownPass, "no list of passes"),
        ("cook{hot=true", UnknownPass, "no list of passes"),
        ("cook,,eat", UnknownPass, "no list of passes"),
        ("cook{hott=true}", BadPassOption, "did you mean `hot`"),
        ("cook{hot}", BadPassOption, "KEY=VALUE"),
        ("cook{hot=true hot=true}", BadPassOption, "set once"),
        ("cook{hot=warm}", BadPassOption, "does not take this value"),
        ("cook{widths=4,many}", BadPassOption, "does not take this value"),
        ("cook{taste=bitter}", BadPassOption, "does not take this value"),
        ("cook{name=eat}", BadPassOption, "no option `name`"),
    ],
)
def test_a_wrong_text_is_one_error(text: str, error: type[BinpointError], says: str) -> None:
    with pytest.raises(error) as caught:
        parse(text, KNOWN)
    assert says in str(caught.value)


def test_stages_that_do_not_join_are_refused() -> None:
    with pytest.raises(UnknownPass, match="cannot follow"):
        parse("to-integers,assign-types", PASSES)
