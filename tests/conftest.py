"""Fixtures: tools, shared models, golden files, and the settings of hypothesis."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode
from syrupy.location import PyTestLocation

from binpoint import cli
from tests.command import Done, Run

ROOT = Path(__file__).resolve().parent.parent

settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile(
    "ci",
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


# Trains and exports networks; its packages are the extra `training`, which needs torch by hand.
collect_ignore = [] if find_spec("brevitas") is not None else ["frontend/test_brevitas.py"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-tools",
        action="store_true",
        help="fail, rather than skip, a test whose tools are missing",
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    wanted: list[str] = [tool for mark in item.iter_markers("needs") for tool in mark.args]
    missing = [tool for tool in wanted if shutil.which(tool) is None]
    if not missing:
        return
    reason = f"not found on PATH: {', '.join(missing)}"
    if item.config.getoption("--require-tools"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _shared() -> Path:
    given = os.environ.get("BINPOINT_SHARED")
    return (Path(given) if given else ROOT.parent / "shared") / "models"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, and count as deselected, what reads the real models where they are not here."""
    if _shared().is_dir():
        return
    apart = [i for i in items if "shared_models" in getattr(i, "fixturenames", ())]
    config.hook.pytest_deselected(items=apart)
    items[:] = [i for i in items if i not in apart]


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that gives the same numbers in every run."""
    return np.random.default_rng(20240229)


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """The folder of real models, named by BINPOINT_SHARED or beside the checkout."""
    return _shared()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line in this process."""
    monkeypatch.delenv("BINPOINT_DEBUG", raising=False)

    def binpoint(*words: str | Path) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main([str(word) for word in words])
        assert isinstance(stop.value.code, int)
        out, err = capsys.readouterr()
        return Done(stop.value.code, out, err)

    return binpoint


class _Golden(SingleFileSnapshotExtension):
    """One plain text file per snapshot, in a folder of tests/golden per test file."""

    _write_mode = WriteMode.TEXT

    @classmethod
    def dirname(cls, *, test_location: PyTestLocation) -> str:
        return str(ROOT / "tests" / "golden" / Path(test_location.filepath).stem)


class _GoldenC(_Golden):
    file_extension = "c"


class _GoldenText(_Golden):
    file_extension = "txt"


@pytest.fixture
def golden_c(snapshot: SnapshotAssertion) -> SnapshotAssertion:
    """Compares C text with a file ``tests/golden/<test file>/<test>.c``."""
    return snapshot.use_extension(_GoldenC)


@pytest.fixture
def golden_text(snapshot: SnapshotAssertion) -> SnapshotAssertion:
    """Compares text with a file ``tests/golden/<test file>/<test>.txt``."""
    return snapshot.use_extension(_GoldenText)
