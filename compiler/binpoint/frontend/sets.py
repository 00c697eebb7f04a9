"""Which samples serve for what: to find ranges, to score, to verify."""

from __future__ import annotations

from dataclasses import dataclass

from binpoint.errors import InvalidSamples, MissingSamples
from binpoint.passes.samples import Samples


@dataclass(frozen=True, slots=True)
class SampleSets:
    """Samples to calibrate with and to score; `shared` tells that they are the same."""

    calibration: Samples | None
    scored: Samples | None
    shared: bool


def divide(samples: Samples | None, calibrate_with: int | None) -> SampleSets:
    """The first `calibrate_with` samples calibrate, the others score; without a number all do both.

    Raises:
        MissingSamples: there are no samples to divide.
        InvalidSamples: none would be left to score.
    """
    if calibrate_with is None:
        return SampleSets(samples, samples, samples is not None)
    if samples is None:
        raise MissingSamples(
            "there are no samples to calibrate with",
            want=f"--samples, for the first {calibrate_with}",
        )
    if calibrate_with >= samples.count:
        raise InvalidSamples(
            "no sample would be left to score",
            have=f"{samples.count} samples, {calibrate_with} of them to calibrate with",
            want=f"at most {samples.count - 1} to calibrate with",
        )
    return SampleSets(samples.part(0, calibrate_with), samples.part(calibrate_with), shared=False)
