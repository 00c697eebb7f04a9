"""Tries random models for a long time: python -m tests.end_to_end.soak --graphs N [--target T]."""

from __future__ import annotations

import argparse
import signal
import sys
import traceback
from random import Random
from types import FrameType
from typing import NoReturn

from binpoint.target import McuTarget, load_target, microcontroller
from tests.end_to_end.trials import Tally, attempt, compare
from tests.end_to_end.witnesses import Trial

_BATCH = 10
_SECONDS = 60


def soak(graphs: int, seed: int, device: McuTarget | None = None) -> Tally:
    """Try models number `seed` to `seed + graphs - 1`; each number always makes the same model."""
    tally = Tally()
    signal.signal(signal.SIGALRM, _too_slow)
    for start in range(seed, seed + graphs, _BATCH):
        batch = range(start, min(start + _BATCH, seed + graphs))
        trials = [t for number in batch if (t := _attempt(number, tally, device)) is not None]
        _compare(trials, tally, device)
        sys.stderr.write(f"{batch.stop - seed} of {graphs}: {tally.equal} equal\n")
    return tally


def _attempt(number: int, tally: Tally, device: McuTarget | None) -> Trial | None:
    signal.alarm(_SECONDS)
    try:
        return attempt(Random(number), f"g{number}", tally, device)
    except Exception:
        tally.failures.append(f"g{number}: {_told()}")
        return None
    finally:
        signal.alarm(0)


def _compare(trials: list[Trial], tally: Tally, device: McuTarget | None) -> None:
    """All at once; if that fails, one by one to find which."""
    try:
        compare(trials, tally, device)
    except Exception:
        if len(trials) == 1:
            tally.failures.append(f"{trials[0].program.name}: {_told()}")
            return
        for trial in trials:
            _compare([trial], tally, device)


def _told() -> str:
    return traceback.format_exc(limit=-3, chain=False)


def _too_slow(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise TimeoutError(f"no result within {_SECONDS} s")


def main() -> int:
    """Print what became of the models; status 1 if any witness differs or anything broke."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graphs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", help="compile for this one, and run on its emulated core")
    given = parser.parse_args()
    device = microcontroller(load_target(given.target)) if given.target else None
    tally = soak(given.graphs, given.seed, device)
    sys.stdout.write(f"{tally}\n")
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
