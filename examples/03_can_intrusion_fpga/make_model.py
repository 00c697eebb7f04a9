"""Record synthetic CAN traffic, train a network of two bits on it, and write it as QONNX.

    python -m examples.03_can_intrusion_fpga.make_model FOLDER

writes ``can.onnx``, ``can.npz`` (bits and classes of held-out frames, for ``--samples``) and
``can_frames.npz`` (the same frames as they were on the bus).

The car, that is its identifiers, periods and payloads, is always the same; what it says and when,
and where attacks strike, depends on the seed of a recording.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from examples.quantized_training import Floats, Grid, Labels, Layer, Network, by_class

CLASSES = ("normal", "DoS", "fuzzing", "spoofing")
NORMAL, DOS, FUZZING, SPOOFING = range(4)
IDENTIFIER_BITS, LENGTH_BITS, BYTES = 11, 4, 8
FEATURES, BITS = 96, 2
WIDTHS = (FEATURES, 64, 32, len(CLASSES))
CAR_SEED, MESSAGES, SPOOFED = 2024, 26, 3
BIT_SECONDS = 2e-6  # 500 kbit/s
OVERHEAD_BITS = 47
# Seconds; a bit says that at least so much time has passed.
SINCE_ANY = (0.25e-3, 0.35e-3, 0.5e-3, 0.7e-3, 1e-3, 2e-3, 4e-3, 8e-3)
SINCE_SAME = (0.5e-3, 1e-3, 2e-3, 4e-3, 8e-3, 16e-3, 64e-3, 256e-3)
PERIODS = (0.01, 0.02, 0.05, 0.1, 0.2, 1.0)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame on the bus: when, which identifier and payload, and who sent it (a class)."""

    time: float
    identifier: int
    data: bytes
    label: int


@dataclass(frozen=True, slots=True)
class Message:
    """What a control unit sends: every `period` seconds a payload of bytes of some kinds.

    Args:
        kinds: for each byte ``constant``, ``counter``, ``signal``, ``check`` or ``zero``.
        base: values of constants, starts of signals.
    """

    identifier: int
    period: float
    kinds: tuple[str, ...]
    base: bytes


