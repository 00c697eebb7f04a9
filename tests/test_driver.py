from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import onnx
import pytest

from binpoint import driver
from binpoint.driver import Result, compile_model
from binpoint.emit.manifest import digest
from binpoint.emit.project import Project
from binpoint.errors import (
    BinpointError,
    DoesNotFit,
    InputNotFound,
    InvalidSamples,
    Mismatch,
    MissingSamples,
    OutputError,
    UnknownPass,
    UsageError,
)
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph
from binpoint.options import CompileOptions
from binpoint.passes.base import Context, Effect, Pass, Stage
from binpoint.passes.convert import stored_inputs
from binpoint.passes.samples import Samples
from binpoint.pipelines import PIPELINES
from binpoint.sim import verify as verification
from binpoint.target import load_target
from tests import build, models

OPTIONS = CompileOptions()
HOST = load_target("host")
SOURCES = ("net.c", "net.h", "net_constants.c", "net_constants.h", "net_kernels.h", "net_runtime.h")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    models.save_float(folder / "net.onnx")
    models.save_quantized(folder / "qnet.onnx")
    models.save_samples(folder / "net.npz")
    return folder


@pytest.fixture(scope="module")
def compiled(files: Path) -> Result:
    """The float network for the host, on all witnesses."""
    return compile_model(
        files / "net.onnx", HOST, OPTIONS, samples=files / "net.npz", calibrate_with=10
    )


@pytest.mark.needs("cc")
def test_a_float_network_is_equal_on_all_witnesses_that_can_run(compiled: Result) -> None:
    assert compiled.verdict.answer == "equal"
    answers = {w.name: (w.verdict.value, w.samples) for w in compiled.verdict.witnesses}
    assert answers == {
        "interpreter": ("equal", 30),
        "onnxruntime": ("equal", 30),
        "host": ("equal", 30),
        "host -O2": ("equal", 30),
        "emulator": ("not run", 0),
    }
    (emulator,) = [w for w in compiled.verdict.witnesses if w.name == "emulator"]
    assert "names no emulator" in (emulator.reason or "")


def test_the_project_holds_sources_check_graph_vectors_and_report(compiled: Result) -> None:
    files = compiled.project.files
    assert {*SOURCES, "CMakeLists.txt", "lowered.onnx", "report.json"} <= set(files)
    assert {"test/selftest.c", "test/vectors.c", "test/vectors.h"} <= set(files)
    manifest = json.loads(files["manifest.json"])
    listed = {path: digest(files[path]) for path in files if path not in _LAST}
    assert manifest["files"] == listed
    assert onnx.load_model_from_string(files["lowered.onnx"]).graph.output[0].name == "out_y_out"


_LAST = ("manifest.json", "report.json")


@pytest.mark.needs("cc")
@pytest.mark.parametrize("arena", ["static", "caller"])
@pytest.mark.parametrize("io", ["arena", "caller"])
def test_the_self_test_passes_and_finds_a_wrong_weight(
    arena: str, io: str, files: Path, tmp_path: Path
) -> None:
    options = CompileOptions(
        arena="caller" if arena == "caller" else "static", io="arena" if io == "arena" else "caller"
    )
    result = compile_model(
        files / "net.onnx", HOST, options, samples=files / "net.npz", verify="ort"
    )
    result.project.write(tmp_path / "good")
    assert _selftest(tmp_path / "good") == 0
    constants = result.project.files["net_constants.c"].decode()
    first = constants.index("{\n    ") + 6
    broken = constants[:first] + "77, " + constants[constants.index(",", first) + 2 :]
    wrong = {**result.project.files, "net_constants.c": broken.encode()}
    Project(wrong).write(tmp_path / "bad")
    assert _selftest(tmp_path / "bad") == 1


def _selftest(folder: Path) -> int:
    sources = [*folder.glob("*.c"), *folder.glob("test/*.c")]
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wcast-qual", "-Werror"]
    program = folder / "selftest"
    subprocess.run(["cc", *flags, f"-I{folder}", *sources, "-o", program], check=True)
    return subprocess.run([program], check=False, capture_output=True).returncode


def test_calibration_samples_are_not_scored(compiled: Result) -> None:
    use = compiled.report.samples
    assert (use.calibration, use.scored, use.shared, use.random) == (10, 30, False, False)
    assert compiled.report.accuracy.samples == 30


def test_without_a_number_all_samples_serve_both_and_the_report_says_so(files: Path) -> None:
    result = compile_model(
        files / "net.onnx", HOST, OPTIONS, samples=files / "net.npz", verify="none"
    )
    use = result.report.samples
    assert (use.calibration, use.scored, use.shared) == (40, 40, True)
    assert result.report.verdict == "not run"


