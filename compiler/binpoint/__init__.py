"""binpoint: ONNX models compiled into integer-only C, equal bit for bit to what onnxruntime runs.

The public names are loaded when first used, so that the command line answers ``--help`` at once.
"""

from __future__ import annotations

from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from binpoint.driver import Result, compile_model, verify_folder
    from binpoint.errors import BinpointError
    from binpoint.frontend.load import load
    from binpoint.frontend.samples import read_samples
    from binpoint.ir.evaluate import evaluate
    from binpoint.ir.graph import Graph
    from binpoint.options import CompileOptions, read_options
    from binpoint.passes.base import Context, Effect, Pass, Stage
    from binpoint.passes.manager import Pipeline, run
    from binpoint.passes.samples import Samples
    from binpoint.pipelines import PIPELINES
    from binpoint.report.schema import Report
    from binpoint.target import McuTarget, Target, list_targets, load_target

__all__ = (
    "PIPELINES",
    "BinpointError",
    "CompileOptions",
    "Context",
    "Effect",
    "Graph",
    "McuTarget",
    "Pass",
    "Pipeline",
    "Report",
    "Result",
    "Samples",
    "Stage",
    "Target",
    "compile_model",
    "evaluate",
    "list_targets",
    "load",
    "load_target",
    "read_options",
    "read_samples",
    "run",
    "verify_folder",
)

_HOME = MappingProxyType(
    {
        "PIPELINES": "pipelines",
        "BinpointError": "errors",
        "CompileOptions": "options",
        "Context": "passes.base",
        "Effect": "passes.base",
        "Graph": "ir.graph",
        "McuTarget": "target",
        "Pass": "passes.base",
        "Pipeline": "passes.manager",
        "Report": "report.schema",
        "Result": "driver",
        "Samples": "passes.samples",
        "Stage": "passes.base",
        "Target": "target",
        "compile_model": "driver",
        "evaluate": "ir.evaluate",
        "list_targets": "target",
        "load": "frontend.load",
        "load_target": "target",
        "read_options": "options",
        "read_samples": "frontend.samples",
        "run": "passes.manager",
        "verify_folder": "driver",
    }
)


def __getattr__(name: str) -> object:
    """Load a public name from the module that defines it."""
    if name not in _HOME:
        raise AttributeError(f"module 'binpoint' has no attribute {name!r}")
    return getattr(import_module(f"binpoint.{_HOME[name]}"), name)