def car() -> tuple[Message, ...]:
    """The messages of the one car there is; short periods have high priority."""
    rng = np.random.default_rng(CAR_SEED)
    identifiers = sorted(int(i) for i in rng.choice(np.arange(0x40, 0x7F0), MESSAGES, False))
    found: list[Message] = []
    for index, identifier in enumerate(identifiers):
        length = int(rng.choice([8, 8, 8, 6, 4, 2]))
        kinds = ["signal"] + [
            str(k) for k in rng.choice(["signal", "constant", "zero"], length - 1)
        ]
        if length == BYTES:
            kinds[-2:] = ["counter", "check"]
        base = bytes(int(b) for b in rng.integers(0, 160, length))
        found.append(Message(identifier, PERIODS[index * 6 // MESSAGES], tuple(kinds), base))
    return tuple(found)


def record(seed: int, seconds: float) -> list[Frame]:
    """So many seconds on the bus, in four equal parts: no attack, then each kind in bursts."""
    rng = np.random.default_rng(seed)
    frames = [f for message in car() for f in _periodic(rng, message, seconds)]
    for kind, attack in ((DOS, _dos), (FUZZING, _fuzzing), (SPOOFING, _spoofing)):
        time, end = kind * seconds / 4, (kind + 1) * seconds / 4
        while time < end:
            time += rng.uniform(0.05, 0.2)
            burst = min(rng.uniform(0.05, 0.2), end - time)
            frames += attack(rng, time, burst)
            time += max(burst, 0)
    return _serial(sorted(frames, key=lambda f: f.time))


def _periodic(rng: np.random.Generator, message: Message, seconds: float) -> Iterator[Frame]:
    state = list(message.base)
    time, count = rng.uniform(0, message.period), 0
    while time < seconds:
        for index, kind in enumerate(message.kinds):
            if kind == "signal":
                state[index] = int(np.clip(state[index] + rng.integers(-3, 4), 0, 190))
            elif kind == "counter":
                state[index] = count % 16
            elif kind == "zero":
                state[index] = 0
            elif kind == "check":
                state[index] = sum(state[:index]) % 256
        yield Frame(time, message.identifier, bytes(state), NORMAL)
        time, count = time + message.period * rng.uniform(0.97, 1.03), count + 1


def _dos(rng: np.random.Generator, start: float, seconds: float) -> Iterator[Frame]:
    """Frames of a priority that wins every arbitration, as fast as they go."""
    identifier, data = int(rng.integers(0, 4)), bytes(BYTES)
    gap = rng.uniform(0.25e-3, 0.4e-3)
    return (Frame(t, identifier, data, DOS) for t in np.arange(start, start + seconds, gap))


def _fuzzing(rng: np.random.Generator, start: float, seconds: float) -> Iterator[Frame]:
    """Random identifiers and payloads."""
    for time in np.arange(start, start + seconds, rng.uniform(0.4e-3, 1e-3)):
        data = rng.integers(0, 256, rng.integers(1, BYTES + 1)).astype(np.uint8).tobytes()
        yield Frame(float(time), int(rng.integers(0, 1 << IDENTIFIER_BITS)), data, FUZZING)


def _spoofing(rng: np.random.Generator, start: float, seconds: float) -> Iterator[Frame]:
    """The car's own frames, with signals at the end of their scale, oftener than the car's."""
    message = car()[int(rng.integers(0, SPOOFED))]
    forged = bytes(
        int(rng.integers(170, 256)) if k in ("signal", "check") else b
        for k, b in zip(message.kinds, message.base, strict=True)
    )
    for time in np.arange(start, start + seconds, rng.uniform(0.8e-3, 2e-3)):
        yield Frame(float(time), message.identifier, forged, SPOOFING)


def _serial(frames: list[Frame]) -> list[Frame]:
    """One after the other: a frame waits until the bus is free."""
    found: list[Frame] = []
    free = -math.inf
    for frame in frames:
        time = max(frame.time, free)
        free = time + (OVERHEAD_BITS + 8 * len(frame.data)) * BIT_SECONDS
        found.append(Frame(time, frame.identifier, frame.data, frame.label))
    return found


def bits(frames: list[Frame]) -> NDArray[np.uint8]:
    """Features [N, 96]: identifier, length, payload, time since the last frame and its like.

    The last bit says that the identifier was not seen before.
    """
    rows = np.zeros((len(frames), FEATURES), np.uint8)
    last, seen = -math.inf, dict[int, float]()
    for row, frame in zip(rows, frames, strict=True):
        same = frame.time - seen.get(frame.identifier, -math.inf)
        payload = np.frombuffer(frame.data.ljust(BYTES, b"\0"), np.uint8)
        row[:] = [
            *_binary(frame.identifier, IDENTIFIER_BITS),
            *_binary(len(frame.data), LENGTH_BITS),
            *np.unpackbits(payload),
            *(frame.time - last >= least for least in SINCE_ANY),
            *(same >= least for least in SINCE_SAME),
            frame.identifier not in seen,
        ]
        last = seen[frame.identifier] = frame.time
    return rows


def _binary(number: int, width: int) -> list[int]:
    return [number >> index & 1 for index in reversed(range(width))]


def recordings(*, quick: bool) -> tuple[list[Frame], list[Frame]]:
    """What is learned from, and what is held out."""
    seconds = 8.0 if quick else 40.0
    return record(1, seconds), record(2, seconds / 4)


def rows(frames: list[Frame]) -> tuple[Floats, Labels]:
    """Features [N, 96] as numbers, and classes."""
    return bits(frames).astype(np.float32), np.array([f.label for f in frames])


def split(*, quick: bool = False) -> tuple[Floats, Labels, Floats, Labels]:
    """Features and classes of frames that are learned from, then of those held out."""
    recorded, held_out = recordings(quick=quick)
    return *rows(recorded), *rows(held_out)


def save_frames(path: Path, frames: list[Frame]) -> None:
    """The frames as arrays: time in seconds, identifier, length, data (8 bytes), label."""
    data = [np.frombuffer(f.data.ljust(BYTES, b"\0"), np.uint8) for f in frames]
    np.savez_compressed(
        path,
        time=np.array([f.time for f in frames]),
        identifier=np.array([f.identifier for f in frames], np.uint16),
        length=np.array([len(f.data) for f in frames], np.uint8),
        data=np.stack(data),
        label=np.array([f.label for f in frames], np.int64),
    )


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--quick", is_flag=True, help="Less training, less accurate.")
def main(folder: Path, quick: bool) -> None:
    """Write the model and its held-out frames into FOLDER."""
    recorded, held_out = recordings(quick=quick)
    rng = np.random.default_rng(3)
    last = len(WIDTHS) - 2
    layers = [
        Layer(rng, inputs, outputs, (BITS, BITS if index < last else None))
        for index, (inputs, outputs) in enumerate(itertools.pairwise(WIDTHS))
    ]
    network = Network("can", (FEATURES,), Grid(1, np.float32(1)), layers)
    network.train(rng, *rows(recorded), 4 if quick else 20)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "can.onnx").write_bytes(network.to_qonnx().SerializeToString())
    x, y = rows(held_out)
    np.savez_compressed(folder / "can.npz", x=x.astype(np.uint8), y=y)
    save_frames(folder / "can_frames.npz", held_out)
    by_class(CLASSES, y, network.classify(x))


if __name__ == "__main__":
    main()
