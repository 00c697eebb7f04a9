"""What the target's memories hold, against what they have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from binpoint.errors import DoesNotFit
from binpoint.target import Content, McuTarget


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes used of a memory, and how many there are; `unknown` contents are not in `used`."""

    memory: str
    used: int
    available: int
    unknown: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether there are as many."""
        return self.used <= self.available


def usages(target: McuTarget, sizes: Mapping[Content, int | None]) -> tuple[Usage, ...]:
    """One row per memory of the target; sizes in bytes, None where not measured."""
    rows: list[Usage] = []
    for name, memory in target.memory.items():
        known = [size for c in memory.holds if (size := sizes.get(c)) is not None]
        unknown = tuple(c for c in memory.holds if sizes.get(c) is None)
        rows.append(Usage(name, sum(known), memory.bytes - memory.reserve, unknown))
    return tuple(rows)


def check(target: McuTarget, rows: Sequence[Usage], smaller: str | None = None) -> None:
    """Refuse a program that is larger than a memory.

    Args:
        target: that has the memories.
        rows: use of each.
        smaller: what would take less of them, for the hint.

    Raises:
        DoesNotFit: names the memory, what is needed and what is there.
    """
    other = "a smaller model, or a target with more memory: `binpoint list targets`"
    for row in rows:
        if row.fits:
            continue
        without = f", without {', '.join(row.unknown)}" if row.unknown else ""
        raise DoesNotFit(
            f"the program needs more {row.memory} than `{target.name}` has",
            have=f"{row.available} bytes",
            want=f"{row.used} bytes{without}",
            hint=f"{smaller}, {other}" if smaller else other,
        )
