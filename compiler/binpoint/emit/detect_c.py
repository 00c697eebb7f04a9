"""The head that makes boxes, as its templates see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from binpoint.emit.environment import c_array, ctype
from binpoint.numeric.fixed import IntType
from binpoint.plan.detector import FRACTION, ONE, UNITS, Detector
from binpoint.plan.program import Port

_WORD, _HALF = IntType(32, signed=True), IntType(16, signed=False)


@dataclass(frozen=True, slots=True)
class DetectorView:
    """The head's numbers, the port that it reads, and its arrays as initialisers.

    Attributes:
        words: 32-bit words of the boxes of an image.
    """

    of: Detector
    port: str
    source: str
    ctype: str
    words: int
    anchors: str
    places: str
    sizes: str
    shares: str

    units: ClassVar[int] = UNITS
    one: ClassVar[int] = ONE
    fraction: ClassVar[int] = FRACTION


def detector_view(detector: Detector | None, outputs: Sequence[Port]) -> DetectorView | None:
    """What templates see of a head, if there is one."""
    if detector is None:
        return None
    port = outputs[detector.index]
    return DetectorView(
        of=detector,
        port=port.name,
        source=port.source,
        ctype=ctype(detector.elem),
        words=detector.value.type.size,
        anchors=c_array(np.array(detector.anchors), _WORD),
        places=c_array(np.array(detector.places), _WORD),
        sizes=c_array(np.array(detector.sizes), _WORD),
        shares=c_array(np.array(detector.shares), _HALF),
    )


def detector_files(prefix: str) -> dict[str, str]:
    """Templates of the head by the path of what they give."""
    return {f"{prefix}_detect.{end}": f"detect.{end}" for end in ("h", "c")}
