"""What a run of the command line gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Done:
    """Exit status, and what was printed."""

    status: int
    out: str
    err: str


Run = Callable[..., Done]
