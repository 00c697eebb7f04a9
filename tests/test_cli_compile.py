"""The command line on models: what it writes, and one error for each kind of bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests import models
from tests.command import Done, Run


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    models.save_float(folder / "net.onnx")
    models.save_quantized(folder / "qnet.onnx")
    models.save_samples(folder / "net.npz")
    return folder


def arguments(files: Path, output: Path, *more: str | Path) -> list[str | Path]:
    samples = ["--samples", files / "net.npz"]
    return ["compile", files / "net.onnx", "--target", "host", "-o", output, *samples, *more]


# ---- what it does


def test_compile_writes_the_folder_and_prints_the_report(
    files: Path, tmp_path: Path, run: Run
) -> None:
    done = run(*arguments(files, tmp_path / "out", "--verify", "ort", "--json"))
    assert (done.status, done.err) == (0, "")
    assert done.out == (tmp_path / "out" / "report.json").read_text()
    assert json.loads(done.out)["verdict"] == "equal"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_compile_prints_tables_for_people(files: Path, tmp_path: Path, run: Run) -> None:
    done = run(*arguments(files, tmp_path / "out", "--verify", "none", "--calibrate-with", "10"))
    assert done.status == 0
    assert "10 to calibrate, 30 to score" in done.out
    assert "verdict: not run" in done.out


def test_options_reach_the_generated_code(files: Path, tmp_path: Path, run: Run) -> None:
    more = ["--verify", "none", "--name", "tiny", "--set", 'arena="caller"']
    assert run(*arguments(files, tmp_path / "out", *more)).status == 0
    assert "typedef struct tiny_context" in (tmp_path / "out" / "tiny.h").read_text()


def test_analyze_writes_nothing(
    files: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = files / "net.onnx"
    done = run("analyze", model, "--target", "host", "--samples", files / "net.npz", "--json")
    assert json.loads(done.out)["model"]["name"] == "net"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.needs("cc")
def test_verify_tells_of_a_change_and_fails_on_a_difference(
    files: Path, tmp_path: Path, run: Run
) -> None:
    folder = tmp_path / "out"
    assert run(*arguments(files, folder, "--verify", "none")).status == 0
    done = run("verify", folder, "--deep", "--json")
    assert (done.status, json.loads(done.out)["changed_files"]) == (0, [])
    source = folder / "net_constants.c"
    text = source.read_text()
    first = text.index("{\n    ") + 6
    source.write_text(text[:first] + "77, " + text[text.index(",", first) + 2 :])
    done = run("verify", folder, "--with", "ort", "--json")
    assert (done.status, json.loads(done.out)["changed_files"]) == (0, ["net_constants.c"])
    done = run("verify", folder, "--with", "host")
    assert done.status == 5
    assert done.err.startswith("error[BP6001]: host differs")
    assert done.out == ""


def test_show_prints_the_graph(files: Path, run: Run) -> None:
    assert "Dense" in run("show", files / "net.onnx", "--after", "load").out
    assert "IntDense" in run("show", files / "qnet.onnx").out


def test_list_prints_passes_and_pipelines_and_operators(run: Run) -> None:
    for what, key in (("passes", "pass"), ("pipelines", "pipeline"), ("ops", "operator")):
        rows = json.loads(run("list", what, "--json").out)
        assert all(row[key] for row in rows)
        assert all(row.get("meaning", "a pipeline") for row in rows)


def test_a_dump_holds_the_graph_after_each_pass(files: Path, tmp_path: Path, run: Run) -> None:
    done = run(*arguments(files, tmp_path / "o", "--verify", "none", "--dump-ir", tmp_path / "ir"))
    assert done.status == 0
    names = sorted(path.name for path in (tmp_path / "ir").iterdir())
    assert names[0] == "00-load.txt"
    assert names[-1].endswith("pack-maps.txt")


# ---- bad input: one error with its code and exit status, nothing half-written


def refused(run: Run, words: list[str | Path], code: str, status: int, folder: Path) -> Done:
    before = sorted(folder.rglob("*"))
    done = run(*words)
    assert done.err.startswith(f"error[{code}]: "), done.err
    assert done.status == status
    assert done.out == ""
    assert done.err.count("error[") == 1
    assert "Traceback" not in done.err
    assert sorted(folder.rglob("*")) == before
    return done


@pytest.mark.parametrize(
    ("more", "code", "status"),
    [
        (["--target", "cortex-m5"], "BP4001", 2),
        (["--target", "absent.toml"], "BP8004", 2),
        (["--target", "artix7-35t", "--optimize", "size"], "BP8003", 2),
        (["--fps", "100"], "BP8003", 2),
        (["--target", "artix7-35t", "--fps", "-1"], "BP8003", 2),
        (["--target", "artix7-35t", "--fps", "9", "--latency", "9"], "BP8003", 2),
        (["--target", "artix7-35t", "--folding", "absent.toml"], "BP8004", 2),
        (["--target", "artix7-35t", "--set", "folding={nowhere={pe=2}}"], "BP8003", 2),
        (["--target", "artix7-35t", "--set", "folding={dense={pe=0}}"], "BP8003", 2),
        (["--samples", "absent.npz"], "BP8004", 2),
        (["--set", "observer=mmse"], "BP8003", 2),
        (["--set", "obserrver=mse"], "BP8003", 2),
        (["--config", "absent.toml"], "BP8004", 2),
        (["--name", "1st"], "BP8003", 2),
        (["--optimize", "looks"], "BP8003", 2),
        (["--pipeline", "nonsense"], "BP8001", 2),
        (["--pipeline", "assign-types{samples=many}"], "BP8002", 2),
        (["--calibrate-with", "40"], "BP2002", 3),
        (["--verify", "some"], "BP8000", 2),
    ],
)
def test_a_wrong_argument_is_one_error(
    more: list[str], code: str, status: int, files: Path, tmp_path: Path, run: Run
) -> None:
    words = arguments(files, tmp_path / "out", "--verify", "none", *more)
    refused(run, words, code, status, tmp_path)


def test_a_missing_model_is_one_error(tmp_path: Path, run: Run) -> None:
    words = ["compile", tmp_path / "no.onnx", "--target", "host", "-o", tmp_path / "out"]
    refused(run, words, "BP8004", 2, tmp_path)


def test_a_float_model_without_samples_is_told_what_it_needs(
    files: Path, tmp_path: Path, run: Run
) -> None:
    words = ["compile", files / "net.onnx", "--target", "host", "-o", tmp_path / "out"]
    assert "--samples" in refused(run, words, "BP2001", 3, tmp_path).err


def test_random_samples_are_allowed_and_accuracy_is_unknown(
    files: Path, tmp_path: Path, run: Run
) -> None:
    words = arguments(files, tmp_path / "out", "--verify", "none")
    done = run(*words, "--samples", "random")
    assert done.status == 0
    assert "accuracy" in done.out
    assert "unknown" in done.out


def _array(name: str, array: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(array.astype(np.float32), name)


def _model(nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "bad",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _gemm(weights: np.ndarray) -> onnx.ModelProto:
    return _model([helper.make_node("MatMul", ["x", "w"], ["y"])], [_array("w", weights)])


def _quantized(scale: float) -> onnx.ModelProto:
    constants = [
        _array("s", np.array(scale)),
        numpy_helper.from_array(np.array(0, np.int8), "z"),
        _array("w", np.ones((8, 4))),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    return _model(nodes, constants)


def _absent_tensor() -> onnx.ModelProto:
    huge = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 28, 8])
    return _model([helper.make_node("MatMul", ["w", "x"], ["y"])], [huge])


def _cycle() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w"], ["y"]),
    ]
    return _model(nodes, [_array("w", np.ones((8, 4)))])


BAD: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "truncated": (_gemm(np.ones((8, 4))).SerializeToString()[:-40], ("BP1001",)),
    "empty": (b"", ("BP1001",)),
    "text": (b"this is no model\n" * 9, ("BP1001",)),
    "nan in weights": (_gemm(np.full((8, 4), np.nan)).SerializeToString(), ("BP1004",)),
    "infinite weights": (_gemm(np.full((8, 4), np.inf)).SerializeToString(), ("BP1004",)),
    "zero scale": (_quantized(0.0).SerializeToString(), ("BP1004",)),
    "negative scale": (_quantized(-0.1).SerializeToString(), ("BP1004",)),
    "cycle": (_cycle().SerializeToString(), ("BP1001",)),
    "missing initializer": (
        _model([helper.make_node("MatMul", ["x", "w"], ["y"])], []).SerializeToString(),
        ("BP1001",),
    ),
    "declared but absent": (_absent_tensor().SerializeToString(), ("BP1001",)),
    "unknown operator": (
        _model([helper.make_node("Nonsense", ["x"], ["y"])], []).SerializeToString(),
        ("BP1001", "BP1003"),
    ),
}


@pytest.mark.parametrize("kind", sorted(BAD))
def test_a_bad_model_is_one_error(kind: str, files: Path, tmp_path: Path, run: Run) -> None:
    content, codes = BAD[kind]
    (tmp_path / "bad.onnx").write_bytes(content)
    words = ["compile", tmp_path / "bad.onnx", "--target", "host", "-o", tmp_path / "out"]
    before = sorted(tmp_path.rglob("*"))
    done = run(*words, "--samples", files / "net.npz")
    assert (done.status, done.out) == (3, "")
    assert done.err[6:12] in codes, done.err
    assert "Traceback" not in done.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"wrong": np.zeros((4, 8), np.float32)}, "the input `x` is missing"),
        ({"x": np.zeros((4, 9), np.float32)}, "the shape does not fit"),
        ({"x": np.full((4, 8), np.nan, np.float32)}, "NaN"),
        ({"x": np.array(["a"] * 8).reshape(1, 8)}, "real numbers"),
        ({"x": np.zeros((4, 8), np.float32), "y": np.zeros(3)}, "one entry a sample"),
        ({"x": np.zeros((0, 8), np.float32)}, "no samples"),
    ],
)
def test_samples_that_do_not_fit_are_one_error(
    arrays: dict[str, np.ndarray], says: str, files: Path, tmp_path: Path, run: Run
) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)  # pyright: ignore[reportArgumentType]
    words = arguments(files, tmp_path / "out", "--samples", tmp_path / "bad.npz")
    assert says in refused(run, words, "BP2002", 3, tmp_path).err


def test_a_folder_that_cannot_be_written_is_one_error(
    files: Path, tmp_path: Path, run: Run
) -> None:
    (tmp_path / "file").write_text("in the way")
    words = arguments(files, tmp_path / "file" / "out", "--verify", "none")
    refused(run, words, "BP5003", 2, tmp_path)


def test_a_target_that_is_too_small_is_one_error(files: Path, tmp_path: Path, run: Run) -> None:
    small = tmp_path / "small.toml"
    small.write_text(
        'schema = 1\nname = "small"\nfamily = "mcu"\nextends = "cortex-m0plus"\n'
        'summary = "Small"\nsource = "none"\n'
        '[memory.flash]\nbytes = 64\nholds = ["code", "constants"]\n'
    )
    words = arguments(files, tmp_path / "out", "--target", small)
    refused(run, words, "BP4003", 4, tmp_path)


HOSTILE = (
    'in"put',
    "*/ int main(void) {",
    "a\nb",
    "while",
    "ünïcode",
    "x" * 300,
    "%s",
    "a.b/c:d",
    "Run",
    "arena",
    "int8_t",
    "X",
)


@pytest.mark.needs("cc")
@pytest.mark.parametrize(
    ("name", "io"),
    list(zip(HOSTILE, ("caller", "arena") * 6, strict=True)),
    ids=range(len(HOSTILE)),
)
def test_names_from_the_model_cannot_break_the_code(
    name: str, io: str, tmp_path: Path, run: Run
) -> None:
    model = onnx.load_model_from_string(models.save_quantized(tmp_path / "q.onnx").read_bytes())
    graph = model.graph
    graph.input[0].name, graph.output[0].name = name, f"{name}!"
    for node in graph.node:
        node.name = f"{node.name}{name}"
        node.input[:] = [name if value == "x" else value for value in node.input]
        node.output[:] = [f"{name}!" if value == "y" else value for value in node.output]
    (tmp_path / "hostile.onnx").write_bytes(model.SerializeToString())
    words = ["compile", tmp_path / "hostile.onnx", "--target", "host", "-o", tmp_path / "out"]
    done = run(*words, "--json", "--set", f"io={io}", "--verify", "none")
    assert done.status == 0, done.err
    assert _selftest(tmp_path / "out") == 0


def _selftest(folder: Path) -> int:
    sources = [*folder.glob("*.c"), *folder.glob("test/*.c")]
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wcast-qual", "-Werror"]
    subprocess.run(["cc", *flags, f"-I{folder}", *sources, "-o", folder / "selftest"], check=True)
    return subprocess.run([folder / "selftest"], check=False, capture_output=True).returncode


def test_a_missing_compiler_is_a_reason_in_the_report_not_an_error(
    files: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    words = arguments(files, tmp_path / "out", "--json")
    done = subprocess.run(
        [sys.executable, "-m", "binpoint", *words],
        check=True, capture_output=True, text=True, env={"PATH": str(empty)},
    )  # fmt: skip
    report = json.loads(done.stdout)
    reasons = {w["name"]: w["reason"] for w in report["witnesses"]}
    assert "apt-get install" in reasons["host"]
    assert report["verdict"] == "equal"


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm", "cc")
def test_the_demo_runs_a_classifier_of_digits_on_cortex_m4(run: Run) -> None:
    report = json.loads(run("demo", "--json").out)
    assert report["verdict"] == "equal"
    assert report["accuracy"]["integer"] > 0.95
    assert report["instructions"] > report["macs"]
    assert [w["verdict"] for w in report["witnesses"]] == ["equal"] * 5


@pytest.mark.needs("cmake", "cc")
def test_the_folder_drops_into_cmake(files: Path, tmp_path: Path, run: Run) -> None:
    assert run(*arguments(files, tmp_path / "out", "--verify", "none")).status == 0
    build = tmp_path / "build"
    steps = (
        ["cmake", "-S", tmp_path / "out", "-B", build],
        ["cmake", "--build", build],
        ["ctest", "--test-dir", build],
    )
    for step in steps:
        subprocess.run(step, check=True, capture_output=True)
