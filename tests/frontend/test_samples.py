"""Reading samples: every form that is accepted, and a refusal for each thing that can be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from binpoint.errors import InputNotFound, InvalidSamples
from binpoint.frontend.load import load
from binpoint.frontend.samples import read_samples
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph
from binpoint.numeric.fixed import I8, FloatType, TensorType
from binpoint.ops.unary import Clip


def model(*shapes: tuple[int, ...], coded: bool = False) -> Graph:
    """A graph of one Relu per input; inputs `in/0`, `in/1`, …, outputs `out0`, `out1`, …"""
    graph = Graph("m")
    build = GraphBuilder(graph)
    for index, shape in enumerate(shapes):
        x = build.input(f"in_{index}", TensorType(shape, FloatType()), source=f"in/{index}")
        graph.outputs += (build.one(Clip(0.0, None), x).name,)
        graph.output_names += (f"out{index}",)
        if coded:
            graph.coded = {**graph.coded, x.name: I8}
    return graph


def refusal(source: Any, graph: Graph) -> InvalidSamples:
    with pytest.raises(InvalidSamples) as caught:
        read_samples(source, graph)
    return caught.value


def test_no_source_is_no_samples() -> None:
    assert read_samples(None, model((1, 3))) is None


@pytest.mark.parametrize("key", ["in/0", "in_0", "x_in/0", "x_in_0", "x"])
def test_an_only_input_has_five_names(tmp_path: Path, rng: np.random.Generator, key: str) -> None:
    x = rng.normal(size=(5, 3)).astype(np.float32)
    np.savez(tmp_path / "s.npz", **{key: x, "y": np.arange(5), "expected": x[:, :1]})  # pyright: ignore[reportArgumentType]
    samples = read_samples(tmp_path / "s.npz", model((1, 3)))
    assert samples is not None
    assert np.array_equal(samples.arrays["in_0"], x)
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 1, 2, 3, 4]
    assert np.array_equal(samples.expected["out0"], x[:, :1])
    assert samples.source == "s.npz"


def test_two_inputs_and_two_outputs() -> None:
    a, b = np.ones((4, 2), np.float32), np.zeros((4, 3), np.float32)
    samples = read_samples(
        {"in/0": a, "x_in/1": b, "expected": a, "expected_1": b}, model((1, 2), (1, 3))
    )
    assert samples is not None
    assert {name: array.shape for name, array in samples.arrays.items()} == {
        "in_0": (4, 2),
        "in_1": (4, 3),
    }
    assert set(samples.expected) == {"out0", "out1"}


def test_a_batch_axis_of_one_may_be_there(rng: np.random.Generator) -> None:
    x = rng.normal(size=(5, 1, 3)).astype(np.float32)
    samples = read_samples(x, model((1, 3)))
    assert samples is not None
    assert np.array_equal(samples.arrays["in_0"], x[:, 0])


def test_integers_become_floats_exactly() -> None:
    samples = read_samples(np.array([[0, 255, 7]], np.uint8), model((1, 3)))
    assert samples is not None
    assert samples.arrays["in_0"].dtype == np.float32
    assert samples.arrays["in_0"].tolist() == [[0.0, 255.0, 7.0]]


def test_an_npy_file(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.ones((4, 3), np.float32))
    samples = read_samples(str(tmp_path / "s.npy"), model((1, 3)))
    assert samples is not None
    assert samples.count == 4


def test_a_folder_is_read_in_order_of_names(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", np.full((2, 3), 2, np.float32))
    np.save(tmp_path / "a.npy", np.full(3, 1, np.float32))
    (tmp_path / "readme.txt").write_text("not samples")
    samples = read_samples(tmp_path, model((1, 3)))
    assert samples is not None
    assert samples.arrays["in_0"][:, 0].tolist() == [1.0, 2.0, 2.0]


def test_a_folder_of_single_samples_with_labels(tmp_path: Path) -> None:
    for index in range(3):
        np.savez(
            tmp_path / f"{index}.npz",
            x=np.full(3, index, np.float32),
            y=np.array(index),
            expected=np.ones(2),
        )
    samples = read_samples(tmp_path, model((1, 3)))
    assert samples is not None
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 1, 2]
    assert samples.expected["out0"].shape == (3, 2)


def test_an_iterable_of_arrays_and_mappings() -> None:
    items = (item for item in ({"x": np.zeros((1, 3), np.float32)}, np.ones(3, np.float32)))
    samples = read_samples(items, model((1, 3)))
    assert samples is not None
    assert samples.arrays["in_0"][:, 0].tolist() == [0.0, 1.0]


def test_noise_is_seeded_and_says_so() -> None:
    graph = model((1, 3))
    first, second, other = (read_samples("random", graph, seed) for seed in (1, 1, 2))
    assert first is not None
    assert second is not None
    assert other is not None
    assert first.random
    assert np.array_equal(first.arrays["in_0"], second.arrays["in_0"])
    assert not np.array_equal(first.arrays["in_0"], other.arrays["in_0"])


def test_noise_for_code_inputs_is_of_their_type() -> None:
    samples = read_samples("random", model((1, 300), coded=True))
    assert samples is not None
    assert samples.arrays["in_0"].dtype == np.int8
    assert (samples.arrays["in_0"].min(), samples.arrays["in_0"].max()) == (-128, 127)


def test_code_inputs_take_codes() -> None:
    samples = read_samples(np.array([[1, -2, 3]], np.int8), model((1, 3), coded=True))
    assert samples is not None
    assert samples.arrays["in_0"].dtype == np.int8


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.int64])
def test_code_inputs_refuse_other_types(dtype: type) -> None:
    error = refusal(np.ones((2, 3), dtype), model((1, 3), coded=True))
    assert error.want == "int8"


@pytest.mark.parametrize(
    "array",
    [
        np.array([["a", "b", "c"]]),
        np.array([[1j, 0, 0]]),
        np.array([[object()] * 3]),
        np.array([[0.1, 0.2, 0.3]], np.float64),
        np.array([[2**24 + 1, 0, 0]], np.int64),
        np.array([[1e300, 0, 0]], np.float64),
        np.array([[np.nan, 0, 0]], np.float32),
        np.array([[np.inf, 0, 0]], np.float32),
        np.zeros((0, 3), np.float32),
    ],
    ids=["text", "complex", "object", "float64", "int64", "large", "nan", "inf", "empty"],
)
def test_wrong_contents_are_refused(array: np.ndarray[Any, Any]) -> None:
    assert refusal(array, model((1, 3))).at is not None


def test_a_wrong_shape_names_both() -> None:
    error = refusal(np.ones((2, 4), np.float32), model((1, 3)))
    assert error.have == "[2, 4]"
    assert error.want == "[samples, 3]"
    assert error.hint is None


def test_another_layout_is_recognised() -> None:
    last = refusal(np.ones((2, 8, 6, 3), np.float32), model((1, 3, 8, 6)))
    assert last.hint is not None
    assert "numpy.moveaxis(x, -1, 1)" in last.hint
    first = refusal(np.ones((2, 3, 8, 6), np.float32), model((1, 8, 6, 3)))
    assert first.hint is not None
    assert "numpy.moveaxis(x, 1, -1)" in first.hint


def test_names_are_checked() -> None:
    x = np.ones((2, 3), np.float32)
    assert "missing" in refusal({"z": x}, model((1, 3))).message
    assert "twice" in refusal({"x": x, "in_0": x}, model((1, 3))).message
    assert "no input `z`" in refusal({"x": x, "z": x}, model((1, 3))).message
    assert "missing" in refusal({"x": x}, model((1, 3), (1, 3))).message


def test_lengths_are_checked() -> None:
    x = np.ones((2, 3), np.float32)
    assert refusal({"x": x, "y": np.arange(3)}, model((1, 3))).want == "2 entries"
    assert refusal({"x": x, "expected": x[:1]}, model((1, 3))).want == "2 entries"
    two = {"in_0": x, "in_1": np.ones((3, 3), np.float32)}
    assert "different numbers" in refusal(two, model((1, 3), (1, 3))).message
    assert refusal({"x": x, "y": np.array(["a", "b"])}, model((1, 3))).message == "not numbers"


def test_parts_must_agree_on_labels() -> None:
    x = np.ones((1, 3), np.float32)
    error = refusal([{"x": x, "y": np.array([0])}, {"x": x}], model((1, 3)))
    assert "have labels" in error.message


def test_nothing_at_all_is_refused(tmp_path: Path) -> None:
    assert "no samples" in refusal([], model((1, 3))).message
    assert "no samples" in refusal(tmp_path, model((1, 3))).message


def test_files_that_are_not_there_or_not_readable(tmp_path: Path) -> None:
    with pytest.raises(InputNotFound):
        read_samples(tmp_path / "none.npz", model((1, 3)))
    np.savez(tmp_path / "s.npz", x=np.ones((2, 3), np.float32))
    content = (tmp_path / "s.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "s.csv").write_text("1,2,3")
    for name in ("cut.npz", "text.npy", "empty.npz", "s.csv"):
        assert refusal(tmp_path / name, model((1, 3))).at == str(tmp_path / name)


def test_a_pickled_file_is_not_executed(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", np.array([{"a": 1}], object), allow_pickle=True)
    assert refusal(tmp_path / "p.npy", model((1, 3))).at == str(tmp_path / "p.npy")


def test_real_files_are_read(shared_models: Path) -> None:
    graph = load(shared_models / "mnist_two_outputs.onnx")
    samples = read_samples(shared_models / "mnist_two_outputs.npz", graph)
    assert samples is not None
    assert samples.count == 500
    assert set(samples.expected) == {"logits", "odd"}
