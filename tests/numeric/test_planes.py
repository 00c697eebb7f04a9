"""Planes of bits hold codes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binpoint.numeric.planes import BLOCK, pack, planes, unpack


@given(st.integers(1, 7), st.sampled_from([4, 16]), st.lists(st.integers(0, 127), max_size=300))
def test_codes_come_back_in_their_order(bits: int, unit: int, numbers: list[int]) -> None:
    codes = np.array(numbers, np.uint8) & ((1 << bits) - 1)
    words = pack(codes, bits, unit)
    again = unpack(words, bits, unit)
    np.testing.assert_array_equal(again[: len(codes)], codes)
    assert not again[len(codes) :].any()
    assert len(again) - len(codes) < BLOCK * unit
    assert words.nbytes * 8 == bits * len(again)


@pytest.mark.parametrize(
    ("bits", "wanted"),
    [(6, ((4, 0), (2, 4))), (7, ((4, 0), (2, 4), (1, 6))), (3, ((2, 0), (1, 2)))],
)
def test_planes_add_up_to_the_width(bits: int, wanted: tuple[tuple[int, int], ...]) -> None:
    assert planes(bits) == wanted


def test_the_first_unit_is_the_lowest_bits_of_the_first_word() -> None:
    codes = np.arange(32, dtype=np.uint8) % 16
    first = pack(codes, 4, 4)[0]
    assert int(first) == 0x7362_5140
