"""Sample inputs from .npz, .npy, a folder, Python objects, or noise, checked against the model."""

from __future__ import annotations

import logging
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from binpoint.errors import InputNotFound, InvalidSamples
from binpoint.ir.graph import Graph, Value
from binpoint.ir.op import FloatOp
from binpoint.ops.onehot import OneHot
from binpoint.passes.samples import Samples

Array = NDArray[Any]
Source = Path | str | Mapping[str, Array] | Iterable[Array | Mapping[str, Array]]

RANDOM = "random"
_RANDOM_COUNT = 64
_SUFFIXES = (".npy", ".npz")
_UNREADABLE = (
    ValueError,
    EOFError,
    KeyError,
    zipfile.BadZipFile,
    zlib.error,
    MemoryError,
    NotImplementedError,
)

_log = logging.getLogger(__name__)


def read_samples(source: Source | None, graph: Graph, seed: int = 0) -> Samples | None:
    """Return the samples of `source`, or None where there is none.

    Args:
        source: a `.npz` (an array per input under its own name, `x_<input>`, or `x` for an only
            input; `y` labels; `expected`, `expected_1`, … outputs), a `.npy` of an only input, a
            folder of both read in order of names, a mapping like a `.npz`, an iterable of arrays or
            mappings, or the word ``random``. The leading axis counts samples; in folders and
            iterables an item may also be one sample.
        graph: the imported model. An input that it takes as stored integers wants integers of
            exactly that type, any other real numbers that float32 holds exactly.
        seed: of the noise.

    Raises:
        InputNotFound: the file or folder is not there.
        InvalidSamples: the file cannot be read, or what it holds does not fit the model's inputs.
    """
    if source is None:
        return None
    if isinstance(source, str) and source == RANDOM:
        return _noise(graph, seed)
    if isinstance(source, str | Path):
        path = Path(source)
        return _read_folder(path, graph) if path.is_dir() else _read_file(path, graph, single=False)
    if isinstance(source, Mapping | np.ndarray):
        whole = cast("Array | Mapping[str, Array]", source)
        return _take(whole, graph, "samples", single=False)
    items = enumerate(source)
    return _joined([_take(x, graph, f"sample {i}", single=True) for i, x in items], "samples")


