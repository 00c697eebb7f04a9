"""CompileOptions: the user's policy for one compilation, read from TOML and ``KEY=VALUE`` words."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, cast

import msgspec

from binpoint import toml
from binpoint.errors import BadOption
from binpoint.ir.names import hides
from binpoint.ops.methods import Method
from binpoint.target import Target

Identifier = Annotated[str, msgspec.Meta(pattern="^[A-Za-z][A-Za-z0-9_]*$", max_length=63)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Bits = Annotated[int, msgspec.Meta(ge=2, le=8)]
Part = Annotated[float, msgspec.Meta(ge=0, le=1)]
Side = Annotated[int, msgspec.Meta(ge=1, le=2047)]
Extent = Annotated[float, msgspec.Meta(gt=0, le=2047)]

_ONLY_FOR: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "mcu": frozenset(
            {
                "optimize",
                "patches",
                "patch_classes",
                "packed_maps",
                "packed_weights",
                "fpu",
                "arena",
                "io",
                "streaming",
                "planner",
                "detections",
            }
        ),
        "fpga": frozenset({"fps", "latency_us", "top", "folding"}),
    }
)
"""Options that mean something for targets of one family only."""


class Fold(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of a layer is computed side by side, on an FPGA.

    Attributes:
        pe: output channels.
        simd: products of one sum.
    """

    pe: Count = 1
    simd: Count = 1


