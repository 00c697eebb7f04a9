"""Projects on disk: all or nothing; the same bytes whatever the process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from binpoint.emit.project import Project
from binpoint.errors import Exit, InvariantBroken, OutputError
from tests import models

FILES = {"a.c": b"int a;\n", "test/b.bin": bytes(range(256)), "test/deep/c": b""}


def test_a_project_is_written_as_it_is(tmp_path: Path) -> None:
    Project(FILES).write(tmp_path / "new" / "out")
    found = {
        str(p.relative_to(tmp_path / "new" / "out")): p.read_bytes()
        for p in (tmp_path / "new" / "out").rglob("*")
        if p.is_file()
    }
    assert found == FILES
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["out"]


@pytest.mark.parametrize("kind", ["folder", "full folder", "file", "link", "dangling link"])
def test_what_exists_is_never_touched(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    match kind:
        case "folder":
            out.mkdir()
        case "full folder":
            out.mkdir()
            (out / "a.c").write_text("mine")
        case "file":
            out.write_text("mine")
        case "link":
            (tmp_path / "other").mkdir()
            out.symlink_to(tmp_path / "other")
        case _:
            out.symlink_to(tmp_path / "nowhere")
    before = sorted(p.name for p in tmp_path.rglob("*"))
    with pytest.raises(OutputError, match="exists already") as caught:
        Project(FILES).write(out)
    assert (caught.value.code, caught.value.exit) == ("BP5003", Exit.USAGE)
    assert sorted(p.name for p in tmp_path.rglob("*")) == before
    if kind == "full folder":
        assert (out / "a.c").read_text() == "mine"


@pytest.mark.parametrize(
    "place", ["file/out", "file/more/out", "n" * 300, "a\0b", "new/" + "n" * 300]
)
def test_what_cannot_be_written_leaves_nothing(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        Project(FILES).write(tmp_path / place)
    assert [p.name for p in tmp_path.rglob("*")] == ["file"]


@pytest.mark.parametrize("wrong", [{"a": b"", "a/b": b""}, {"n" * 300: b""}])
def test_a_file_that_cannot_be_written_leaves_nothing(
    wrong: dict[str, bytes], tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        Project({**FILES, **wrong}).write(tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_an_interruption_leaves_nothing(
    stop: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def interrupted(self: Path, data: bytes) -> int:
        if self.name == "b.bin":
            raise stop
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(stop):
        Project(FILES).write(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["/proc/binpoint", "/proc/binpoint/out", "/dev/null/out"])
def test_a_place_where_nobody_may_write_is_one_error(folder: str) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        Project(FILES).write(Path(folder))


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../../x", "a\\b"])
def test_paths_stay_inside(path: str) -> None:
    with pytest.raises(InvariantBroken):
        Project({path: b""})


def test_the_digest_knows_names_contents_and_where_they_end() -> None:
    variants = [
        {"a": b"x"}, {"b": b"x"}, {"a": b"y"}, {"a": b"", "x": b""}, {"a": b"x", "b": b""}, {},
    ]  # fmt: skip
    assert len({Project(v).digest() for v in variants}) == len(variants)
    assert Project({"a": b"1", "b": b"2"}).digest() == Project({"b": b"2", "a": b"1"}).digest()


# ---- the same bytes


def compile_in(folder: Path, seed: str, model: str, *more: str) -> dict[str, bytes]:
    """All files that the command line writes for a model, compiled in a process of its own."""
    words = [
        sys.executable,
        "-m",
        "binpoint",
        "compile",
        model,
        "--target",
        "cortex-m4",
        "-o",
        "out",
    ]
    environment = {"PYTHONHASHSEED": seed, "PATH": "", "HOME": str(folder), "LC_ALL": "C"}
    done = subprocess.run(
        [*words, "--verify", "ort", *more],
        check=False, capture_output=True, cwd=folder, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    out = folder / "out"
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", ["float", "quantized"])
def test_hash_seeds_and_folders_leave_no_trace(kind: str, tmp_path: Path) -> None:
    found: list[dict[str, bytes]] = []
    for seed, name in (("1", "one"), ("77", "a longer name/two")):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        if kind == "float":
            models.save_float(folder / "net.onnx")
            models.save_samples(folder / "net.npz")
            found.append(compile_in(folder, seed, "net.onnx", "--samples", str(folder / "net.npz")))
        else:
            models.save_quantized(folder / "net.onnx")
            found.append(compile_in(folder, seed, str(folder / "net.onnx")))
    first, second = found
    assert {"lowered.onnx", "manifest.json", "report.json", "net.c", "test/inputs.bin"} <= set(
        first
    )
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    assert not any(str(tmp_path).encode() in data for data in first.values())
    assert json.loads(first["manifest.json"])["target"] == "cortex-m4"


def test_a_failed_compilation_writes_nothing(tmp_path: Path) -> None:
    model = models.save_float(tmp_path / "net.onnx")
    model.write_bytes(model.read_bytes()[:400])
    words = [
        sys.executable,
        "-m",
        "binpoint",
        "compile",
        "net.onnx",
        "--target",
        "host",
        "-o",
        "out",
    ]
    done = subprocess.run(words, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == Exit.MODEL
    assert done.stderr.startswith("error[BP1")
    assert "Traceback" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]
    shutil.rmtree(tmp_path)