def _noise(graph: Graph, seed: int) -> Samples:
    """Normal noise for real inputs, uniform codes or places of tables for others."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    for name in graph.inputs:
        shape = (_RANDOM_COUNT, *sample_shape(graph.value(name)))
        storage = graph.coded.get(name)
        count = _places(graph, name)
        if count is not None:
            arrays[name] = rng.integers(0, count, shape).astype(np.float32)
        elif storage is None:
            arrays[name] = rng.normal(size=shape).astype(np.float32)
        else:
            arrays[name] = rng.integers(storage.min, storage.max + 1, shape).astype(storage.dtype)
    return Samples(arrays, random=True, source=RANDOM)


def _places(graph: Graph, name: str) -> int | None:
    """In how many places a value may tell one, if a table of places reads it."""
    counts: list[int] = []
    for reader in graph.consumers(name):
        if isinstance(reader.op, OneHot):
            counts.append(reader.op.count)
        elif isinstance(reader.op, FloatOp) and reader.op.keeps_type:
            counts += (n for n in map(partial(_places, graph), reader.outputs) if n is not None)
    return min(counts, default=None)


# ---- files


def _read_folder(folder: Path, graph: Graph) -> Samples:
    files = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
    if not files:
        raise InvalidSamples(
            "the folder holds no samples", at=str(folder), want="files .npy or .npz"
        )
    return _joined([_read_file(path, graph, single=True) for path in files], str(folder))


def _read_file(path: Path, graph: Graph, *, single: bool) -> Samples:
    if not path.is_file():
        raise InputNotFound(
            "the samples cannot be read",
            at=str(path),
            hint=f"a file, a folder, or the word `{RANDOM}`",
        )
    if path.suffix not in _SUFFIXES:
        raise InvalidSamples(
            "not a file of samples", at=str(path), want="a .npz or .npy file, or a folder of them"
        )
    try:
        content = _load(path)
    except OSError as error:
        raise InputNotFound(
            "the samples cannot be read", at=str(path), have=error.strerror or str(error)
        ) from error
    except _UNREADABLE as error:
        raise InvalidSamples(
            "the file of samples cannot be read",
            at=str(path),
            have=str(error) or type(error).__name__,
            want="numeric arrays saved by numpy",
        ) from error
    return _take(content, graph, str(path), single=single)


def _load(path: Path) -> Array | dict[str, Array]:
    with path.open("rb") as file:
        loaded: Any = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return cast("Array", loaded)
        return {key: loaded[key] for key in loaded.files}


# ---- from names to inputs


def _take(content: Array | Mapping[str, Array], graph: Graph, at: str, *, single: bool) -> Samples:
    """Samples from one array or one mapping of arrays."""
    named = dict(content) if isinstance(content, Mapping) else {"x": content}
    found = {name: _find(named, graph, name, at) for name in graph.inputs}
    keys = set(found.values())
    arrays = {
        name: _checked(np.asarray(named[key]), graph, name, f"{at}: `{key}`", single=single)
        for name, key in found.items()
    }
    counts = {len(array) for array in arrays.values()}
    if len(counts) > 1:
        raise InvalidSamples(
            "the inputs have different numbers of samples",
            at=at,
            have=", ".join(f"{found[n]}: {len(a)}" for n, a in arrays.items()),
        )
    lone = any(np.shape(named[k]) == sample_shape(graph.value(n)) for n, k in found.items())
    others = {key: np.asarray(array) for key, array in named.items() if key not in keys}
    rest = {key: array[None] for key, array in others.items()} if lone else others
    labels = rest.pop("y", None)
    expected = _expected(rest, graph, at)
    count = counts.pop() if counts else 0
    lengths = {"y": labels} if labels is not None else {}
    lengths.update({f"expected ({name})": array for name, array in expected.items()})
    for key, array in lengths.items():
        _check_answers(array, count, f"{at}: `{key}`")
    return Samples(arrays, labels, expected, source=Path(at).name)


def _names(value: Value, only: bool) -> tuple[str, ...]:
    """Under which names an input may be stored."""
    own = tuple(dict.fromkeys((value.source, value.name)))
    return (*own, *(f"x_{name}" for name in own), *(("x",) if only else ()))


def _find(named: Mapping[str, Array], graph: Graph, name: str, at: str) -> str:
    value = graph.value(name)
    names = tuple(dict.fromkeys(_names(value, len(graph.inputs) == 1)))
    present = [key for key in names if key in named]
    if len(present) == 1:
        return present[0]
    raise InvalidSamples(
        f"the input `{value.source or name}` is {'there twice' if present else 'missing'}",
        at=at,
        have=", ".join(sorted(named)) or "nothing",
        want=" or ".join(names),
    )


def _expected(rest: Mapping[str, Array], graph: Graph, at: str) -> dict[str, Array]:
    """Outputs to compare with, by the model's own names of them."""
    outputs = graph.output_names
    keys = {f"expected_{index or ''}".rstrip("_"): name for index, name in enumerate(outputs)}
    keys.update({f"expected_{name}": name for name in outputs})
    unknown = sorted(key for key in rest if not key.startswith("expected"))
    if unknown:
        own = ", ".join(graph.value(name).source or name for name in graph.inputs)
        raise InvalidSamples(
            f"the model has no input `{unknown[0]}`", at=at, want=f"the inputs ({own}), y, expected"
        )
    for key in sorted(rest.keys() - keys.keys()):
        _log.info("%s: `%s` is no output of the model and not used", at, key)
    return {keys[key]: array for key, array in sorted(rest.items()) if key in keys}


def _check_answers(array: Array, count: int, at: str) -> None:
    if array.dtype.kind not in "biuf":
        raise InvalidSamples("not numbers", at=at, have=str(array.dtype))
    if array.ndim == 0 or len(array) != count:
        raise InvalidSamples(
            "one entry a sample is wanted",
            at=at,
            have=f"shape {list(array.shape)}",
            want=f"{count} entries",
        )
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise InvalidSamples("NaN among the answers", at=at)


