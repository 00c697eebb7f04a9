"""Random models through the whole line: what was tried, refused, equal, different."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import onnx

from binpoint.errors import BinpointError, LoweringError, ModelError, QuantizationError
from binpoint.sim.departures import departures
from tests.end_to_end.witnesses import (
    Trial,
    compiled,
    image_differences,
    random_options,
    random_target,
    runtime_difference,
    witness_difference,
)
from tests.quantizers import quantized_model
from tests.strategies import weave


@dataclass(slots=True)
class Tally:
    """What became of the models tried."""

    tried: int = 0
    equal: int = 0
    runtime_equal: int = 0
    refused: Counter[str] = field(default_factory=Counter[str])
    operators: Counter[str] = field(default_factory=Counter[str])
    failures: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        """A table."""
        lines = [
            f"{self.tried} tried, {self.refused.total()} refused",
            f"{self.equal} equal in interpreter, onnxruntime and C",
            f"{self.runtime_equal} of them also in onnxruntime's run of the QDQ model",
            *(f"{count:6d} refused: {reason}" for reason, count in sorted(self.refused.items())),
            "operators compiled: "
            + ", ".join(f"{n} {c}" for n, c in sorted(self.operators.items())),
            *self.failures,
        ]
        return "\n".join(lines)


def random_model(random: Random) -> onnx.ModelProto:
    """A float model, or as often a QDQ model."""
    w = weave(random)
    if random.randrange(2):
        return quantized_model(w, random)
    return w.model(w.outputs())


def attempt(random: Random, name: str, tally: Tally) -> Trial | None:
    """Compile a random model; None where it is refused as a model may be.

    Any other error is a defect, and goes through.
    """
    tally.tried += 1
    model = random_model(random)
    options, target, seed = (
        random_options(random, name),
        random_target(random),
        random.getrandbits(32),
    )
    try:
        trial = compiled(model, options, target, seed)
    except (ModelError, QuantizationError, LoweringError) as refusal:
        tally.refused[reason_of(refusal)] += 1
        return None
    tally.operators.update({node.op_type for node in model.graph.node})
    return trial


def reason_of(refusal: BinpointError) -> str:
    """Code and message."""
    return f"{refusal.code} {refusal.message}"


def compare(trials: Sequence[Trial], tally: Tally) -> None:
    """Compare all witnesses of some models; differences go to the failures."""
    in_c = image_differences(trials)
    checked = [witness_difference(trial) for trial in trials]
    steps = [_runtime_steps(trial) for trial in trials]
    for trial, c, check, step in zip(trials, in_c, checked, steps, strict=True):
        name = trial.program.name
        if c is not None or check is not None:
            tally.failures.append(f"{name}: C: {c}; check graph: {check}")
            continue
        tally.equal += 1
        if step:
            tally.failures.append(f"{name}: {step} steps from onnxruntime's run of the model")
        tally.runtime_equal += step == 0


def _runtime_steps(trial: Trial) -> int | None:
    """By how many codes onnxruntime's run differs; None where it does not define the bytes."""
    if not trial.graph.quantized or not follows_runtime(trial):
        return None
    return runtime_difference(trial)


def follows_runtime(trial: Trial) -> bool:
    """Whether onnxruntime defines the bytes of every op of a QDQ model."""
    return not departures(trial.graph, trial.model)
