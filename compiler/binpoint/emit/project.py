"""Project: relative path → bytes; written to disk in one step, or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from binpoint.errors import InvariantBroken, OutputError


@dataclass(frozen=True, slots=True)
class Project:
    """Files by relative path; nothing has touched the disk yet."""

    files: Mapping[str, bytes]

    def __post_init__(self) -> None:
        """Refuse absolute paths and those that leave the folder."""
        for path in self.files:
            parts = PurePosixPath(path)
            if parts.is_absolute() or ".." in parts.parts or "\\" in path:
                raise InvariantBroken(f"`{path}` leaves the project's folder")

    def digest(self) -> str:
        """SHA-256 over names and contents."""
        whole = hashlib.sha256()
        for path in sorted(self.files):
            whole.update(path.encode() + b"\0" + len(self.files[path]).to_bytes(8, "little"))
            whole.update(self.files[path])
        return whole.hexdigest()

    def with_files(self, more: Mapping[str, bytes]) -> Project:
        """The project with more files."""
        return Project({**self.files, **more})

    def write(self, folder: Path) -> None:
        """Create `folder` with all files; it must not exist. Written beside it, then moved.

        Raises:
            OutputError: the folder exists or cannot be written; nothing is left behind.
        """
        made: list[Path] = []
        try:
            if os.path.lexists(folder):
                raise OutputError(
                    "the output folder exists already",
                    at=str(folder),
                    hint="choose a new name, or remove it",
                )
            self._write(folder, made)
        except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
            raise OutputError(
                "the output folder cannot be written",
                at=str(folder),
                have=error.strerror if isinstance(error, OSError) else str(error),
            ) from error
        finally:
            for parent in reversed(made):
                with contextlib.suppress(OSError):  # it holds the project, or someone else's files
                    parent.rmdir()

    def _write(self, folder: Path, made: list[Path]) -> None:
        """Write and move; parents that had to be made go on the list."""
        for parent in reversed(folder.absolute().parents):
            if not parent.is_dir():
                parent.mkdir(exist_ok=True)
                made.append(parent)
        scratch = Path(tempfile.mkdtemp(prefix=".binpoint-", dir=folder.absolute().parent))
        try:
            for path in sorted(self.files):
                target = scratch / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(self.files[path])
            scratch.chmod(0o755)
            scratch.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
