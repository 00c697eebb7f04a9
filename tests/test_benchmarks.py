"""The networks that benchmarks build, and the page that they write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from benchmarks import layers, methods, visual_wake_words
from benchmarks.performance_page import CORES, MODELS, Figures, page, table
from binpoint import CompileOptions, compile_model, load_target
from binpoint.report.schema import Layer, Report
from binpoint.sim.witness import Answer, Witness
from tests import models


def test_half_of_visual_wake_words_is_for_nothing(tmp_path: Path) -> None:
    path = visual_wake_words.save(tmp_path)
    report = compile_model(path, load_target("cortex-m4"), CompileOptions(), verify="none").report
    assert report.macs + report.macs_removed == visual_wake_words.MACS
    assert 0.48 < report.macs_removed / visual_wake_words.MACS < 0.55


@pytest.mark.parametrize(("core", "live"), [("cortex-m4", 23), ("cortex-m55", 19)])
def test_a_small_visual_wake_words_is_the_same_in_c(tmp_path: Path, core: str, live: int) -> None:
    """Matrices of rows that fill no block, behind layers that lost channels."""
    path = tmp_path / "small.onnx"
    path.write_bytes(visual_wake_words.build(48, live).SerializeToString())
    options = CompileOptions(planner="greedy")
    made = compile_model(path, load_target(core), options, verify="host", verify_samples=3)
    assert {w.name: w.verdict for w in made.verdict.witnesses}[Witness.HOST.label] is Answer.EQUAL


def test_networks_are_the_same_every_time() -> None:
    assert layers.build() == layers.build()
    assert visual_wake_words.build() == visual_wake_words.build()


def test_rows_of_layers_have_names_of_their_own() -> None:
    assert len(set(layers.titles())) == len(layers.titles())


@pytest.fixture
def report(tmp_path: Path) -> Report:
    path = models.save_quantized(tmp_path / "net.onnx")
    return compile_model(path, load_target("cortex-m4"), CompileOptions(), verify="none").report


def _layer(report: Report, title: str, macs: int, instructions: int | None) -> Layer:
    return msgspec.structs.replace(
        report.layers[0], origin=(title,), macs=macs, instructions=instructions, shape=(1, 5)
    )


def test_the_page_has_what_was_measured_and_dashes(report: Report) -> None:
    measured = msgspec.structs.replace(
        report, macs=600, macs_removed=400, instructions=1234, modelled_cycles=None, stack_bytes=777
    )
    first, *_, last = layers.titles()
    rows = (_layer(report, first, 100, 150), _layer(report, last, 0, 40))
    single = msgspec.structs.replace(report, layers=rows)
    name = MODELS[0].name
    figures = Figures({(name, "cortex-m4"): measured}, {}, {(layers.NAME, "cortex-m4"): single})
    text = page(figures, CORES)
    dashes = " | -" * (len(CORES) - 1)
    assert f"| `{name}` | 1.234{dashes} | 2.390 | 0.385 |" in text
    assert f"| `{name}` | -{dashes} |" in text
    assert f"| {first} | 1.500{dashes} |" in text
    assert f"| {last} | 8.000{dashes} |" in text
    assert "| 777 |" in text
    assert MODELS[1].name not in text


def test_a_table_has_a_rule_under_its_head() -> None:
    assert table([["a", "b"], ["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"


@pytest.mark.parametrize("make", [methods.gelu_table, methods.norm_table])
def test_the_page_on_methods_shows_the_errors(make: Callable[[], list[list[str]]]) -> None:
    page_text = methods.PAGE.read_text(encoding="utf-8")
    assert methods.table(make()) in page_text, "python -m benchmarks.methods --write"
