"""Samples: inputs of the model with the sample axis in front.

And what is known of their answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Samples:
    """Arrays by input name, leading axis = samples.

    Each sample has the input's shape without its batch of one.

    `labels` (optional) holds one class, or one map of classes, a sample; `expected` outputs by
    name; `random` tells that the samples are noise, so that accuracy is unknown.
    """

    arrays: Mapping[str, NDArray[Any]]
    labels: NDArray[Any] | None = None
    expected: Mapping[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])
    random: bool = False
    source: str = ""

    @property
    def count(self) -> int:
        """Number of samples."""
        return min((len(a) for a in self.arrays.values()), default=0)

    def part(self, start: int, stop: int | None = None) -> Samples:
        """Samples `start` to `stop`."""
        return replace(
            self,
            arrays={name: a[start:stop] for name, a in self.arrays.items()},
            labels=None if self.labels is None else self.labels[start:stop],
            expected={name: a[start:stop] for name, a in self.expected.items()},
        )

    def spread(self, count: int) -> Samples:
        """At most `count` samples, evenly spread over all."""
        if count >= self.count:
            return self
        chosen = np.linspace(0, self.count - 1, count).round().astype(np.int64)
        return replace(
            self,
            arrays={name: a[chosen] for name, a in self.arrays.items()},
            labels=None if self.labels is None else self.labels[chosen],
            expected={name: a[chosen] for name, a in self.expected.items()},
        )

    def inputs(self) -> Iterator[dict[str, NDArray[Any]]]:
        """One mapping of input name to array, batch axis of one included, per sample."""
        for index in range(self.count):
            yield {name: array[index : index + 1] for name, array in self.arrays.items()}