# ---- arrays


def sample_shape(value: Value) -> tuple[int, ...]:
    """Shape of one sample: the input's, without a batch axis of one."""
    return value.shape[1:] if value.shape[:1] == (1,) else value.shape


def _checked(array: Array, graph: Graph, name: str, at: str, *, single: bool) -> Array:
    """The array as float32, or as codes, with the sample axis in front."""
    value, storage = graph.value(name), graph.coded.get(name)
    array = _shaped(array, value, at, single=single)
    if not len(array):
        raise InvalidSamples("there are no samples", at=at)
    if storage is None:
        return _reals(array, at)
    if array.dtype != storage.dtype:
        raise InvalidSamples(
            "the input takes stored integers", at=at, have=str(array.dtype), want=str(storage.dtype)
        )
    return array


def _reals(array: Array, at: str) -> NDArray[np.float32]:
    if array.dtype.kind not in "biuf":
        raise InvalidSamples(
            "the input takes real numbers", at=at, have=str(array.dtype), want="float32"
        )
    if not np.isfinite(array).all():
        raise InvalidSamples("NaN or infinity among the samples", at=at)
    with np.errstate(over="ignore"):
        real = array.astype(np.float32)
    if np.can_cast(array.dtype, np.float32, "safe"):
        return real
    if not np.array_equal(real.astype(np.longdouble), array.astype(np.longdouble)):
        raise InvalidSamples(
            "the samples do not fit float32 exactly",
            at=at,
            have=str(array.dtype),
            want="float32",
            hint="round them: x.astype(numpy.float32)",
        )
    return real


def _shaped(array: Array, value: Value, at: str, *, single: bool) -> Array:
    shape, sample = value.shape, sample_shape(value)
    if array.shape[1:] == sample and array.ndim == len(sample) + 1:
        return array
    if array.shape[1:] == shape and array.ndim == len(shape) + 1:
        return array.reshape(-1, *sample) if array.size else array[:, 0]
    if single and array.shape == sample:
        return array[None]
    want = f"[samples, {', '.join(map(str, sample))}]" if sample else "[samples]"
    raise InvalidSamples(
        f"the shape does not fit the input `{value.source or value.name}`",
        at=at,
        have=str(list(array.shape)),
        want=want,
        hint=_layout(array.shape, sample),
    )


def _layout(have: Sequence[int], sample: tuple[int, ...]) -> str | None:
    """What to do where only the channel axis stands elsewhere."""
    found = tuple(have[-len(sample) :])
    if len(sample) < 2 or found == sample:
        return None
    if found == (*sample[1:], sample[0]):
        return "the model takes channels first, the samples last: numpy.moveaxis(x, -1, 1)"
    if found == (sample[-1], *sample[:-1]):
        return "the model takes channels last, the samples first: numpy.moveaxis(x, 1, -1)"
    return None


# ---- joining


def _joined(parts: Sequence[Samples], at: str) -> Samples:
    if not parts:
        raise InvalidSamples("there are no samples", at=at)
    with_labels = [part for part in parts if part.labels is not None]
    names = {tuple(sorted(part.expected)) for part in parts}
    if len(with_labels) not in (0, len(parts)) or len(names) > 1:
        raise InvalidSamples("some parts have labels or expected outputs, others none", at=at)
    first = parts[0]
    arrays = {n: np.concatenate([part.arrays[n] for part in parts]) for n in first.arrays}
    expected = {n: _concatenated([part.expected[n] for part in parts], at) for n in first.expected}
    given = [part.labels for part in parts if part.labels is not None]
    labels = _concatenated(given, at) if given else None
    return Samples(arrays, labels, expected, source=Path(at).name)


def _concatenated(arrays: Sequence[Array], at: str) -> Array:
    if len({array.shape[1:] for array in arrays}) > 1:
        raise InvalidSamples("labels or expected outputs differ in shape", at=at)
    return np.concatenate(arrays)
