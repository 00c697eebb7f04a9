from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import binpoint
from tests import models


@pytest.mark.parametrize("name", binpoint.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    thing: object = getattr(binpoint, name)
    assert thing.__doc__ or not callable(thing)


def test_an_unknown_name_is_refused_as_python_does() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        binpoint.nonsense  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue, reportUnusedExpression]


def test_the_steps_of_a_compilation_are_public(tmp_path: Path) -> None:
    model = models.save_float(tmp_path / "net.onnx")
    graph = binpoint.load(model)
    samples = binpoint.read_samples(models.save_samples(tmp_path / "net.npz"), graph)
    target = binpoint.load_target("host")
    context = binpoint.Context(target, binpoint.CompileOptions(), samples)
    integers = binpoint.run(binpoint.PIPELINES["mcu"], graph, context)
    zeros = {"x": np.zeros((1, models.INPUT), np.int8)}
    values = binpoint.evaluate(integers, zeros)
    assert values[integers.outputs[0]].shape == (1, models.CLASSES)