class Detections(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Boxes of a grid of cells, as the networks named YOLO have it, and non-maximum suppression.

    A box has five values: x and y of its centre in its cell, width, height, and how sure it is that
    there is an object; and one value for each class, which may be the same for all boxes of a cell.

    Attributes:
        grid: rows and columns of cells.
        image: rows and columns of pixels that boxes are told in.
        classes: of objects.
        boxes: of a cell.
        output: the model's name of the output; by default its only one.
        order: of the output's axes. ``cells``: row, column, box, value; ``channels``: box, value,
            row, column, as convolutions have it; ``boxes``: box, row, column, value. Neighbouring
            axes may be one, and axes of size one may be missing.
        shared_classes: the boxes of a cell share their classes, whose values follow all boxes'.
        anchors: width and height that a box's size is relative to, in pixels of `image`; by default
            the whole image.
        place: what a value of the centre is in parts of the cell: ``linear`` takes it as it is,
            ``sigmoid``, ``wide-sigmoid`` is 2 sigmoid - 1/2.
        size: what a value of the size is in parts of the anchor: ``linear``, ``square``, ``exp``,
            ``wide-sigmoid`` is (2 sigmoid) squared.
        score: what other values are, from 0 to 1: ``linear``, ``sigmoid``.
        confidence: least product of a box's and its class's score.
        overlap: boxes that share a greater part of what both cover are of one object.
        suppress: of boxes that overlap, the surest of each ``class`` stays, or that of ``all``.
        limit: of boxes in an image; the surest ones.
    """

    grid: tuple[Side, Side]
    image: tuple[Side, Side]
    classes: Count
    boxes: Count
    output: str | None = None
    order: Literal["cells", "channels", "boxes"] = "cells"
    shared_classes: bool = False
    anchors: tuple[tuple[Extent, Extent], ...] = ()
    place: Literal["linear", "sigmoid", "wide-sigmoid"] = "sigmoid"
    size: Literal["linear", "square", "exp", "wide-sigmoid"] = "exp"
    score: Literal["linear", "sigmoid"] = "sigmoid"
    confidence: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.25
    overlap: Part = 0.45
    suppress: Literal["class", "all"] = "class"
    limit: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 32


class CompileOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to compile; the defaults suit most models.

    Attributes:
        name: prefix of every external C symbol; by default derived from the model's file name.
        optimize: ``speed`` inlines kernels per node, ``size`` shares them, ``ram`` is ``speed``
            with layers computed patch by patch where that saves memory.
        patches: ``mixed`` gives layers computed patch by patch maps of fewer bits where the
            samples' patches have no outliers; ``uniform`` keeps what whole maps compute.
        patch_classes: which patches have outliers, where `patches` is ``mixed``: ``static`` as the
            samples have them in the mean, ``dynamic`` as the device counts them in each input.
        packed_maps: maps of codes of six bits or less that share bytes in the arena: ``auto``
            where that lowers the arena and costs little, or memory is what counts; ``always``
            wherever it can be, ``never``.
        packed_weights: weights of less than eight bits that lie packed in flash, and are unpacked
            before their layer is computed: ``auto`` where the plan leaves memory for that, and it
            costs little or `optimize` is ``size``; ``always`` at any price, ``never``.
        observer: how ranges are found in the samples of a float model.
        percentile: part of the values that the ``percentile`` observer keeps, in percent.
        activations: whether activations of a float model may have a zero point.
        scales: any scale, or powers of two only, which rescale by a shift.
        binary_points: where `scales` is ``power-of-two``: the finest that hold the whole ``range``,
            those of least squared error (``mse``), or those moved afterwards, one by one, to where
            the model's outputs are least wrong (``joint``).
        bias_correction: take the mean error of the quantized weights out of the biases.
        softmax_correction: take the mean error of a softmax's quantized shares out of the matrix
            product with them: that of the whole ``tensor``, or of each ``head``, wherever that
            lowers the product's error; ``auto`` that of each head where the outputs gain by it.
        bridges: choose types of values between convolutions and tokens by the outputs' error.
        equalize: even out the ranges of channels first: of neighbouring layers, of layer norms, and
            between convolutions and tokens.
        activation_bits: of activations of a float model.
        residuals: bits of sums that only sums and norms read, as in a transformer's residual
            stream: ``wide`` is 16, ``narrow`` as many as other activations, ``auto`` 16 where the
            outputs over the samples gain by it and the target has room for them.
        weight_bits: of the weights of a float model; scales of less than eight bits are those with
            the least squared error.
        weight_rounding: of the weights of a float model: each to the ``nearest`` code, or so that
            those of a sum make up for each other on samples (``compensated``).
        layer_bits: `weight_bits` of single layers, by the name of their node in the model.
        weight_terms: signed powers of two that a weight of a float model is the sum of, at most; by
            default any number.
        methods: how approximated functions are computed: ``table``, ``shift``, ``shift-released``
            or ``polynomial`` for a function, as in ``methods.gelu=shift``, for a node, for ``all``;
            softmax also by ``log2`` or ``log-sqrt2``.
        semantics: of requantization; ``auto`` is exact for QONNX and clipped codes, follows
            onnxruntime for other quantized models, which ``rational`` reads as exact too.
        fpu: allow float instructions where the target has them.
        arena: memory for intermediate values, in the C file or the caller's.
        io: whether inputs and outputs are the caller's buffers or lie in the arena.
        streaming: recurrent layers go on from the state that the call before left.
        planner: ``auto`` searches further where the greedy memory plan misses the lower bound.
        fps: inferences in a second that an FPGA is to reach; by default as many as fit the part.
        latency_us: microseconds from the first word in to the last word out, in place of `fps`.
        top: of an FPGA design: layers joined by ``stream``s, or all computed at once in
            ``parallel``; ``auto`` takes the second where only it reaches the asked pace.
        folding: of FPGA layers by name; the others are folded to keep the pace.
        multipliers: ``auto`` writes products as such; ``none`` writes those with constants as
            shifts and additions, and layers of an FPGA design that are computed at once as graphs
            of adders.
        detections: also emit a function that makes boxes of the values of an output.
        seed: of everything random.
        check: evaluate the graph before and after each pass that promises to keep its values.
    """

    name: Identifier | None = None
    optimize: Literal["speed", "size", "ram"] = "speed"
    patches: Literal["uniform", "mixed"] = "uniform"
    patch_classes: Literal["static", "dynamic"] = "static"
    packed_maps: Literal["auto", "always", "never"] = "auto"
    packed_weights: Literal["auto", "always", "never"] = "auto"
    observer: Literal["minmax", "percentile", "mse", "entropy"] = "minmax"
    percentile: Annotated[float, msgspec.Meta(gt=0, le=100)] = 99.99
    activations: Literal["asymmetric", "symmetric"] = "asymmetric"
    scales: Literal["free", "power-of-two"] = "free"
    binary_points: Literal["range", "mse", "joint"] = "range"
    bias_correction: bool = True
    softmax_correction: Literal["auto", "none", "tensor", "head"] = "auto"
    bridges: bool = False
    equalize: bool = True
    activation_bits: Bits = 8
    residuals: Literal["auto", "narrow", "wide"] = "auto"
    weight_bits: Bits = 8
    weight_rounding: Literal["nearest", "compensated"] = "nearest"
    layer_bits: dict[str, Bits] = {}
    weight_terms: Annotated[int, msgspec.Meta(ge=1, le=4)] | None = None
    methods: dict[str, Method] = {}
    semantics: Literal["auto", "dyadic", "onnxruntime", "rational"] = "auto"
    fpu: bool = False
    arena: Literal["static", "caller"] = "static"
    io: Literal["caller", "arena"] = "caller"
    streaming: bool = False
    planner: Literal["auto", "greedy"] = "auto"
    fps: Positive | None = None
    latency_us: Positive | None = None
    top: Literal["auto", "stream", "parallel"] = "auto"
    folding: dict[str, Fold] = {}
    multipliers: Literal["auto", "none"] = "auto"
    detections: Detections | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)] = 0
    check: bool = False

    def __post_init__(self) -> None:
        """Refuse a name under which the model's files would hide others."""
        if self.name is not None and hides(self.name.lower()):
            raise BadOption(
                "a model of this name would hide a header or a build target", have=self.name
            )
        if self.fps is not None and self.latency_us is not None:
            raise BadOption("both a throughput and a latency are asked for", hint="give one")
        if self.weight_rounding != "nearest" and self.binary_points != "range":
            raise BadOption(
                "weights are rounded together at the scales of `range` alone",
                have=f"binary_points={self.binary_points}",
                hint="leave out one of `weight_rounding` and `binary_points`",
            )

    def to_toml(self) -> str:
        """Return the TOML text that reads back as these options; an absent name is left out."""
        fields = ((key, getattr(self, key)) for key in self.__struct_fields__)
        return "".join(f"{key} = {_toml(v)}\n" for key, v in fields if v is not None)

    def check_for(self, target: Target) -> None:
        """Refuse what is set but means nothing for the target, or beside other options.

        Raises:
            BadOption: names the option.
        """
        defaults = type(self)()
        for family, keys in _ONLY_FOR.items():
            if family == target.family:
                continue
            for key in sorted(keys):
                if getattr(self, key) != getattr(defaults, key):
                    raise BadOption(
                        f"the option `{key}` means nothing for `{target.name}`",
                        want=f"a target of family {family}: `binpoint list targets`",
                    )
        if self.patch_classes == "dynamic" and self.patches == "uniform":
            raise BadOption(
                "patches are of classes only where they differ in precision",
                have="patch_classes=dynamic",
                hint="add patches=mixed",
            )


