"""The named pipelines, each a tuple of passes, and the list of all passes."""

from __future__ import annotations

from binpoint.frontend.affine import FoldAffine, FoldBias
from binpoint.frontend.fold import FoldConstants, FoldPad
from binpoint.frontend.functions import FuseFunctions
from binpoint.frontend.layout import SinkTransposes
from binpoint.frontend.types import PropagateTypes
from binpoint.lower.simplify import MergeClamps, ProveRequantizers, SimplifyIntegers
from binpoint.lower.to_integers import ToIntegers
from binpoint.passes.cleanup import MergeDuplicates, RemoveDead
from binpoint.passes.manager import Pipeline
from binpoint.quantize.assign_types import AssignTypes
from binpoint.quantize.equalize import Equalize


def mcu() -> Pipeline:
    """From an imported model to integers."""
    return Pipeline(
        RemoveDead(),
        MergeDuplicates(),
        FoldConstants(),
        FuseFunctions(),
        SinkTransposes(),
        FoldBias(),
        FoldAffine(),
        FoldPad(),
        PropagateTypes(),
        RemoveDead(),
        Equalize(),
        AssignTypes(),
        ToIntegers(),
        MergeClamps(),
        SimplifyIntegers(),
        ProveRequantizers(),
    )
