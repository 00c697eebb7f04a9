"""Without the extra `training` everything else works, and a message says what to install."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from importlib.machinery import ModuleSpec

import pytest

from binpoint.errors import Exit, MissingExtra


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec

    def hidden(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name in ("torch", "brevitas") else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    for name in [n for n in sys.modules if n.startswith("binpoint.training")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtra) as error:
        importlib.import_module("binpoint.training")
    said = str(error.value)
    assert "error[BP8005]" in said
    assert "no torch, brevitas" in said
    assert 'pip install torch==2.13.0, then pip install "binpoint[training]"' in said
    assert error.value.exit is Exit.TOOL


def test_nothing_else_loads_it() -> None:
    program = (
        "import sys, binpoint, binpoint.cli, binpoint.driver, binpoint.pipelines;"
        "print([n for n in sys.modules if n.split('.')[0] in ('torch', 'brevitas')"
        " or n.startswith('binpoint.training')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("[]\n", 0)
