"""Passes of the integer graph, on small models and on chosen graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from binpoint import pipelines
from binpoint.errors import BadOption
from binpoint.frontend.load import load
from binpoint.frontend.samples import read_samples
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph, Value
from binpoint.ir.op import IntegerOp
from binpoint.ir.verify import verify
from binpoint.lower.simplify import MergeClamps, SimplifyIntegers
from binpoint.numeric.interval import Interval
from binpoint.ops.requantize import Clamp, OnnxruntimeRequantize, Requantize
from binpoint.options import CompileOptions
from binpoint.passes.base import Context
from binpoint.passes.manager import Pipeline, run
from binpoint.target import load_target
from tests import models
from tests.build import info, model, node, save, tiny
from tests.plan.fakes import Fake, kind

CHECKED = CompileOptions(check=True)


def lowered(path: Path, *, target: str = "host", **options: object) -> Graph:
    graph = load(path)
    samples = read_samples("random", graph)
    chosen = CompileOptions(check=True, **options)  # pyright: ignore[reportArgumentType]
    return run(pipelines.mcu(), graph, Context(load_target(target), chosen, samples))


def passed(graph: Graph, *passes: MergeClamps | SimplifyIntegers) -> Graph:
    return run(Pipeline(*passes), graph, Context(load_target("host"), CHECKED))


def finish(graph: Graph, *values: Value) -> Graph:
    graph.outputs = graph.output_names = tuple(v.name for v in values)
    return graph


# ---- clamps


def clamps(*ends: tuple[int, int]) -> tuple[Graph, GraphBuilder, list[Value]]:
    """Clamps one after the other on an input of eight bits."""
    graph = Graph("g")
    build = GraphBuilder(graph)
    values = [build.input("x", kind(6))]
    for lo, hi in ends:
        values.append(build.one(Clamp(lo, hi), values[-1]))
    return graph, build, values


def test_a_clamp_that_changes_nothing_is_removed() -> None:
    graph, build, values = clamps((-5, 5), (-9, 5))
    last = build.one(Clamp(-1, 1), values[-1], outputs=("last",))
    done = passed(finish(graph, last), MergeClamps())
    assert [n.op for n in done.nodes()] == [Clamp(-5, 5), Clamp(-1, 1)]


def test_an_output_keeps_its_own_clamp_and_name() -> None:
    graph, _, values = clamps((-5, 5), (-9, 9))
    done = passed(finish(graph, values[1], values[2]), MergeClamps())
    assert done.outputs == (values[1].name, values[2].name)
    verify(done, "integer")


def test_a_clamp_goes_into_the_requantizer_before_it(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w", "h"), node("Clip", "h lo hi", "y")]
    arrays = {
        "w": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
        "lo": np.array(-0.25, np.float32),
        "hi": np.array(0.5, np.float32),
    }
    made = model(nodes, [info("x", [1, 3])], [info("y", [1, 4])], arrays)
    graph = lowered(save(made, tmp_path / "m.onnx"))
    assert not any(isinstance(n.op, Clamp) for n in graph.nodes())
    (output,) = graph.outputs
    kept = graph.value(output)
    codes = {n: np.full(graph.value(n).shape, 127) for n in graph.inputs}
    found = kept.elem.dequantize(evaluate(graph, codes)[output])
    step = float(kept.elem.scale)
    assert found.max() <= 0.5 + step
    assert found.min() >= -0.25 - step


def test_a_value_read_elsewhere_too_is_not_clamped() -> None:
    graph, build, values = clamps((-50, 50), (-5, 5))
    both = build.one(Fake((kind(6),)), values[1], values[2])
    done = run(
        Pipeline(MergeClamps()),
        finish(graph, both),
        Context(load_target("host"), CompileOptions()),
    )
    assert sorted(str(n.op) for n in done.nodes() if isinstance(n.op, Clamp)) == sorted(
        str(Clamp(*ends)) for ends in ((-50, 50), (-5, 5))
    )


# ---- simplify


def test_ranges_are_made_anew() -> None:
    graph, _, values = clamps((-5, 5))
    graph.set_value(Value(values[1].name, values[1].type, bounds=Interval(-128, 127)))
    done = passed(finish(graph, values[1]), SimplifyIntegers())
    assert done.value(values[1].name).bounds == Interval(-5, 5)


def test_dead_and_equal_integers_go() -> None:
    graph, build, values = clamps((-5, 5))
    same = build.one(Clamp(-5, 5), values[0])
    build.one(Clamp(-1, 1), values[0])
    ends = [build.one(Clamp(-2, k), v) for k, v in enumerate((values[1], same))]
    done = passed(finish(graph, *ends), SimplifyIntegers())
    assert len(done.nodes()) == 3


# ---- requantizers


def requantizers(graph: Graph) -> list[OnnxruntimeRequantize]:
    return [n.op for n in graph.nodes() if isinstance(n.op, OnnxruntimeRequantize)]


def wide(path: Path) -> Path:
    """A quantized product of so many terms that no multiplier reaches all of its thresholds."""
    rng = np.random.default_rng(4)
    arrays: dict[str, np.ndarray] = {
        "w": rng.integers(-128, 128, (64, 400)).astype(np.int8),
        "s": np.array(0.05, np.float32),
        "z": np.array(3, np.int8),
        "ws": rng.uniform(1e-4, 1e-3, 400).astype(np.float32),
        "wz": np.zeros(400, np.int8),
        "t": np.array(0.0123, np.float32),
    }
    nodes = [
        node("QuantizeLinear", "x s z", "xq"),
        node("DequantizeLinear", "xq s z", "xd"),
        node("DequantizeLinear", "w ws wz", "wd", axis=1),
        node("MatMul", "xd wd", "h"),
        node("QuantizeLinear", "h t z", "yq"),
        node("DequantizeLinear", "yq t z", "y"),
    ]
    return save(model(nodes, [info("x", [1, 64])], [info("y", [1, 400])], arrays), path)


def test_every_requantizer_of_a_quantized_model_is_proved_or_exact(tmp_path: Path) -> None:
    found = requantizers(lowered(models.save_quantized(tmp_path / "q.onnx")))
    assert len(found) == 2
    assert all(op.proof is not None or op.form.name == "exact" for op in found)


def test_float_instructions_take_what_is_not_proved_where_they_are_allowed(tmp_path: Path) -> None:
    path = wide(tmp_path / "wide.onnx")
    (portable,) = requantizers(lowered(path, target="cortex-m4f"))
    (float_,) = requantizers(lowered(path, target="cortex-m4f", fpu=True))
    assert portable.form.name in ("exact", "mixed")
    assert float_.form.name == "fpu"
    x = np.random.default_rng(1).integers(-(2**20), 2**20, (5, 400))
    np.testing.assert_array_equal(portable.reference(x)[0], float_.reference(x)[0])


def test_float_instructions_are_refused_without_the_hardware(tmp_path: Path) -> None:
    path = models.save_quantized(tmp_path / "q.onnx")
    with pytest.raises(BadOption, match="floating-point unit") as caught:
        lowered(path, target="cortex-m4", fpu=True)
    assert caught.value.have == "cortex-m4"


# ---- to integers


def test_every_stage_of_lowering_is_legal_and_integer(tmp_path: Path) -> None:
    for index, made in enumerate(
        (tiny(), onnx.load_model_from_string(models.save_quantized(tmp_path / "q").read_bytes()))
    ):
        graph = lowered(save(made, tmp_path / f"{index}.onnx"))
        verify(graph, "integer")
        assert all(isinstance(n.op, IntegerOp) for n in graph.nodes())
        assert graph.output_names == ("y",)
        assert all(graph.value(n).source for n in graph.inputs)


def test_values_keep_their_names_through_lowering(tmp_path: Path) -> None:
    graph = lowered(save(tiny(), tmp_path / "m.onnx"))
    assert {"x", "y_out"} <= {v.name for v in graph.values()}


def test_semantics_follow_the_model_or_the_option(tmp_path: Path) -> None:
    path = models.save_quantized(tmp_path / "q.onnx")
    assert requantizers(lowered(path))
    assert not requantizers(lowered(path, semantics="dyadic"))
    floats = save(tiny(), tmp_path / "m.onnx")
    assert not requantizers(lowered(floats))
    kinds = {type(n.op) for n in lowered(floats).nodes() if isinstance(n.op, Requantize)}
    assert kinds
