from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console

from binpoint.driver import Result, compile_model
from binpoint.errors import InputNotFound, UsageError
from binpoint.frontend.load import load
from binpoint.options import CompileOptions
from binpoint.report import render
from binpoint.report.measure import macs
from binpoint.report.schema import Report
from binpoint.target import load_target
from tests import models

KEYS = (
    "schema", "model", "target", "code_bytes", "constant_bytes", "flash_bytes", "arena_bytes",
    "arena_lower_bound_bytes", "stack_bytes", "macs", "instructions", "accuracy", "verdict",
    "witnesses", "requantizers", "layers",
)  # fmt: skip
MACS = models.INPUT * models.HIDDEN + models.HIDDEN * models.CLASSES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    models.save_float(folder / "net.onnx")
    models.save_quantized(folder / "qnet.onnx")
    models.save_samples(folder / "net.npz")
    return folder


def compiled(folder: Path, name: str, target: str, verify: str) -> Result:
    return compile_model(
        folder / f"{name}.onnx",
        load_target(target),
        CompileOptions(),
        samples=folder / "net.npz",
        calibrate_with=10,
        verify=verify,
    )


@pytest.fixture(scope="module")
def unmeasured(folder: Path) -> Report:
    """The float network for the host, which no emulator runs."""
    return compiled(folder, "net", "host", "ort").report


def test_the_fixed_keys_are_there_in_their_order(unmeasured: Report) -> None:
    found = list(json.loads(render.json(unmeasured)))
    assert [key for key in found if key in KEYS] == list(KEYS)


def test_what_was_not_measured_is_null_and_says_why(unmeasured: Report) -> None:
    report = json.loads(render.json(unmeasured))
    for key in ("code_bytes", "flash_bytes", "stack_bytes", "instructions", "float_linked"):
        assert report[key] is None
    assert report["modelled_cycles"] is None
    for row in report["layers"]:
        assert (row["instructions"], row["modelled_cycles"]) == (None, None)
    assert "emulator" in report["unmeasured"]


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm", "cc")
def test_an_emulated_target_gives_every_figure(folder: Path) -> None:
    report = compiled(folder, "qnet", "cortex-m4", "all").report
    assert report.verdict == "equal"
    assert {w.name: w.verdict for w in report.witnesses} == {
        "interpreter": "equal",
        "onnxruntime": "equal",
        "host": "equal",
        "host -O2": "equal",
        "emulator": "equal",
        "source": "equal",
    }
    assert report.code_bytes is not None
    assert report.constant_bytes is not None
    assert report.flash_bytes == report.code_bytes + report.constant_bytes
    assert report.constant_bytes >= MACS
    assert (report.float_linked, report.heap_linked) == ((), ())
    assert report.instructions is not None
    assert report.instructions > report.macs == MACS
    assert report.stack_bytes is not None
    assert 0 < report.stack_bytes < 1024


@pytest.mark.needs(
    "arm-none-eabi-gcc", "riscv64-unknown-elf-gcc", "qemu-system-arm", "qemu-system-riscv32", "cc"
)
@pytest.mark.parametrize("core", ["cortex-m0plus", "cortex-m4", "cortex-m55", "rv32imc"])
def test_layers_on_an_emulated_core_add_up_to_the_run(folder: Path, core: str) -> None:
    report = compiled(folder, "qnet", core, "all").report
    assert report.instructions is not None
    assert report.modelled_cycles is not None
    layers = [row.instructions for row in report.layers if row.instructions is not None]
    cycles = [row.modelled_cycles for row in report.layers if row.modelled_cycles is not None]
    assert len(layers) == len(cycles) == len(report.layers)
    # What is not a layer's is the way out of the run.
    assert 0 < report.instructions - sum(layers) < 20
    assert sum(cycles) < report.modelled_cycles < 3 * report.instructions


def test_accuracy_is_that_of_the_float_model_and_of_the_integers(
    unmeasured: Report, folder: Path
) -> None:
    assert unmeasured.accuracy.metric == "top-1"
    assert unmeasured.accuracy.floating == 1.0
    assert unmeasured.accuracy.integer is not None
    assert unmeasured.accuracy.integer > 0.9
    quantized = compiled(folder, "qnet", "host", "none").report.accuracy
    assert quantized.floating is None
    assert quantized.onnxruntime == quantized.integer


