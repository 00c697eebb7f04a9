from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from binpoint import driver
from binpoint.driver import compile_model
from binpoint.errors import Mismatch, ToolFailed, UsageError, VerificationError
from binpoint.options import CompileOptions
from binpoint.ort import float_operators
from binpoint.sim import emitted
from binpoint.sim.compare import Difference, first_difference
from binpoint.sim.emitted import linked_parts
from binpoint.sim.interface import Interface, pack, split, unpack
from binpoint.sim.measure import Measurement
from binpoint.sim.witness import Answer, Verdict, Witness, WitnessResult, witnesses_of
from binpoint.target import load_target
from tests import models

OPTIONS = CompileOptions()
FIGURES = Measurement(1, 2, 3, (), (), "cc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    models.save_quantized(folder / "qnet.onnx")
    models.save_quantized(folder / "tail.onnx", float_tail=True)
    models.save_samples(folder / "net.npz")
    return folder


def compiled(
    folder: Path, name: str = "qnet", target: str = "host", verify: str = "all"
) -> Verdict:
    samples = folder / "net.npz"
    return compile_model(
        folder / f"{name}.onnx", load_target(target), OPTIONS, samples=samples, verify=verify
    ).verdict


def by_name(verdict: Verdict) -> dict[str, WitnessResult]:
    return {w.name: w for w in verdict.witnesses}


# ---- who is asked


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", ()),
        ("ort", (Witness.ORT,)),
        ("host", (Witness.HOST, Witness.OPTIMISED, Witness.NATIVE)),
        ("emulator, ort", (Witness.EMULATOR, Witness.ORT)),
        ("all", tuple(Witness)),
        ("all,ort", tuple(Witness)),
    ],
)
def test_witnesses_are_asked_by_name(text: str, expected: tuple[Witness, ...]) -> None:
    assert witnesses_of(text) == expected


@pytest.mark.parametrize("text", ["", "host -O2", "ORT", "ort,"])
def test_an_unknown_witness_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no witness"):
        witnesses_of(text)


# ---- the verdict


def answers(*given: tuple[str, Answer, bool]) -> Verdict:
    return Verdict(tuple(WitnessResult(n, a, counts=c) for n, a, c in given))


def test_the_interpreter_alone_is_no_verdict() -> None:
    alone = answers(("interpreter", Answer.EQUAL, True), ("host", Answer.NOT_RUN, True))
    assert alone.answer is Answer.NOT_RUN


def test_one_difference_outweighs_everything() -> None:
    verdict = answers(("host", Answer.EQUAL, True), ("emulator", Answer.DIFFERENT, True))
    assert verdict.answer is Answer.DIFFERENT
    assert verdict.first_difference.name == "emulator"


def test_a_difference_that_does_not_count_leaves_the_verdict() -> None:
    verdict = answers(("host", Answer.EQUAL, True), ("source", Answer.DIFFERENT, False))
    assert verdict.answer is Answer.EQUAL


# ---- tools that are missing


