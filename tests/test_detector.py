"""The boxes of the example TinyissimoYOLO: its C and its NumPy give the same."""

from __future__ import annotations

import ctypes
import importlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "09_tinyissimo_yolo"
boxes: Any = importlib.import_module("examples.09_tinyissimo_yolo.boxes")
_MOST = 32


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """detect.c, for the host."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None, "no C compiler"
    path = tmp_path_factory.mktemp("detect") / "detect.so"
    flags = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, str(FOLDER / "detect.c"), "-o", str(path)], check=True)
    return ctypes.CDLL(str(path))


def in_c(library: ctypes.CDLL, codes: np.ndarray[Any, Any], scale: Any) -> list[list[int]]:
    fields = (ctypes.c_int32 * 4)(scale.zero, scale.place, scale.size, scale.least)
    found = (ctypes.c_int32 * (6 * _MOST))()
    cells = np.ascontiguousarray(codes, np.int8)
    count = library.detect(ctypes.c_void_p(cells.ctypes.data), fields, found)
    return [list(found[6 * i : 6 * i + 6]) for i in range(count)]


def test_c_and_numpy_find_the_same_boxes(library: ctypes.CDLL, rng: np.random.Generator) -> None:
    several = 0
    for _ in range(300):
        scale = boxes.Scale.of(float(rng.uniform(0.002, 0.02)), int(rng.integers(-128, 100)))
        codes = rng.integers(-128, 128, 208)
        expected = boxes.detect(codes, scale).tolist()
        assert in_c(library, codes, scale) == expected
        several += len(expected) > 1
    assert several > 100


def test_of_boxes_that_overlap_the_surest_stays() -> None:
    scale = boxes.Scale.of(1 / 128, -128, 0.1)
    codes = np.full(208, -128)
    # Both boxes of the first cell lie alike; their class is the second.
    for box, sure in ((0, 60), (1, 100)):
        codes[5 * box : 5 * box + 5] = (-64, -64, 0, 0, sure)
    codes[11] = 127
    (found,) = boxes.detect(codes, scale).tolist()
    assert found[4:] == [1, (100 + 128) * 255]
    assert boxes.precision([boxes.detect(codes, scale)], np.full((1, 3, 5), -1, np.float32)) == 0