def test_random_samples_leave_accuracy_unknown(files: Path) -> None:
    result = compile_model(files / "net.onnx", HOST, OPTIONS, samples="random", verify="none")
    assert result.report.samples.random
    assert result.report.accuracy.integer is None
    assert result.report.accuracy.floating is None


def test_a_quantized_model_needs_no_samples_and_is_verified_on_noise(files: Path) -> None:
    result = compile_model(files / "qnet.onnx", HOST, OPTIONS, verify="ort")
    assert result.verdict.answer == "equal"
    use = result.report.samples
    assert (use.source, use.scored, use.random) == (None, 0, True)
    assert use.verified == 64


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({}, MissingSamples),
        ({"calibrate_with": 3}, MissingSamples),
        ({"samples": "net.npz", "calibrate_with": 40}, InvalidSamples),
        ({"samples": "absent.npz"}, InputNotFound),
        ({"samples": "net.npz", "verify": "everyone"}, UsageError),
        ({"samples": "net.npz", "pipeline": "nonsense"}, UnknownPass),
        ({"samples": "net.npz", "pipeline": "remove-dead"}, UnknownPass),
        ({"samples": "net.npz", "pipeline": "merge-clamps"}, UnknownPass),
    ],
)
def test_what_cannot_be_compiled_is_one_error(
    given: dict[str, object], error: type[BinpointError], files: Path
) -> None:
    samples = given.pop("samples", None)
    given["samples"] = None if samples is None else files / str(samples)
    with pytest.raises(error):
        compile_model(files / "net.onnx", HOST, OPTIONS, **given)  # pyright: ignore[reportArgumentType]


# ---- the budget


