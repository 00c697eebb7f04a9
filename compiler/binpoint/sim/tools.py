"""Finding and running the programs that build and check."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from binpoint.errors import ToolFailed, ToolNotFound

HOST_COMPILERS = ("cc", "gcc", "clang")


def find(names: Sequence[str], *, package: str) -> str:
    """The first of these programs on PATH.

    Raises:
        ToolNotFound: none is there; names the package that has it.
    """
    for name in names:
        found = shutil.which(name)
        if found is not None:
            return found
    raise ToolNotFound(
        f"`{names[0]}` is not on PATH", hint=f"install it: apt-get install {package}"
    )


def run_tool(command: Sequence[str | Path], *, timeout: float, cwd: Path | None = None) -> str:
    """Standard output of a program that ends well.

    Raises:
        ToolFailed: it did not end well or in time.
    """
    words = [str(c) for c in command]
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            cwd=cwd,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ToolFailed(f"`{Path(words[0]).name}` did not end within {timeout:g} s") from error
    if done.returncode:
        raise ToolFailed(
            f"`{Path(words[0]).name}` failed with status {done.returncode}",
            have=(done.stderr or done.stdout)[-2000:],
        )
    return done.stdout
