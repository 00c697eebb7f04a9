from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from binpoint import catalogue, cli
from binpoint.target import list_targets
from tests.command import Run


def test_help_answers_at_once() -> None:
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "binpoint", "--help"], check=True, capture_output=True, text=True
    )
    assert "compile" in done.stdout
    # 0.3 s is the aim; the margin is for a loaded machine.
    assert time.perf_counter() - began < 1.0


def test_help_loads_none_of_the_heavy_packages() -> None:
    code = (
        "import sys\nfrom binpoint import cli\n"
        "heavy = {'numpy', 'onnx', 'onnxruntime', 'rich', 'networkx', 'jinja2', 'msgspec'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_no_words_print_the_help(run: Run) -> None:
    done = run()
    assert done.status == 0
    assert "Usage: binpoint" in done.out


def test_list_targets_as_json_names_each_target(run: Run) -> None:
    rows = json.loads(run("list", "targets", "--json").out)
    assert [row["target"] for row in rows] == list(list_targets())


def test_list_targets_as_a_table_names_each_target(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    done = run("list", "targets")
    assert done.status == 0
    assert [name for name in list_targets() if name not in done.out] == []


def test_explain_prints_an_entry(run: Run) -> None:
    assert run("explain", "BP1003").out.strip() == catalogue.explanation("BP1003")


def test_doctor_names_the_debian_package_of_every_missing_tool(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run("doctor", "--json")
    assert done.status == 0
    rows = {row["target"]: row for row in json.loads(done.out)}
    assert "arm-none-eabi-gcc" in rows["cortex-m4"]["state"]
    assert "gcc-arm-none-eabi" in rows["cortex-m4"]["to do"]
    assert "gcc-riscv64-unknown-elf" in rows["rv32imc"]["to do"]


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm", "cc")
def test_doctor_finds_what_is_there(run: Run) -> None:
    rows = {row["target"]: row for row in json.loads(run("doctor", "--json").out)}
    assert rows["cortex-m4"] == {"target": "cortex-m4", "state": "found", "to do": ""}


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["explain", "BP7777"], 2, "BP8000"),
        (["list", "toys"], 2, "BP8000"),
        (["compile"], 2, "BP8000"),
        (["compile", "a.onnx", "--target", "host"], 2, "'-o'"),
        (["compile", "a.onnx", "--target", "host", "-o", "x", "--verify", "some"], 2, "'some'"),
        (["compile", "a.onnx", "--target", "host", "-o", "x", "--samples-verify", "0"], 2, "0"),
        (["nonsense"], 2, "nonsense"),
        (["--nonsense"], 2, "--nonsense"),
    ],
)
def test_a_wrong_command_is_one_error_on_stderr(
    words: list[str], status: int, says: str, run: Run
) -> None:
    done = run(*words)
    assert done.status == status
    assert done.out == ""
    assert done.err.startswith("error[BP8000]: ")
    assert says in done.err


def test_an_existing_output_folder_is_refused_before_any_work(tmp_path: Path, run: Run) -> None:
    done = run("compile", "no.onnx", "--target", "host", "-o", tmp_path)
    assert done.status == 2
    assert "BP5003" in done.err
    assert list(tmp_path.iterdir()) == []


def test_an_unexpected_exception_is_a_defect_without_traceback(
    monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    def broken(_: str) -> str:
        raise ZeroDivisionError("surprise")

    monkeypatch.delenv("BINPOINT_DEBUG", raising=False)
    monkeypatch.setattr(catalogue, "explanation", broken)
    done = run("explain", "BP1003")
    assert done.status == 1
    assert done.err.startswith("error[BP9000]: ")
    assert "ZeroDivisionError: surprise" in done.err
    assert "Traceback" not in done.err


def test_debugging_lets_the_exception_through(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> str:
        raise ZeroDivisionError

    monkeypatch.setenv("BINPOINT_DEBUG", "1")
    monkeypatch.setattr(catalogue, "explanation", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["explain", "BP1003"])


def test_a_reader_that_leaves_early_causes_no_complaint() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "binpoint", "explain", "BP1003"],
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode != 0