def test_layers_tell_work_bytes_and_noise(unmeasured: Report) -> None:
    first, second = unmeasured.layers
    assert (first.origin, second.origin) == (("first",), ("second",))
    assert (first.shape, second.shape) == ((1, models.HIDDEN), (1, models.CLASSES))
    assert first.macs + second.macs == unmeasured.macs == MACS
    assert first.bytes >= models.INPUT * models.HIDDEN
    for layer in (first, second):
        assert (layer.requantizer, layer.proved) == ("mulshift", True)
        assert layer.snr_db is not None
        assert 5 < layer.snr_db < 60  # ten samples show a part of the range


def test_requantizers_are_counted_by_channel(unmeasured: Report) -> None:
    assert unmeasured.requantizers.mulshift == models.HIDDEN + models.CLASSES


def test_work_in_a_float_graph_is_counted_by_positions_and_weights(folder: Path) -> None:
    assert macs(load(folder / "net.onnx")) == MACS


def test_the_report_reads_back(unmeasured: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(render.json(unmeasured))
    assert render.read(path) == unmeasured


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputNotFound):
        render.read(tmp_path / "report.json")
    (tmp_path / "report.json").write_text('{"schema": 1}')
    with pytest.raises(UsageError, match="no report"):
        render.read(tmp_path / "report.json")


def test_the_tables_show_the_verdict_and_every_layer(unmeasured: Report) -> None:
    out = io.StringIO()
    render.console(unmeasured, Console(file=out, width=200))
    text = out.getvalue()
    assert "verdict: equal" in text
    for layer in unmeasured.layers:
        assert layer.name in text


# ---- the schema, by a validator of the few words that it uses


_KINDS: Mapping[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "integer": (int,),
    "null": (type(None),), "number": (int, float), "boolean": (bool,),
}  # fmt: skip


def complaints(schema: dict[str, Any], part: dict[str, Any], value: Any) -> list[str]:
    """Return what is wrong with a value by a schema."""
    if "$ref" in part:
        return complaints(schema, schema["$defs"][part["$ref"].rpartition("/")[2]], value)
    if "anyOf" in part:
        tried = [complaints(schema, option, value) for option in part["anyOf"]]
        return [] if [] in tried else [f"{value!r} is none of {part['anyOf']}"]
    if "enum" in part:
        return [] if value in part["enum"] else [f"{value!r} is none of {part['enum']}"]
    if not isinstance(value, _KINDS[part["type"]]):
        return [f"{value!r} is no {part['type']}"]
    if part["type"] == "array" and "items" in part:
        return [c for item in value for c in complaints(schema, part["items"], item)]
    if part["type"] != "object":
        return []
    if "properties" not in part:  # a table of any keys
        others = part["additionalProperties"]
        return [c for inner in value.values() for c in complaints(schema, others, inner)]
    fields = part["properties"]
    missing = [f"{key} is missing" for key in part.get("required", []) if key not in value]
    unknown = [f"{key} is unknown" for key in value if key not in fields]
    inside = [c for k in value if k in fields for c in complaints(schema, fields[k], value[k])]
    return missing + unknown + inside


def test_the_report_is_as_its_schema_says(unmeasured: Report) -> None:
    schema = json.loads(render.schema())
    assert complaints(schema, schema, json.loads(render.json(unmeasured))) == []


@pytest.mark.parametrize(
    "change",
    [{"verdict": "perhaps"}, {"macs": None}, {"more": 1}, {"witnesses": [{"name": "x"}]}],
)
def test_the_schema_refuses_what_is_no_report(change: dict[str, Any], unmeasured: Report) -> None:
    schema = json.loads(render.schema())
    report = {**msgspec.json.decode(render.json(unmeasured)), **change}
    assert complaints(schema, schema, report) != []


def test_every_key_is_explained_in_the_docs(unmeasured: Report) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "reference" / "report.md"
    text = page.read_text(encoding="utf-8")
    assert [key for key in json.loads(render.json(unmeasured)) if f"`{key}`" not in text] == []


def test_no_number_of_numpy_reaches_the_report(unmeasured: Report) -> None:
    values = [layer.snr_db for layer in unmeasured.layers]
    assert all(type(v) is float for v in values)
    assert not isinstance(unmeasured.accuracy.integer, np.floating)
