"""The form of the report: fixed keys, null where nothing was measured.

`docs/reference/report-schema.json` is the JSON schema of `Report`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from binpoint.report.detections import Detecting
from binpoint.report.maps import PackedMaps
from binpoint.report.part import Part
from binpoint.report.patches import CurvePoint, Patches

SCHEMA = 1
Answer = Literal["equal", "different", "not run"]


class Model(Part, frozen=True):
    """The model: its file's stem, and the SHA-256 of its file."""

    name: str
    sha256: str


class SampleUse(Part, frozen=True):
    """Where samples came from and how many served for what.

    Attributes:
        shared: the same samples served calibration and scoring.
        random: they are noise.
    """

    source: str | None
    calibration: int
    scored: int
    verified: int
    shared: bool
    random: bool


class Accuracy(Part, frozen=True):
    """Of the float model, of the integers, and of the user's file in onnxruntime, by one metric.

    Attributes:
        metric: `top-1`, `element`, `auc`, or `mse` (mean squared error of reconstruction).
    """

    metric: str | None
    floating: float | None = msgspec.field(name="float")
    integer: float | None
    onnxruntime: float | None
    samples: int


class WitnessRow(Part, frozen=True):
    """One witness: on how many samples, and why not, or what differs."""

    name: str
    verdict: Answer
    samples: int
    reason: str | None


class Requantizers(Part, frozen=True):
    """Channels by the form of their requantizer."""

    mulshift: int = 0
    even: int = 0
    thresholds: int = 0
    exact: int = 0
    fpu: int = 0


class Layer(Part, frozen=True):
    """One call of a kernel.

    Attributes:
        bytes: constants that it reads.
        requantizer: the form of its requantizer, if it has one, and whether it is proved equal.
        snr_db: signal to noise of the result against the float model; null as well where there is
            no noise.
        instructions: of one inference, on the emulated core, up to where the result is complete;
            null where it was not emulated.
        modelled_cycles: what the target's price list makes of the instructions; a model's figure,
            null where the target has no price list.
        kernel: of a C project: the kernel that was chosen, as `price.kernels` of targets names it.
        planned_cycles: what the target's prices of kernels made of it, which is why it was chosen.
    """

    name: str
    origin: tuple[str, ...]
    op: str
    shape: tuple[int, ...]
    type: str
    macs: int
    bytes: int
    requantizer: str | None
    proved: bool | None
    snr_db: float | None
    instructions: int | None = None
    modelled_cycles: int | None = None
    kernel: str | None = None
    planned_cycles: int | None = None


class DepartureRow(Part, frozen=True):
    """A value whose codes may differ from those of onnxruntime's run of the model's own file.

    Attributes:
        value: empty where all of them may.
        origin: ONNX nodes that it came from.
    """

    value: str
    origin: tuple[str, ...]
    reason: str


class MemoryUse(Part, frozen=True):
    """A memory of the target: bytes used, bytes there, and what is not counted as unmeasured."""

    memory: str
    used_bytes: int
    available_bytes: int
    unmeasured: tuple[str, ...]


class Unit(Part, frozen=True):
    """A loop of an FPGA design: a layer, or what moves its words.

    Attributes:
        pe, simd: results, and products of a sum, that are computed side by side.
        cycles: iterations of one inference; its loop starts one a cycle.
        interval: cycles between inferences, of this unit alone.
        latency: cycles from a word to the result that it completes.
        lut, ff, dsp, bram18: estimated, without streams.
    """

    name: str
    kind: str
    pe: int
    simd: int
    cycles: int
    interval: int
    latency: int
    lut: int
    ff: int
    dsp: int
    bram18: int


class Fifo(Part, frozen=True):
    """A stream between two units: bits of a word, and words that it holds."""

    name: str
    bits: int
    depth: int


class ResourceUse(Part, frozen=True):
    """A resource of the part: estimated use, and how much there is."""

    resource: str
    used: int
    available: int


class Fpga(Part, frozen=True):
    """What is known of an FPGA design. No figure is a vendor's.

    Attributes:
        top: `stream` or `parallel`.
        interval_cycles: between inferences, as the streams' depths sustain it.
        latency_cycles: from the first word in to the last word out.
        notice: how far it gets and why, where the asked pace is not reached.
        resources: of the part, as estimated; see the reference on estimates for their error.
    """

    top: str
    part: str
    clock_mhz: float
    interval_cycles: int
    latency_cycles: int
    inferences_per_second: float
    latency_us: float
    notice: str | None
    resources: tuple[ResourceUse, ...]
    units: tuple[Unit, ...]
    fifos: tuple[Fifo, ...]


class Report(Part, frozen=True):
    """Everything that is known of a compilation; sizes in bytes.

    Attributes:
        fpga: of an FPGA design, which has no code, arena and instructions; else null.
        arena_lower_bound_bytes: no order and placement of the program's values needs less.
        macs_removed: multiply-accumulates of the model that nothing needs, and that are not done.
        instructions: of one inference, the median of the emulated runs.
        modelled_cycles: what the target's price list makes of that run, with memory that never
            waits; a model's figure, null where the target has no price list.
        unmeasured: why code, stack and instructions are null, where they are.
        float_linked: floating-point routines and instructions in the emulated image.
        patches: of layers computed patch by patch, if there are any.
        packed_maps: of maps of narrow codes that share bytes in the arena, if there are any.
        patch_curve: memory against extra work, where `analyze` asks for it.
        detections: of the head that makes boxes, if there is one.
        departures: for a model that came quantized, where its bytes are not all onnxruntime's.
        passes: figures of passes about their own work, by pass: of `binary-points` the types, how
            many its joint search moved, and the relative squared error of the outputs before and
            after it.
        changed_files: files of a folder that no longer are as they were written.
    """

    schema: int
    model: Model
    target: str
    code_bytes: int | None
    constant_bytes: int | None
    flash_bytes: int | None
    arena_bytes: int | None
    arena_lower_bound_bytes: int | None
    stack_bytes: int | None
    macs: int
    macs_removed: int
    instructions: int | None
    instructions_min: int | None
    instructions_max: int | None
    modelled_cycles: int | None
    unmeasured: str | None
    compiler: str | None
    float_linked: tuple[str, ...] | None
    heap_linked: tuple[str, ...] | None
    samples: SampleUse
    accuracy: Accuracy
    verdict: Answer
    witnesses: tuple[WitnessRow, ...]
    departures: tuple[DepartureRow, ...]
    requantizers: Requantizers
    budget: tuple[MemoryUse, ...]
    layers: tuple[Layer, ...]
    fpga: Fpga | None = None
    patches: Patches | None = None
    packed_maps: PackedMaps | None = None
    patch_curve: tuple[CurvePoint, ...] = ()
    detections: Detecting | None = None
    passes: Mapping[str, Mapping[str, float]] = msgspec.field(
        default_factory=dict[str, Mapping[str, float]]
    )
    changed_files: tuple[str, ...] = ()
