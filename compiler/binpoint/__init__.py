"""binpoint: ONNX models compiled into integer-only C, equal bit for bit to what onnxruntime runs.

The public names are loaded when first used, so that the command line answers ``--help`` at once.
"""

from __future__ import annotations

from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from binpoint.driver import Result, compile_model
    from binpoint.errors import BinpointError
    from binpoint.ir.graph import Graph
    from binpoint.options import CompileOptions, read_options
    from binpoint.target import McuTarget, Target, list_targets, load_target

__all__ = (
    "BinpointError",
    "CompileOptions",
    "Graph",
    "McuTarget",
    "Result",
    "Target",
    "compile_model",
    "list_targets",
    "load_target",
    "read_options",
)

_HOME = MappingProxyType(
    {
        "BinpointError": "errors",
        "CompileOptions": "options",
        "Graph": "ir.graph",
        "McuTarget": "target",
        "Result": "driver",
        "Target": "target",
        "compile_model": "driver",
        "list_targets": "target",
        "load_target": "target",
        "read_options": "options",
    }
)


def __getattr__(name: str) -> object:
    """Load a public name from the module that defines it."""
    if name not in _HOME:
        raise AttributeError(f"module 'binpoint' has no attribute {name!r}")
    return getattr(import_module(f"binpoint.{_HOME[name]}"), name)
