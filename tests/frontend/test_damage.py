"""Damaged models: any file gives a program or one error, whatever its bytes."""

from __future__ import annotations

from pathlib import Path
from random import Random

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from binpoint import pipelines
from binpoint.emit.mcu_c import render
from binpoint.errors import BinpointError, Exit
from binpoint.frontend.load import load
from binpoint.frontend.samples import read_samples
from binpoint.options import CompileOptions
from binpoint.passes.base import Context
from binpoint.passes.manager import run
from binpoint.plan.arrange import arrange
from binpoint.target import load_target
from tests import models
from tests.build import tiny

HOST, OPTIONS = load_target("host"), CompileOptions(planner="greedy")
NUMBERS = (0, 1, 2, 3, -1, -2, 7, 255, 1 << 10, 1 << 31, -(1 << 31), 1 << 62, -(1 << 63))
REALS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, float("inf"), float("nan"))
_WORDS = """
    Add ArgMax AveragePool BatchNormalization Clip Concat Conv ConvTranspose DequantizeLinear
    Dropout Expand Flatten Gather Gemm GlobalAveragePool Identity LeakyRelu MatMul MatMulInteger
    MaxPool Mul PRelu Pad Pow QuantizeLinear ReduceMean Reshape Resize Shape Sigmoid Slice
    Softmax Split Squeeze Tile Transpose Unsqueeze Where
"""
OPS = tuple(_WORDS.split())


def attempt(content: bytes, path: Path) -> BinpointError | None:
    """The error that a file gives, if any; other exceptions pass."""
    path.write_bytes(content)
    try:
        graph = load(path)
        samples = read_samples("random", graph, 0)
        assert samples is not None
        graph = run(pipelines.mcu(), graph, Context(HOST, OPTIONS, samples.part(0, 2)))
        render(arrange(graph, OPTIONS), HOST, OPTIONS)
    except BinpointError as error:
        return error
    return None


def damage(made: onnx.ModelProto, random: Random) -> bytes:
    """A model with one to three things changed in it."""
    for _ in range(random.randint(1, 3)):
        random.choice((_node, _node, _attribute, _attribute, _tensor, _border))(made.graph, random)
    content = made.SerializeToString()
    return _bytes(content, random) if random.random() < 0.15 else content


def _bytes(content: bytes, random: Random) -> bytes:
    at = random.randrange(len(content))
    match random.randrange(3):
        case 0:
            return content[:at] + bytes([random.randrange(256)]) + content[at + 1 :]
        case 1:
            return content[:at] + content[at + random.randint(1, 8) :]
        case _:
            return content[:at] + random.randbytes(random.randint(1, 8)) + content[at:]


def _node(graph: onnx.GraphProto, random: Random) -> None:
    if not graph.node:
        return
    node = random.choice(graph.node)
    names = [n for item in graph.node for n in (*item.input, *item.output)] + [""]
    match random.randrange(7):
        case 0 | 1:
            node.op_type = random.choice(OPS)
        case 2 if node.input:
            node.input[random.randrange(len(node.input))] = random.choice(names)
        case 3:
            node.input.append(random.choice(names))
        case 4 if node.input:
            del node.input[random.randrange(len(node.input))]
        case 5:
            node.output.append(random.choice(names))
        case _:
            graph.node.remove(node)


def _attribute(graph: onnx.GraphProto, random: Random) -> None:
    found = [a for node in graph.node for a in node.attribute]
    if not found:
        return
    attribute = random.choice(found)
    match random.randrange(4):
        case 0:
            attribute.i = random.choice(NUMBERS)
        case 1:
            del attribute.ints[random.randrange(len(attribute.ints) + 1) :]
            attribute.ints.append(random.choice(NUMBERS))
        case 2:
            attribute.f = random.choice(REALS)
        case _:
            attribute.name = random.choice(("axis", "pads", "strides", "group", "dilations", "to"))


def _tensor(graph: onnx.GraphProto, random: Random) -> None:
    if not graph.initializer:
        return
    tensor = random.choice(graph.initializer)
    match random.randrange(5):
        case 0:
            tensor.data_type = random.randrange(25)
        case 1 if tensor.dims:
            tensor.dims[random.randrange(len(tensor.dims))] = random.choice(NUMBERS)
        case 2 if tensor.dims:
            tensor.dims[:] = random.sample(tensor.dims, len(tensor.dims))
        case 3:
            size = len(tensor.raw_data)
            tensor.raw_data = random.choice((random.randbytes(size), bytes(size), b""))
        case _:
            tensor.dims[:] = [*tensor.dims, 1]


def _border(graph: onnx.GraphProto, random: Random) -> None:
    made = [n.output[0] for n in graph.node if n.output]
    if not graph.input or not made:
        return
    kind = random.choice(graph.input).type.tensor_type
    match random.randrange(4):
        case 0:
            kind.elem_type = random.choice(
                (TensorProto.INT8, TensorProto.UINT8, random.randrange(25))
            )
        case 1 if kind.shape.dim:
            random.choice(kind.shape.dim).dim_value = random.choice(NUMBERS)
        case 2:
            kind.shape.dim.add().dim_value = random.choice(NUMBERS)
        case _:
            graph.output.add(name=random.choice(made))


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[onnx.ModelProto]:
    folder = tmp_path_factory.mktemp("originals")
    content = models.save_quantized(folder / "q.onnx").read_bytes()
    return [tiny(), onnx.load_model_from_string(content)]


def test_undamaged_models_compile(originals: list[onnx.ModelProto], tmp_path: Path) -> None:
    for made in originals:
        assert attempt(made.SerializeToString(), tmp_path / "m.onnx") is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(random=st.randoms(use_true_random=False))
def test_a_damaged_model_is_one_error_or_a_program(
    random: Random, originals: list[onnx.ModelProto], tmp_path: Path
) -> None:
    made = onnx.ModelProto()
    made.CopyFrom(random.choice(originals))
    error = attempt(damage(made, random), tmp_path / "m.onnx")
    assert error is None or error.exit is Exit.MODEL, str(error)
