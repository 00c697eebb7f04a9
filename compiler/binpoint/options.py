"""CompileOptions: the user's policy for one compilation, read from TOML and ``KEY=VALUE`` words."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from binpoint import toml
from binpoint.errors import BadOption
from binpoint.ir.names import hides

Identifier = Annotated[str, msgspec.Meta(pattern="^[A-Za-z][A-Za-z0-9_]*$", max_length=63)]


class CompileOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to compile; the defaults suit most models.

    Attributes:
        name: prefix of every external C symbol; by default derived from the model's file name.
        optimize: ``speed`` inlines kernels per node, ``size`` shares them.
        observer: how ranges are found in the samples of a float model.
        percentile: part of the values that the ``percentile`` observer keeps, in percent.
        activations: whether activations of a float model may have a zero point.
        scales: any scale, or powers of two only, which rescale by a shift.
        bias_correction: take the mean error of the quantized weights out of the biases.
        equalize: even out the ranges of neighbouring layers' channels first.
        semantics: of requantization; ``auto`` is exact for QONNX, follows onnxruntime for other
            quantized models.
        fpu: allow float instructions where the target has them.
        arena: memory for intermediate values, in the C file or the caller's.
        io: whether inputs and outputs are the caller's buffers or lie in the arena.
        input_layout: of image inputs and outputs at the C interface.
        planner: ``auto`` searches further where the greedy memory plan misses the lower bound.
        seed: of everything random.
        check: evaluate the graph before and after each pass that promises to keep its values.
    """

    name: Identifier | None = None
    optimize: Literal["speed", "size"] = "speed"
    observer: Literal["minmax", "percentile", "mse", "entropy"] = "minmax"
    percentile: Annotated[float, msgspec.Meta(gt=0, le=100)] = 99.99
    activations: Literal["asymmetric", "symmetric"] = "asymmetric"
    scales: Literal["free", "power-of-two"] = "free"
    bias_correction: bool = True
    equalize: bool = True
    semantics: Literal["auto", "dyadic", "onnxruntime", "rational"] = "auto"
    fpu: bool = False
    arena: Literal["static", "caller"] = "static"
    io: Literal["caller", "arena"] = "caller"
    input_layout: Literal["model", "channels-last"] = "model"
    planner: Literal["auto", "greedy"] = "auto"
    seed: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)] = 0
    check: bool = False

    def __post_init__(self) -> None:
        """Refuse a name under which the model's files would hide others."""
        if self.name is not None and hides(self.name.lower()):
            raise BadOption(
                "a model of this name would hide a header or a build target", have=self.name
            )

    def to_toml(self) -> str:
        """Return the TOML text that reads back as these options; an absent name is left out."""
        fields = ((key, getattr(self, key)) for key in self.__struct_fields__)
        return "".join(f"{key} = {json.dumps(v)}\n" for key, v in fields if v is not None)


def read_options(config: Path | None = None, assignments: Sequence[str] = ()) -> CompileOptions:
    """Return the options of a TOML file, overridden by words of the form ``KEY=VALUE``.

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
        if key in assigned:
            raise BadOption(f"the option `{key}` is set twice", at=f"--set {word}")
        assigned[key] = value
        _ = toml.decode({key: value}, CompileOptions, at=f"--set {word}", error=BadOption)
    return msgspec.convert({**from_file, **assigned}, type=CompileOptions)


def _assignment(word: str) -> tuple[str, object]:
    """Split ``KEY=VALUE``; the value is read as TOML, or as bare text where it is none."""
    key, equals, text = word.partition("=")
    if not equals:
        raise BadOption("an option is set by KEY=VALUE", at=f"--set {word}", have=word)
    try:
        return key.strip(), tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), text
