"""The named pipelines, each a tuple of passes, and the list of all passes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from binpoint.errors import UnknownPass
from binpoint.frontend.affine import FoldAffine, FoldBias
from binpoint.frontend.channels import RemoveChannels, RemoveTypedChannels
from binpoint.frontend.fold import FoldArgMax, FoldConstants, FoldPad
from binpoint.frontend.functions import FuseFunctions
from binpoint.frontend.layout import SinkTransposes
from binpoint.frontend.masks import FuseMasks
from binpoint.frontend.patterns import RecogniseLayerNorm
from binpoint.frontend.projections import SplitProjections
from binpoint.frontend.quotients import SplitQuotients
from binpoint.frontend.rational import FoldRationals
from binpoint.frontend.types import PropagateTypes
from binpoint.lower.choose_methods import ChooseMethods
from binpoint.lower.keep_states import KeepStates
from binpoint.lower.shift_products import ShiftProducts
from binpoint.lower.simplify import MergeClamps, ProveRequantizers, SimplifyIntegers
from binpoint.lower.slim import SlimIntegers
from binpoint.lower.to_integers import ToIntegers
from binpoint.passes.base import Pass, Stage
from binpoint.passes.cleanup import MergeDuplicates, RemoveDead
from binpoint.passes.manager import Pipeline
from binpoint.passes.spec import parse
from binpoint.plan.mixed import MixedPatches
from binpoint.plan.pack_maps import PackMaps
from binpoint.plan.patches import PatchStage
from binpoint.quantize.accumulators import TypeAccumulators
from binpoint.quantize.assign_types import AssignTypes
from binpoint.quantize.binary_points import BinaryPoints
from binpoint.quantize.bridges import ChooseBridges
from binpoint.quantize.equalize import Equalize
from binpoint.quantize.reparameterize import ReparameterizeNorms
from binpoint.quantize.residual_widths import ResidualWidths
from binpoint.target import McuTarget, Target


def mcu() -> Pipeline:
    """From an imported model to integers."""
    return Pipeline(
        RemoveDead(),
        MergeDuplicates(),
        FoldConstants(),
        RecogniseLayerNorm(),
        SplitQuotients(),
        FuseMasks(),
        PropagateTypes(),
        SinkTransposes(),
        FoldRationals(),
        FoldPad(),
        FoldBias(),
        SplitProjections(),
        PropagateTypes(),
        FoldAffine(),
        FuseFunctions(),
        FoldArgMax(),
        PropagateTypes(),
        RemoveChannels(),
        MergeDuplicates(),
        RemoveDead(),
        ChooseMethods(),
        TypeAccumulators(),
        Equalize(),
        ReparameterizeNorms(),
        ResidualWidths(),
        BinaryPoints(),
        ChooseBridges(),
        AssignTypes(),
        RemoveTypedChannels(),
        ToIntegers(),
        ShiftProducts(),
        MergeClamps(),
        SlimIntegers(),
        SimplifyIntegers(),
        ProveRequantizers(),
        KeepStates(),
        PatchStage(),
        MixedPatches(),
        PackMaps(),
    )


def fpga() -> Pipeline:
    """The same for hardware, which has units of its own for what `slim-integers` rewrites.

    Its streams never hold a whole map, so it needs no patches; and no state outlasts an inference.
    """
    pipeline = mcu()
    for taken in (SlimIntegers, KeepStates, PatchStage, MixedPatches, PackMaps):
        pipeline = pipeline.without(taken.name)
    return pipeline


PASSES: tuple[type[Pass], ...] = tuple(dict.fromkeys(type(p) for p in mcu()))
"""Every pass that comes with binpoint, in the order in which they first run."""

PIPELINES: Mapping[str, Pipeline] = MappingProxyType({"mcu": mcu(), "fpga": fpga()})
"""The named pipelines; a microcontroller's file says which is its own, FPGAs take `fpga`."""


def choose(wanted: str | Pipeline | None, target: Target) -> Pipeline:
    """The pipeline itself, or by name, or as its text states it, or by default the target's.

    Raises:
        UnknownPass: no pass or pipeline has the name.
        BadPassOption: a pass has no such option, or not with this value.
    """
    match wanted:
        case None:
            return PIPELINES[target.pipeline.name if isinstance(target, McuTarget) else "fpga"]
        case Pipeline():
            return _whole(wanted)
        case str():
            return PIPELINES.get(wanted) or _whole(parse(wanted, PASSES))


def _whole(pipeline: Pipeline) -> Pipeline:
    """The pipeline, if it leads from the imported model to integers."""
    ends = (pipeline.passes[0].before, pipeline.passes[-1].after) if pipeline.passes else None
    if ends != (Stage.FLOAT, Stage.INTEGER):
        raise UnknownPass(
            "the pipeline does not lead from the imported model to integers",
            have=str(pipeline),
            want="the first pass at stage float, the last at stage integer",
        )
    return pipeline
