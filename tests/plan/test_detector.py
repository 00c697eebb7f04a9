"""The head that makes boxes: its C and its NumPy agree, and errors say what does not fit."""

from __future__ import annotations

import ctypes
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from binpoint import driver
from binpoint.errors import BadOption, Mismatch, UnsupportedOperator
from binpoint.frontend.load import load
from binpoint.ir.graph import Reading, Value
from binpoint.numeric.fixed import FixedType, TensorType
from binpoint.options import CompileOptions, Detections
from binpoint.plan.detector import NAME, ONE, Detector, build
from binpoint.target import load_target
from tests.build import save
from tests.emit.projects import check_syntax, compiled

PAPER = Detections(
    grid=(4, 5),
    image=(88, 70),
    boxes=2,
    classes=3,
    shared_classes=True,
    place="linear",
    size="square",
    score="linear",
    confidence=0.05,
)
ANCHORS = Detections(
    grid=(3, 6),
    image=(48, 96),
    boxes=3,
    classes=2,
    order="channels",
    anchors=((8, 12.5), (30, 20), (60, 40.25)),
    limit=5,
)
WIDE = Detections(
    grid=(5, 4),
    image=(40, 2047),
    boxes=2,
    classes=1,
    order="boxes",
    anchors=((200, 10), (2000, 40)),
    place="wide-sigmoid",
    size="wide-sigmoid",
    score="sigmoid",
    suppress="all",
    overlap=0.125,
)


def _shape(asked: Detections) -> tuple[int, ...]:
    own = 5 + asked.classes
    cell = 5 * asked.boxes + asked.classes if asked.shared_classes else asked.boxes * own
    match asked.order:
        case "cells":
            return (1, *asked.grid, cell)
        case "channels":
            return (1, cell, *asked.grid)
        case "boxes":
            return (asked.boxes, *asked.grid, own)


