"""Tensors of a file: those that are stored outside of it, and what they may hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from binpoint.errors import (
    ExternalDataError,
    InvalidModel,
    UnsupportedOperator,
)
from binpoint.frontend.load import load
from tests.build import info, model, node, refused, save, tiny

# ---- what is stored outside


def _external(location: str, **more: object) -> onnx.ModelProto:
    made = tiny()
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=str(value))
    return made


def _weights() -> bytes:
    return bytes(tiny().graph.initializer[0].raw_data)


def test_external_data_is_read_from_the_models_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.bin").write_bytes(b"1234" + _weights() + b"56")
    made = _external("data/w.bin", offset=4, length=len(_weights()))
    first, second = load(save(made, tmp_path / "m.onnx")), load(save(tiny(), tmp_path / "n.onnx"))
    a, b = ({v.constant for v in g.values() if v.constant} for g in (first, second))
    assert a == b


@pytest.mark.parametrize("location", ["../w.bin", "sub/../../w.bin", "{absolute}", "link", "a\0b"])
def test_external_data_outside_of_the_folder_is_never_read(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    outside = tmp_path / "w.bin"
    outside.write_bytes(_weights())
    (folder / "link").symlink_to(outside)
    error = refused(_external(location.replace("{absolute}", str(outside))), folder)
    assert isinstance(error, ExternalDataError)
    assert error.code == "BP1005"


@pytest.mark.parametrize(
    "more",
    [
        {"offset": 8},
        {"offset": -8},
        {"offset": "eight"},
        {"offset": 1 << 70},
        {"length": 4},
        {"length": -1},
        {"length": 1 << 40},
    ],
)
def test_external_data_that_is_not_there_is_refused(
    more: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / "w.bin").write_bytes(_weights())
    assert isinstance(refused(_external("w.bin", **more), tmp_path), ExternalDataError)


@pytest.mark.parametrize("location", ["", ".", "absent.bin", "sub/absent.bin", "loop"])
def test_a_missing_external_file_is_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert isinstance(refused(_external(location), tmp_path), ExternalDataError)


def test_gigabytes_declared_and_not_present_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"")
    made = _external("w.bin")
    made.graph.initializer[0].dims[:] = [1 << 20, 1 << 20]
    assert isinstance(refused(made, tmp_path), ExternalDataError)
    made = tiny()
    made.graph.initializer[0].dims[:] = [1 << 15, 1 << 14]
    assert "cannot be read" in refused(made, tmp_path).message


def test_tensors_of_nodes_are_read_by_the_same_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.bin").write_bytes(b"\0\0\x80\x3f" * 4)

    def made(location: str) -> onnx.ModelProto:
        tensor = TensorProto(name="t", dims=[4], data_type=TensorProto.FLOAT)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        nodes = [node("Constant", "", "c", "stored", value=tensor), node("Add", "x c", "y")]
        return model(nodes, [info("x", [1, 4])], [info("y", [1, 4])])

    for location in ("w.bin", "../w.bin", str(tmp_path / "w.bin")):
        assert isinstance(refused(made(location), folder), ExternalDataError)
    (folder / "w.bin").write_bytes(b"\0\0\x80\x3f" * 4)
    graph = load(save(made("w.bin"), folder / "model.onnx"))
    assert any(v.constant and (v.constant.array == 1).all() for v in graph.values())


# ---- stored tensors


def _with_tensor(tensor: TensorProto, op: str = "Add") -> onnx.ModelProto:
    made = model([node(op, "x c", "y")], [info("x", [1, 4])], [info("y", [1, 4])])
    made.graph.initializer.append(tensor)
    return made


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_weights_that_are_no_numbers_are_refused(
    bad: float, dtype: type[np.floating[Any]], tmp_path: Path
) -> None:
    array = np.array([1, 2, bad, 4], dtype)
    # A sum with minus infinity is a mask.
    op = "Mul" if bad == -np.inf else "Add"
    error = refused(_with_tensor(numpy_helper.from_array(array, "c"), op), tmp_path)
    assert error.code == "BP1004"
    assert "`c`" in error.message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dims": [5]}, "cannot be read"),
        ({"dims": [-4]}, "negative dimension"),
        ({"dims": [1 << 62, 4]}, "cannot be read"),
        ({"data_type": 0}, "type that is not read"),
        ({"data_type": 99}, "type that is not read"),
        ({"data_type": TensorProto.STRING}, "type that is not read"),
        ({"data_type": TensorProto.COMPLEX64}, "type that is not read"),
        ({"data_type": TensorProto.FLOAT8E4M3FN}, "type that is not read"),
        ({"raw_data": b"123"}, "cannot be read"),
        ({"raw_data": b""}, "cannot be read"),
    ],
)
def test_a_tensor_that_cannot_be_read_is_named(
    changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "c")
    for key, value in changes.items():
        if key == "dims":
            del tensor.dims[:]
            tensor.dims.extend(value)  # pyright: ignore[reportArgumentType]
        else:
            setattr(tensor, key, value)
    error = refused(_with_tensor(tensor), tmp_path)
    assert isinstance(error, InvalidModel)
    assert words in error.message


def test_sparse_initializers_are_refused_by_name(tmp_path: Path) -> None:
    made = model([node("Add", "x c", "y")], [info("x", [1, 4])], [info("y", [1, 4])])
    values = numpy_helper.from_array(np.ones(1, np.float32), "c")
    places = numpy_helper.from_array(np.array([2], np.int64), "c_indices")
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4]))
    error = refused(made, tmp_path)
    assert isinstance(error, UnsupportedOperator)
    assert error.have == "c"
