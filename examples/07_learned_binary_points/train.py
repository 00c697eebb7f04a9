# pyright: basic, reportMissingImports=false
"""Bring a network to few bits, and verify its integers.

    python examples/07_learned_binary_points/train.py --data digits --net mlp --bits 4 --method qat

`ptq` takes binary points from the largest values; `pass` chooses them by the error of the outputs,
and `tune` learns which way to round each weight, both from some hundred samples without classes;
`qat` trains weights and binary points together. All start from the same float network, which is
kept in the folder, and every layer computes in fixed point.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
warnings.filterwarnings("ignore", module="brevitas")

import torch  # noqa: E402

from binpoint import CompileOptions, Report, compile_model, load_target  # noqa: E402
from binpoint.training import calibrate, export, fold_norms, place_points, prepare  # noqa: E402
from binpoint.training.check import compare  # noqa: E402
from binpoint.training.learn import Plan, accuracy, device, learn  # noqa: E402
from binpoint.training.tune import Fit, tune  # noqa: E402

_HERE = __import__("importlib").import_module
data_of = _HERE("examples.07_learned_binary_points.data")
nets = _HERE("examples.07_learned_binary_points.nets")

METHODS = ("ptq", "pass", "tune", "qat")
CALIBRATION, PLACED = 500, 200
TARGETS = ("host", "zu7ev")
QUICK = {"epochs": 2, "float_epochs": 6, "verify": 20}
FLOAT_RATE, RATE = 3e-3, 1e-3


@dataclass(frozen=True, slots=True)
class Job:
    """What was asked for."""

    data: Any
    net: str
    bits: int
    hot: int | None
    method: str
    epochs: int
    float_epochs: int
    folder: Path
    seed: int
    verify: int
    targets: tuple[str, ...]
    options: CompileOptions
    progress: bool

    @property
    def width(self) -> str:
        """Bits, and powers of two in a weight, for names of files."""
        return f"{self.bits}" + ("" if self.hot is None else f"k{self.hot}")

    def plan(self, name: str, epochs: int, rate: float) -> Plan:
        """A training whose checkpoint has this name."""
        path = self.folder / f"{self.data.name}-{self.net}-{name}.pt"
        return Plan(
            epochs=epochs, rate=rate, seed=self.seed, checkpoint=path, progress=self.progress
        )


def float_net(job: Job) -> Any:
    """The trained float network, from its checkpoint if there is one."""
    torch.manual_seed(job.seed)
    net = nets.NETS[job.net](job.data.shape, job.data.classes)
    plan = job.plan("float", job.float_epochs, FLOAT_RATE)
    learn(net, job.data.x, job.data.y, plan, augment=job.data.augment)
    return net.cpu()


def fixed_net(job: Job, net: Any) -> Any:
    """The network in fixed point, by one of the methods."""
    start = fold_norms(net) if job.method == "pass" else net
    prepared = prepare(
        start, bits=job.bits, input_bits=job.data.input_bits, input_signed=job.data.signed,
        weight_terms=job.hot,
    )  # fmt: skip
    seen = job.data.x[:CALIBRATION]
    if job.method == "pass":
        place_points(prepared, seen[:PLACED])
        return prepared
    calibrate(prepared, seen.split(100), method="max" if job.method == "ptq" else "mse")
    if job.method == "tune":
        tune(prepared, seen, Fit(seed=job.seed, progress=job.progress))
    if job.method == "qat":
        plan = job.plan(f"qat{job.width}", job.epochs, RATE)
        learn(prepared, job.data.x, job.data.y, plan, augment=job.data.augment)
    return prepared.cpu().eval()


def compiled(job: Job, path: Path) -> dict[str, Any]:
    """Accuracy of the integers, what every witness says of them, and what each target takes."""
    samples = path.with_suffix(".npz")
    np.savez(samples, x=job.data.test_x.numpy(), y=job.data.test_y.numpy())
    found: dict[str, Any] = {"witnesses": {}, "verdict": "equal", "targets": {}}
    for name in job.targets:
        target = load_target(name)
        result = compile_model(
            path, target, job.options, samples=samples, verify_samples=job.verify
        )
        if result.verdict.answer != "equal":
            found["verdict"] = str(result.verdict.answer)
        for witness in result.verdict.witnesses:
            if witness.name not in found["witnesses"] or witness.verdict != "not run":
                found["witnesses"][witness.name] = str(witness.verdict)
        assert result.report.accuracy is not None
        found["accuracy"] = result.report.accuracy.integer
        found["targets"][name] = taken(result.report)
    return found


def taken(report: Report) -> dict[str, Any]:
    """The figures of a target: counted instructions and bytes, or the estimate of a design."""
    if report.fpga is None:
        keys = ("instructions", "flash_bytes", "arena_bytes")
        return {key: getattr(report, key) for key in keys}
    used = {row.resource: row.used for row in report.fpga.resources}
    rate = round(report.fpga.inferences_per_second)
    return {"inferences_per_second": rate, "latency_us": report.fpga.latency_us, **used}


def run(job: Job) -> dict[str, Any]:
    """Do it all; what `--json` prints."""
    job.folder.mkdir(parents=True, exist_ok=True)
    net = float_net(job)
    before = accuracy(net, job.data.test_x, job.data.test_y)
    path = job.folder / f"{job.data.name}-{job.net}-{job.method}{job.width}.onnx"
    started = time.perf_counter()
    fixed = fixed_net(job, net.cpu())
    export(fixed, job.data.test_x[:1], path)
    seconds = time.perf_counter() - started
    same = compare(fixed, path, job.data.test_x[: job.verify])
    found = compiled(job, path)
    said = f"equal, {same.codes} codes of {same.quantizers} quantizers"
    return {
        "float": round(before, 4),
        "accuracy": round(found["accuracy"], 4),
        "bits": job.bits,
        **({} if job.hot is None else {"k_hot": job.hot}),
        "method": job.method,
        "verdict": found["verdict"],
        "seconds": round(seconds, 1),
        "witnesses": {"brevitas": said, **found["witnesses"]},
        "targets": found["targets"],
        "device": device(),
    }


@click.command()
@click.option(
    "--data", "source", default="digits", help="digits, can, tagger, or a file of samples."
)
@click.option("--net", type=click.Choice(sorted(nets.NETS)), default="mlp")
@click.option("--bits", type=click.IntRange(2, 8), default=4, help="Of weights and activations.")
@click.option("--k-hot", "hot", type=click.IntRange(1, 4), help="Powers of two in a weight.")
@click.option("--method", type=click.Choice(METHODS), default="qat")
@click.option("--epochs", default=8, help="Of qat.")
@click.option("--float-epochs", default=30, help="Of the float network.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path("build/learned"))
@click.option("--seed", default=1)
@click.option("--threads", default=1, help="Of torch.")
@click.option("--verify", default=0, help="Samples for the verdict, the first; 0: all of the test.")
@click.option("--target", "targets", multiple=True, default=TARGETS, help="One or more.")
@click.option("--multipliers", type=click.Choice(["auto", "none"]), default="auto")
@click.option("--quick", is_flag=True, help="Few epochs, few data where they are made.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON, and no bars.")
def main(
    source: str, threads: int, multipliers: Any, quick: bool, as_json: bool, **asked: Any
) -> None:
    """Train, quantize, export, compile, verify."""
    torch.set_num_threads(threads)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    data = data_of.read(source, quick=quick)
    asked |= QUICK if quick else {}
    asked["verify"] = asked["verify"] or len(data.test_x)
    asked["options"] = CompileOptions(multipliers=multipliers)
    found = run(Job(data, progress=not as_json, **asked))
    if as_json:
        click.echo(json.dumps(found))
        return
    for key, value in found.items():
        click.echo(f"{key:10} {value}")


if __name__ == "__main__":
    main()