def test_a_model_that_does_not_fit_is_refused_before_it_is_verified(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = tmp_path / "tiny.toml"
    tiny.write_text(
        'schema = 1\nname = "tiny"\nfamily = "mcu"\nextends = "cortex-m0plus"\n'
        'summary = "Too small"\nsource = "none"\n'
        '[memory.flash]\nbytes = 100\nholds = ["code", "constants"]\n'
    )

    def unexpected(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(driver, "run_witnesses", unexpected)
    with pytest.raises(DoesNotFit, match="more flash than `tiny` has") as caught:
        compile_model(files / "net.onnx", load_target(tiny), OPTIONS, samples=files / "net.npz")
    assert caught.value.have == "100 bytes"
    assert "without code" in (caught.value.want or "")


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two residual sums with norms and a product between and behind, and samples beside."""
    rng = np.random.default_rng(2)
    shapes = {"place": (16, 8), "one": (8,), "w": (8, 8), "v": (8, 2)}
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    arrays["place"] *= 8
    nodes = [
        build.node("Add", "x place", "first"),
        build.node("LayerNormalization", "first one", "n"),
        build.node("MatMul", "n w", "branch"),
        build.node("Add", "first branch", "second"),
        build.node("LayerNormalization", "second one", "m"),
        build.node("MatMul", "m v", "y"),
    ]
    ends = [build.info("x", [1, 16, 8])], [build.info("y", [1, 16, 2])]
    path = tmp_path_factory.mktemp("stream") / "stream.onnx"
    np.savez(path.with_suffix(".npz"), x=rng.normal(size=(20, 16, 8)).astype(np.float32))
    return build.save(build.model(nodes, *ends, arrays), path)


def compiled_within(sram: int, model: Path, folder: Path, options: CompileOptions) -> Result:
    """For a board with so many bytes for the arena; samples lie beside the model."""
    text = 'schema = 1\nname = "board"\nfamily = "mcu"\nextends = "host"\nsummary = "Small"\n'
    text += f'source = "none"\n[memory.sram]\nbytes = {sram}\nholds = ["arena"]\n'
    (folder / "board.toml").write_text(text)
    board, samples = load_target(folder / "board.toml"), model.with_suffix(".npz")
    return compile_model(model, board, options, samples=samples, verify="none")


def test_softmaxes_are_corrected_where_that_fits(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    nodes = [
        build.node("Transpose", "x", "t", perm=[0, 2, 1]),
        build.node("MatMul", "x t", "scores"),
        build.node("Softmax", "scores", "shares"),
        build.node("MatMul", "shares x", "y"),
    ]
    ends = [build.info("x", [1, 40, 8])], [build.info("y", [1, 40, 8])]
    path = build.save(build.model(nodes, *ends), tmp_path / "attention.onnx")
    x = rng.normal(0, 0.2, (20, 40, 8)) + rng.normal(0, 0.2, (20, 1, 8))
    np.savez(path.with_suffix(".npz"), x=x.astype(np.float32))

    def compiled_for(sram: int) -> tuple[int, float]:
        options = CompileOptions(activation_bits=4, packed_maps="never")
        report = compiled_within(sram, path, tmp_path, options).report
        assert report.arena_bytes is not None
        return report.arena_bytes, report.passes.get("assign-types", {}).get("corrected", 0)

    wide, corrected = compiled_for(1 << 16)
    assert corrected == 1
    assert compiled_for(wide) == (wide, 1)
    less, corrected = compiled_for(wide - 1)
    assert less < wide
    assert corrected == 0


def test_residual_sums_are_narrow_where_wide_ones_do_not_fit(stream: Path, tmp_path: Path) -> None:
    def compiled_for(sram: int, residuals: Literal["auto", "narrow", "wide"]) -> Result:
        return compiled_within(sram, stream, tmp_path, CompileOptions(residuals=residuals))

    narrow, wide = (compiled_for(4096, kind).report for kind in ("narrow", "wide"))
    assert narrow.arena_bytes is not None
    assert wide.arena_bytes is not None
    assert narrow.arena_bytes < wide.arena_bytes
    roomy = compiled_for(wide.arena_bytes, "auto").report
    assert (roomy.arena_bytes, roomy.passes["residual-widths"]["wide"]) == (wide.arena_bytes, 1)

    small = compiled_for(wide.arena_bytes - 1, "auto").report
    assert small.arena_bytes == narrow.arena_bytes
    found = small.passes["residual-widths"]
    assert (found["streams"], found["wide"], found["arena_wide"]) == (1, 0, wide.arena_bytes)
    assert found["error_wide"] < found["error_narrow"]

    with pytest.raises(DoesNotFit) as caught:
        compiled_for(wide.arena_bytes - 1, "wide")
    assert "residuals=narrow" in (caught.value.hint or "")
    with pytest.raises(DoesNotFit) as caught:
        compiled_for(narrow.arena_bytes - 1, "auto")
    assert caught.value.want == f"{narrow.arena_bytes} bytes"
    assert "residuals" not in (caught.value.hint or ""), "narrow sums do not fit either"


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm", "cc")
def test_code_counts_against_the_budget_where_it_can_be_measured(
    files: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small.toml"
    constants = compile_model(
        files / "net.onnx", HOST, OPTIONS, samples=files / "net.npz", verify="none"
    ).report.constant_bytes
    assert constants is not None
    small.write_text(
        'schema = 1\nname = "small"\nfamily = "mcu"\nextends = "cortex-m0plus"\n'
        'summary = "Room for constants"\nsource = "none"\n'
        f'[memory.flash]\nbytes = {constants + 16}\nholds = ["code", "constants"]\n'
    )
    with pytest.raises(DoesNotFit, match="more flash"):
        compile_model(
            files / "net.onnx",
            load_target(small),
            OPTIONS,
            samples=files / "net.npz",
            verify="none",
        )


# ---- pipelines


@dataclass(frozen=True, slots=True)
class Look(Pass):
    """A pass of the user's own that changes nothing."""

    name: ClassVar[str] = "look"
    before: ClassVar[Stage] = Stage.INTEGER
    after: ClassVar[Stage] = Stage.INTEGER
    effect: ClassVar[Effect] = Effect.KEEPS_VALUES

    def run(self, graph: Graph, context: Context) -> Graph:
        return graph


def test_a_pass_of_the_users_own_runs_where_it_was_put(files: Path, tmp_path: Path) -> None:
    pipeline = PIPELINES["mcu"].insert_after("merge-clamps", Look())
    trace = tmp_path / "ir"
    compile_model(
        files / "net.onnx", HOST, OPTIONS,
        samples=files / "net.npz", verify="none", pipeline=pipeline, dump_ir=trace,
    )  # fmt: skip
    names = [path.stem.partition("-")[2] for path in sorted(trace.iterdir())]
    assert names == ["load", *(p.name for p in pipeline)]
    assert names[names.index("merge-clamps") + 1] == "look"


def test_a_dump_never_goes_into_a_folder_that_is_there(files: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists already"):
        compile_model(
            files / "net.onnx", HOST, OPTIONS,
            samples=files / "net.npz", verify="none", dump_ir=tmp_path,
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_a_pipeline_as_text_gives_the_same_bytes(files: Path) -> None:
    projects = [
        compile_model(
            files / "net.onnx", HOST, OPTIONS,
            samples=files / "net.npz", verify="none", pipeline=pipeline,
        ).project
        for pipeline in (None, "mcu", str(PIPELINES["mcu"]))
    ]  # fmt: skip
    assert len({project.digest() for project in projects}) == 1


@pytest.mark.parametrize(("after", "has"), [("load", "Clip"), ("assign-types", " as i8@")])
def test_show_stops_where_it_is_told(after: str, has: str, files: Path) -> None:
    text = driver.show(files / "net.onnx", HOST, OPTIONS, samples=files / "net.npz", after=after)
    assert text.startswith("graph net\n")
    assert has in text


def test_show_gives_the_integer_graph_at_the_end(files: Path) -> None:
    text = driver.show(files / "net.onnx", HOST, OPTIONS, samples=files / "net.npz")
    assert "IntDense" in text
    assert "f32" not in text


# ---- equality of bytes


def test_two_compilations_under_other_hash_seeds_and_folders_give_equal_bytes(
    files: Path, tmp_path: Path
) -> None:
    digests: set[str] = set()
    for seed in ("1", "2"):
        folder = tmp_path / seed
        shutil.copytree(files, folder)
        words = ["compile", folder / "net.onnx", "--target", "host", "-o", folder / "out"]
        more = ["--samples", folder / "net.npz", "--verify", "ort"]
        subprocess.run(
            [sys.executable, "-m", "binpoint", *words, *more],
            check=True, capture_output=True, cwd=folder, env={"PYTHONHASHSEED": seed, "PATH": ""},
        )  # fmt: skip
        written = sorted(p for p in (folder / "out").rglob("*") if p.is_file())
        content = {str(p.relative_to(folder)): p.read_bytes() for p in written}
        digests.add(Project(content).digest())
    assert len(digests) == 1


def test_the_interpreter_agrees_with_the_float_network_on_most_classes(
    compiled: Result, files: Path
) -> None:
    x = np.load(files / "net.npz")["x"]
    expected = models.infer(x).argmax(axis=1)
    found: list[int] = []
    for sample in stored_inputs(compiled.graph, Samples({"x": x})):
        values = evaluate(compiled.graph, sample)
        found.append(int(values[compiled.graph.outputs[0]].argmax()))
    assert (np.array(found) == expected).mean() >= 0.95


# ---- differences


def test_a_difference_is_an_error_that_says_where(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(_: object, graph: Graph, inputs: list[object]) -> list[dict[str, np.ndarray]]:
        size = graph.value(graph.outputs[0]).shape
        return [{graph.outputs[0]: np.full(size, 3)} for _ in inputs]

    monkeypatch.setattr(verification, "run_onnx", wrong)
    with pytest.raises(Mismatch, match="onnxruntime differs from the interpreter") as caught:
        compile_model(files / "net.onnx", HOST, OPTIONS, samples=files / "net.npz", verify="ort")
    assert "sample 0" in (caught.value.have or "")
    assert "found 3" in (caught.value.have or "")


# ---- a folder again


@pytest.fixture
def folder(compiled: Result, tmp_path: Path) -> Path:
    compiled.project.write(tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.needs("cc")
@pytest.mark.parametrize("deep", [False, True])
def test_a_folder_is_verified_from_its_own_files(folder: Path, deep: bool) -> None:
    result = driver.verify_folder(folder, deep=deep)
    answers = {w.name: w.verdict.value for w in result.verdict.witnesses}
    assert answers["onnxruntime"] == answers["host"] == "equal"
    assert result.report.verdict == "equal"
    assert result.report.changed_files == ()


@pytest.mark.needs("cc")
def test_a_file_that_was_changed_by_hand_is_named(folder: Path) -> None:
    header = folder / "net.h"
    header.write_text(header.read_text() + "/* mine */\n")
    result = driver.verify_folder(folder)
    assert result.report.verdict == "equal"
    assert result.report.changed_files == ("net.h",)


@pytest.mark.needs("cc")
@pytest.mark.parametrize("deep", [False, True])
def test_code_that_was_changed_to_compute_something_else_is_found(folder: Path, deep: bool) -> None:
    source = folder / "net_constants.c"
    text = source.read_text()
    first = text.index("{\n    ") + 6
    source.write_text(text[:first] + "77, " + text[text.index(",", first) + 2 :])
    with pytest.raises(Mismatch, match="host differs"):
        driver.verify_folder(folder, "host", deep=deep)


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("manifest.json", None, InputNotFound),
        ("net.c", None, InputNotFound),
        ("report.json", None, InputNotFound),
        ("report.json", "{}", UsageError),
        ("manifest.json", "[1]", UsageError),
        ("manifest.json", "{", UsageError),
        ("manifest.json", '{"schema": 1}', UsageError),
    ],
)
def test_a_damaged_folder_is_one_error(
    name: str, text: str | None, error: type[BinpointError], folder: Path
) -> None:
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_text(text)
    with pytest.raises(error):
        driver.verify_folder(folder, "ort")


def test_no_call_of_a_node_may_be_optimised_away(compiled: Result) -> None:
    # gcc 12 takes some functions on a static arena for free of effects and drops their calls.
    source = compiled.project.files["net.c"].decode()
    nodes = re.findall(r"^static (.*)void node_\w+\(", source, re.M)
    assert nodes
    assert set(nodes) == {"BP_NOINLINE "}
    assert "__attribute__((noipa))" in compiled.project.files["net_runtime.h"].decode()