def test_without_tools_every_witness_that_needs_one_is_not_run_and_says_why(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    verdict = compiled(folder, target="cortex-m4")
    found = by_name(verdict)
    assert found["onnxruntime"].verdict is Answer.EQUAL
    for name, package in (
        ("host", "apt-get install gcc"),
        ("host -O2", "apt-get install gcc"),
        ("emulator", "apt-get install gcc-arm-none-eabi"),
    ):
        assert found[name].verdict is Answer.NOT_RUN
        assert package in (found[name].reason or "")
    assert verdict.answer is Answer.EQUAL
    assert verdict.measurement is None
    assert "arm-none-eabi-gcc" in (verdict.unmeasured or "")


def test_accuracy_is_the_same_without_a_host_compiler(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def accuracy() -> float | None:
        return compile_model(
            folder / "qnet.onnx",
            load_target("host"),
            OPTIONS,
            samples=folder / "net.npz",
            verify="none",
        ).report.accuracy.integer

    with_compiler = accuracy()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert accuracy() == with_compiler


def test_a_compiler_that_refuses_our_code_is_a_defect_not_a_reason(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ToolFailed("`cc` failed with status 1", have="error: unused variable")

    monkeypatch.setattr(emitted, "emulate", refuse)
    with pytest.raises(ToolFailed):
        compiled(folder)


def test_a_model_larger_than_the_emulated_board_is_not_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ToolFailed("`ld` failed", have="region `FLASH' overflowed by 5 bytes")

    monkeypatch.setattr(emitted, "emulate", refuse)
    found = by_name(compiled(folder))["emulator"]
    assert found.verdict is Answer.NOT_RUN
    assert "overflowed by 5 bytes" in (found.reason or "")


# ---- the emulator


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm", "cc")
def test_an_emulator_that_computes_something_else_is_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = emitted.emulate

    def off_by_one(*arguments: object, **more: object) -> object:
        found, figures = real(*arguments, **more)  # pyright: ignore[reportArgumentType]
        found[2]["o_out"] = found[2]["o_out"] + 1
        return found, figures

    monkeypatch.setattr(emitted, "emulate", off_by_one)
    with pytest.raises(Mismatch, match="emulator differs") as caught:
        compiled(folder, target="cortex-m4")
    assert "sample 2" in (caught.value.have or "")


@pytest.mark.needs("riscv64-unknown-elf-gcc", "qemu-system-riscv32", "cc")
def test_figures_come_without_running_too(folder: Path) -> None:
    verdict = compiled(folder, target="rv32imc", verify="ort")
    assert verdict.measurement is not None
    assert verdict.measurement.code_bytes > 0
    assert verdict.measurement.instructions is None
    assert by_name(verdict)["emulator"].verdict is Answer.NOT_RUN


def test_float_and_heap_in_the_image_are_said() -> None:
    assert linked_parts(FIGURES) is None
    both = replace(FIGURES, float_parts=("__aeabi_fadd",), heap_parts=("malloc",))
    assert linked_parts(both) == "float is linked: __aeabi_fadd; a heap is linked: malloc"


# ---- the user's own file


def test_the_users_file_gives_the_same_codes(folder: Path) -> None:
    source = by_name(compiled(folder, verify="ort"))["source"]
    assert (source.verdict, source.samples) == (Answer.EQUAL, models.SAMPLES)


def test_operators_that_stay_float_are_named(folder: Path) -> None:
    assert float_operators(str(folder / "qnet.onnx")) == {}
    assert float_operators(str(folder / "tail.onnx")) == {"Sigmoid": 1}
    source = by_name(compiled(folder, "tail", verify="ort"))["source"]
    assert "runs in float: 1 Sigmoid" in (source.reason or "")


@pytest.mark.parametrize(("name", "different"), [("qnet", True), ("tail", False)])
def test_other_codes_than_the_users_file_count_unless_a_departure_excuses_them(
    name: str, different: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twisted(*_: object, **__: object) -> list[dict[str, np.ndarray]]:
        return [{"y": np.zeros((1, models.CLASSES), np.float32)}] * models.SAMPLES

    monkeypatch.setattr("binpoint.sim.source.run_source", twisted)
    if different:
        with pytest.raises(Mismatch, match="source differs") as caught:
            compiled(folder, name, verify="ort")
        assert "codes differ from onnxruntime's own run" in (caught.value.have or "")
        return
    verdict = compiled(folder, name, verify="ort")
    assert by_name(verdict)["source"].verdict is Answer.DIFFERENT
    assert verdict.answer is Answer.EQUAL


# ---- comparing


def test_the_first_difference_in_the_graphs_order_is_told(folder: Path) -> None:
    result = compile_model(folder / "qnet.onnx", load_target("host"), OPTIONS, verify="none")
    graph = result.graph
    names = [name for node in graph.nodes() for name in node.outputs]
    right = {name: np.zeros(graph.value(name).shape, np.int64) for name in names}
    wrong = {name: array.copy() for name, array in right.items()}
    wrong[names[1]].flat[3] = 5
    wrong[names[-1]].flat[0] = 7
    found = first_difference(graph, [right, right], [right, wrong])
    assert isinstance(found, Difference)
    assert (found.sample, found.value, found.index) == (1, names[1], (0, 3))
    assert (found.expected, found.found, found.count) == (0, 5, 1)
    assert first_difference(graph, [right], [right]) is None


def test_a_witness_that_gives_too_little_is_no_witness(folder: Path) -> None:
    result = compile_model(folder / "qnet.onnx", load_target("host"), OPTIONS, verify="none")
    (name,) = result.graph.outputs
    value = {name: np.zeros((1, models.CLASSES), np.int64)}
    given: list[list[dict[str, np.ndarray]]] = [[], [value, value], [{}], [{"other": value[name]}]]
    for found in given:
        with pytest.raises(VerificationError, match="other values"):
            first_difference(result.graph, [value], found)


def test_ports_are_packed_and_unpacked_in_order(folder: Path) -> None:
    result = compile_model(folder / "qnet.onnx", load_target("host"), OPTIONS, verify="none")
    ports = Interface.of(result.program, OPTIONS).inputs
    samples = [{"x": np.arange(8).reshape(1, 8) - 4}, {"x": np.arange(8).reshape(1, 8)}]
    data = pack(ports, samples)
    assert len(data) == 16
    found = unpack(ports, data)
    assert [f["x"].tolist() for f in found] == [s["x"].tolist() for s in samples]
    with pytest.raises(ToolFailed, match="another number of bytes"):
        list(split([port.value for port in ports], data[:-1]))


def test_a_missing_emulator_in_a_folder_is_a_reason_too(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = compile_model(folder / "qnet.onnx", load_target("cortex-m4"), OPTIONS, verify="none")
    result.project.write(tmp_path / "out")
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    again = driver.verify_folder(tmp_path / "out")
    found = by_name(again.verdict)
    assert found["onnxruntime"].verdict is Answer.EQUAL
    assert found["host"].verdict is found["emulator"].verdict is Answer.NOT_RUN
