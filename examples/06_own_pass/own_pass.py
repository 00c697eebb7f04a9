"""A pass of one's own: cut off the largest weights, and see what that does to the accuracy."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import binpoint
from binpoint import PIPELINES, Context, Effect, Graph, Pass, Stage
from binpoint.ir.constant import Constant

DIGITS = Path(__file__).resolve().parent.parent / "02_digits_mcu"


@dataclass(frozen=True, slots=True)
class CutWeights(Pass):
    """Clip real constants to so many standard deviations."""

    name: ClassVar[str] = "cut-weights"
    before: ClassVar[Stage] = Stage.FLOAT
    after: ClassVar[Stage] = Stage.FLOAT
    effect: ClassVar[Effect] = Effect.CHANGES_VALUES
    deviations: float = 3.0

    def run(self, graph: Graph, context: Context) -> Graph:
        """Return the graph with other constants."""
        for value in tuple(graph.values()):
            if (real := value.constant) is not None and value.fixed is None:
                limit = self.deviations * real.array.std()
                graph.set_value(replace(value, constant=Constant(real.array.clip(-limit, limit))))
        return graph


for own in (CutWeights(9.0), CutWeights(), CutWeights(1.0)):
    result = binpoint.compile_model(
        DIGITS / "digits.onnx", binpoint.load_target("host"), binpoint.CompileOptions(),
        samples=DIGITS / "digits.npz", verify="ort",
        pipeline=PIPELINES["mcu"].insert_after("fold-affine", own),
    )  # fmt: skip
    print(f"{own}: {result.verdict.answer}, accuracy {result.report.accuracy.integer:.4f}")
