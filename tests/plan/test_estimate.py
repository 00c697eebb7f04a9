"""The resource model: exact where logic leaves no choice, monotone, and close to yosys."""

from __future__ import annotations

import subprocess

import pytest

from benchmarks import fpga_cases
from benchmarks.fpga_cases import Case
from benchmarks.yosys import synthesise
from binpoint.plan import estimate, fabric
from binpoint.plan.design import Folding
from binpoint.plan.ways import folded
from tests.plan.designs import residual


@pytest.mark.parametrize(
    ("a", "b", "slices"),
    [
        (8, 8, 1),
        (4, 4, 0),
        (5, 5, 1),
        (8, 1, 0),
        (25, 18, 1),
        (26, 18, 2),
        (22, 32, 4),
        (20, 25, 2),
    ],
)
def test_products_take_as_many_slices_as_synthesis_found(a: int, b: int, slices: int) -> None:
    assert fabric.in_slices(a, b) == fabric.in_slices(b, a) == slices


@pytest.mark.parametrize(
    ("x", "bits", "found"),
    [(5, (2,), 17), (9, (2,), 25), (5, (3,), 36), (9, (3,), 48), (5, (2, 2), 41), (9, (2, 2), 57),
     (5, (3, 3), 87), (9, (3, 3), 139), (5, (3, 3, 3), 128), (9, (3, 3, 3), 194)],
)  # fmt: skip
def test_shifted_operands_take_about_what_synthesis_found(
    x: int, bits: tuple[int, ...], found: int
) -> None:
    assert fabric.shifts(x, bits).lut == pytest.approx(found, rel=0.13)


@pytest.mark.parametrize(("x", "w", "found"), [(5, 4, 27), (9, 4, 63), (5, 6, 51), (9, 6, 87.75)])
def test_products_by_bits_take_about_what_synthesis_found(x: int, w: int, found: float) -> None:
    assert fabric.rows(x, w).lut == pytest.approx(found, rel=0.17)


@pytest.mark.parametrize(
    ("words", "width", "blocks"),
    [(128, 8, 1), (512, 36, 1), (512, 64, 2), (1024, 32, 2), (256, 100, 3), (2048, 64, 8)],
)
def test_memories_take_as_many_blocks_as_synthesis_found(
    words: int, width: int, blocks: int
) -> None:
    assert fabric.block(words, width).bram18 == blocks


def test_all_layers_of_a_design_are_estimated() -> None:
    design = residual()
    found = estimate.estimate(design)
    assert [layer.name for layer in found.layers] == [layer.name for layer in design.layers]
    assert found.interval == max(layer.interval for layer in found.layers)
    assert found.slowest.interval == found.interval
    assert found.total.lut > sum(layer.resources.lut for layer in found.layers)
    for layer in found.layers:
        assert layer.cycles == next(
            m.unit.iterations for m in design.layers if m.name == layer.name
        )
        assert layer.resources.lut > 0


def test_cycles_fall_and_slices_rise_as_a_layer_unfolds() -> None:
    unit = fpga_cases.dense(10, 32, 64, (1, 1))
    before = unit.iterations
    for way in (Folding(1, 4), Folding(8, 4), Folding(32, 64)):
        wider = folded(unit, way)
        assert wider.iterations == before // (way.pe * way.simd)
        assert estimate.resources(wider).dsp == way.pe * way.simd + way.pe


def test_one_and_two_bit_layers_take_no_slices_for_their_products() -> None:
    for width in (1, 2):
        unit = fpga_cases.dense(1, 16, 32, (4, 8), (3, width))
        assert estimate.resources(unit).dsp == unit.pe


@pytest.mark.needs("yosys")
@pytest.mark.slow
@pytest.mark.parametrize("case", [fpga_cases.layers()[i] for i in (0, 8)], ids=lambda c: c.name)
def test_a_layer_is_close_to_synthesis(case: Case) -> None:
    try:
        found = synthesise(case.datapath)
    except subprocess.CalledProcessError as failure:
        pytest.fail(str(failure.stdout))
    assert case.model.dsp == found.dsp
    assert case.model.bram18 == found.bram18
    assert abs(case.model.lut - found.lut) <= 0.15 * found.lut