def _model(asked: Detections) -> onnx.ModelProto:
    """A convolution of one channel, and its result laid out for a head."""
    shape = _shape(asked)
    channels = int(np.prod(shape)) // (asked.grid[0] * asked.grid[1])
    weights = np.random.default_rng(1).normal(0, 1.5, (channels, 1, 1, 1)).astype(np.float32)
    bias = np.random.default_rng(2).normal(0, 1.5, channels).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"])]
    if asked.order == "cells":
        nodes.append(helper.make_node("Transpose", ["c"], ["cells"], perm=[0, 2, 3, 1]))
    else:
        nodes.append(helper.make_node("Reshape", ["c", "shape"], ["cells"]))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, *asked.grid])],
        [helper.make_tensor_value_info("cells", TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(bias, "b"),
            numpy_helper.from_array(np.array(shape), "shape"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _value(kind: str, shape: tuple[int, ...]) -> Value:
    return Value("y", TensorType(shape, FixedType.parse(kind)))


def _head(asked: Detections, kind: str = "i8@2^-7,zp=-128", **others: Any) -> Detector:
    return build(msgspec.structs.replace(asked, **others), ["cells"], [_value(kind, _shape(asked))])


@pytest.mark.parametrize("asked", [PAPER, ANCHORS, WIDE], ids=["paper", "anchors", "wide"])
def test_c_and_numpy_make_the_same_boxes(
    asked: Detections, tmp_path: Path, rng: np.random.Generator
) -> None:
    options = CompileOptions(detections=asked)
    program, project = compiled(_model(asked), tmp_path, options)
    project.write(tmp_path / "c")
    if asked is PAPER:
        check_syntax(tmp_path / "c", "net")
    head = program.detector
    assert head is not None
    library = tmp_path / "head.so"
    flags = ["-std=c99", "-O1", "-fsanitize=undefined", "-fno-sanitize-recover", "-shared", "-fPIC"]
    source = tmp_path / "c" / "net_detect.c"
    subprocess.run(["cc", *flags, str(source), "-o", str(library)], check=True)
    detect = ctypes.CDLL(str(library)).net_detect
    assert detect(None, None) == 1
    several = full = 0
    for _ in range(100):
        codes = rng.integers(-128, 128, head.elements).astype(np.int8)
        found = np.full(head.value.type.size, -1, np.int32)
        assert (
            detect(codes.ctypes.data_as(ctypes.c_void_p), ctypes.c_void_p(found.ctypes.data)) == 0
        )
        expected = head.told({head.output: codes})
        np.testing.assert_array_equal(found, expected)
        several += 1 < expected[0] < head.candidates
        full += expected[0] == head.limit
    assert several > 20
    assert (full > 0) == (asked is ANCHORS)


@pytest.mark.parametrize(
    ("target", "witnesses"),
    [("host", "ort"), pytest.param("cortex-m4", "all", marks=pytest.mark.slow)],
)
def test_the_line_verifies_boxes_and_sees_a_wrong_one(
    target: str, witnesses: str, tmp_path: Path
) -> None:
    options = CompileOptions(detections=msgspec.structs.replace(ANCHORS, confidence=0.01))
    if target != "host":
        options = msgspec.structs.replace(options, arena="caller", io="arena")
    path = save(_model(ANCHORS), tmp_path / "net.onnx")
    made = driver.compile_model(
        path,
        load_target(target),
        options,
        samples="random",
        verify=witnesses,
        verify_samples=6,
    )
    assert made.report.detections is not None
    assert made.report.detections.candidates == 54
    assert ((made.report.detections.instructions or 0) > 1000) == (target != "host")
    assert made.verdict.answer == "equal"
    folder = tmp_path / "out"
    made.project.write(folder)
    assert driver.verify_folder(folder, "ort,host").verdict.answer == "equal"
    source = folder / "net_detect.c"
    text = source.read_text()
    changed = text.replace("> (area(a) + area(b) - shared)", "> -1 + 0 * (area(a) + shared)")
    assert changed != text
    source.write_text(changed)
    with pytest.raises(Mismatch, match="host differs") as raised:
        driver.verify_folder(folder, "host")
    assert NAME in (raised.value.have or "")


def _codes(head: Detector, *boxes: tuple[int, ...]) -> NDArray[np.int8]:
    """Codes of the head of `PAPER` with these boxes: cell, box, x, y, w, h, sureness, class."""
    codes = np.full((head.grid[0] * head.grid[1], 13), -128, np.int64)
    for cell, box, *values, kind in boxes:
        codes[cell, 5 * box : 5 * box + 5] = np.array(values) - 128
        codes[cell, 10 + kind] = -128 + 128
    return codes.astype(np.int8)


def test_a_box_by_hand() -> None:
    head = _head(PAPER)
    # The cell at row 1, column 2 is 14 by 22 pixels and begins at 28, 22.
    found = head.detect(_codes(head, (7, 1, 64, 32, 64, 128, 96, 2)))
    # Half of a cell and a quarter; a quarter of 70 pixels wide, all 88 high.
    x, y, width = 28 * 16 + 7 * 16, 22 * 16 + 88, 70 * 4
    (row,) = found.tolist()
    assert row[:4] == [x - width // 2, 0, x + width // 2, y + 88 * 8]
    assert row[4:] == [2, ONE * ONE * 3 // 4]


def test_an_overlap_of_just_the_part_is_none() -> None:
    # Both in one place, one half as wide: they share half of what both cover.
    pair = (0, 0, 127, 127, 64, 64, 100, 0), (0, 1, 127, 127, 64, 64, 90, 0)
    whole = _head(PAPER, size="linear", overlap=1.0).detect(_codes(_head(PAPER), *pair))
    assert len(whole) == 2
    for part, kept in ((0.5, 2), (0.499999999, 1)):
        head = _head(PAPER, size="linear", overlap=part)
        codes = _codes(head, (6, 0, 64, 64, 32, 32, 100, 0), (6, 1, 64, 64, 16, 32, 90, 0))
        assert len(head.detect(codes)) == kept


def test_the_surest_stays_and_of_equals_the_first() -> None:
    pair = (7, 0, 64, 64, 64, 64, 60, 1), (7, 1, 64, 64, 64, 66, 100, 1)
    head = _head(PAPER)
    (row,) = head.detect(_codes(head, *pair)).tolist()
    assert row[5] == 100 * ONE // 128 * ONE
    equal = tuple((*p[:6], 80, 1) for p in pair)
    (row,) = head.detect(_codes(head, *equal)).tolist()
    assert row[3] - row[1] == (64 * 64 * 88 * 16) >> 14


def test_suppressed_boxes_take_no_place_of_the_limit() -> None:
    head = _head(PAPER, limit=2)
    codes = _codes(
        head,
        (0, 0, 64, 64, 40, 40, 120, 0),
        (0, 1, 64, 64, 40, 40, 110, 0),
        (19, 0, 64, 64, 40, 40, 20, 0),
    )
    assert [row[5] * 128 // (ONE * ONE) for row in head.detect(codes).tolist()] == [120, 20]


@pytest.mark.parametrize("suppress", ["class", "all"])
def test_boxes_of_other_classes_stay_where_only_those_of_one_suppress(suppress: Any) -> None:
    head = _head(PAPER, suppress=suppress)
    codes = _codes(head, (6, 0, 127, 64, 64, 64, 100, 0), (7, 0, 0, 64, 64, 64, 90, 1))
    assert len(head.detect(codes)) == (2 if suppress == "class" else 1)


@pytest.mark.parametrize(
    ("asked", "kind", "says"),
    [
        (PAPER, "i16@2^-12", "at most 8 bits"),
        (PAPER, "i8@2^[-3,-4,-3,-5,-3,-3,-3,-3,-3,-3,-3,-3,-3]:axis3", "one scale"),
        (msgspec.structs.replace(PAPER, classes=4), "i8@2^-7", r"shape \[1, 4, 5, 13\]"),
        (msgspec.structs.replace(PAPER, order="channels"), "i8@2^-7", "may be cells"),
        (msgspec.structs.replace(PAPER, order="boxes"), "i8@2^-7", "share their classes"),
        (msgspec.structs.replace(PAPER, output="zzz"), "i8@2^-7", "`cells`"),
        (msgspec.structs.replace(PAPER, anchors=((1, 1),)), "i8@2^-7", "1 anchors, 2 boxes"),
        (msgspec.structs.replace(PAPER, overlap=0.1234567891), "i8@2^-7", "nine behind"),
    ],
)
def test_what_does_not_fit_is_told(asked: Detections, kind: str, says: str) -> None:
    with pytest.raises(BadOption, match=says):
        build(asked, ["cells"], [_value(kind, _shape(PAPER))])


def test_an_output_that_is_no_multiple_of_its_scale_is_refused() -> None:
    value = replace(_value("i8@2^-7", _shape(PAPER)), reading=Reading((0.1,), (0.03,), 0))
    with pytest.raises(BadOption, match="last node"):
        build(PAPER, ["cells"], [value])


def test_axes_may_be_joined_and_codes_narrow() -> None:
    value = _value("u4@2^-4", (260,))
    head = build(PAPER, ["cells"], [value])
    assert (len(head.shares), head.steps) == (16, (65, 13, 5, 1))


def test_suppression_in_the_graph_is_refused_with_the_way_out(tmp_path: Path) -> None:
    node = helper.make_node("NonMaxSuppression", ["boxes", "scores"], ["kept"])
    graph = helper.make_graph(
        [node],
        "net",
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, 8, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 1, 8]),
        ],
        [helper.make_tensor_value_info("kept", TensorProto.INT64, ["n", 3])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(UnsupportedOperator, match="the option `detections`"):
        load(save(made, tmp_path / "net.onnx"))


def test_boxes_mean_nothing_on_an_fpga() -> None:
    with pytest.raises(BadOption, match="detections"):
        CompileOptions(detections=PAPER).check_for(load_target("zynq-7020"))