_FOLD = Fold.__struct_fields__


def _toml(value: object) -> str:
    """A value as TOML, tables in line."""
    plain: object = msgspec.to_builtins(value)
    if not isinstance(plain, dict):
        return json.dumps(plain)
    pairs = cast("dict[str, object]", plain).items()
    told = (f"{json.dumps(key)} = {_toml(v)}" for key, v in pairs if v is not None)
    return "{" + ", ".join(told) + "}"


def read_options(
    config: Path | None = None, assignments: Sequence[str] = (), folding: Path | None = None
) -> CompileOptions:
    """Return the options of a TOML file, overridden by words of the form ``KEY=VALUE``.

    Args:
        config: a file of options.
        assignments: words.
        folding: a file with the option `folding` alone: a table of `pe` and `simd` for each layer.

    Raises:
        InputNotFound: the file cannot be read.
        BadOption: an option is unknown, assigned twice, or has a wrong value.
    """
    from_file: dict[str, object] = {}
    if config is not None:
        from_file = toml.parse(toml.read_text(config), at=str(config), error=BadOption)
        _ = toml.decode(from_file, CompileOptions, at=str(config), error=BadOption)
    assigned: dict[str, object] = {}
    for word in assignments:
        key, value = _assignment(word)
        _ = toml.decode({key: value}, CompileOptions, at=f"--set {word}", error=BadOption)
        assigned[key] = _joined(key, assigned.get(key), value, word)
    if folding is not None:
        table = toml.parse(toml.read_text(folding), at=str(folding), error=BadOption)
        assigned["folding"] = table
        _ = toml.decode(assigned, CompileOptions, at=str(folding), error=BadOption, keys=_FOLD)
    whole = {**from_file, **assigned}
    return toml.decode(whole, CompileOptions, at="the options together", error=BadOption)


def _joined(key: str, before: object, value: object, word: str) -> object:
    """A table of what words assign to its keys; of anything else there is one word."""
    if before is None:
        return value
    held, new = (cast("dict[str, object]", v) for v in (before, value))
    twice = not (isinstance(before, dict) and isinstance(value, dict)) or held.keys() & new
    if twice:
        raise BadOption(f"the option `{key}` is set twice", at=f"--set {word}")
    return held | new


def _assignment(word: str) -> tuple[str, object]:
    """Split ``KEY=VALUE``; the value is read as TOML, or as bare text where it is none.

    ``KEY.INNER=VALUE`` sets one key of a table; of several points the first one separates.
    """
    key, equals, text = word.partition("=")
    if not equals:
        raise BadOption("an option is set by KEY=VALUE", at=f"--set {word}", have=word)
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    outer, point, inner = key.strip().partition(".")
    return outer, {inner: value} if point else value
