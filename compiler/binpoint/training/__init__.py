# pyright: basic, reportMissingImports=false
"""Fixed-point training: binary points learned as parameters, on Brevitas's layers.

Needs the extra `training`; nothing else in binpoint imports this package.

    net = prepare(module, bits=4)            # swaps the layers of a torch.nn.Module
    calibrate(net, batches)                  # first binary points, from data
    learn(net, x, y, Plan(epochs=5))         # weights and binary points, together
    tune(net, x)                             # or without classes: rounding, layer by layer
    export(net, example, Path("net.onnx"))   # QONNX, which `binpoint compile` reads

The format follows ap_fixed: `bits` wide, the binary point learned (Zhang et al. 2024, QFX).
"""

from __future__ import annotations

from importlib.util import find_spec

from binpoint.errors import MissingExtra

_MISSING = tuple(n for n in ("torch", "brevitas", "onnxscript") if find_spec(n) is None)
if _MISSING:
    raise MissingExtra(
        "binpoint.training needs packages that are not installed",
        have=f"no {', '.join(_MISSING)}",
        want="torch and the extra `training`",
        hint='pip install torch==2.13.0, then pip install "binpoint[training]"',
    )

from binpoint.training.adapt import AdaptWidths  # noqa: E402 - only where torch is
from binpoint.training.calibrate import calibrate  # noqa: E402
from binpoint.training.cast import Overflow, Rounding, cast  # noqa: E402
from binpoint.training.export import export  # noqa: E402
from binpoint.training.fold import fold_norms  # noqa: E402
from binpoint.training.learn import Plan, learn  # noqa: E402
from binpoint.training.points import place_points  # noqa: E402
from binpoint.training.prepare import prepare  # noqa: E402
from binpoint.training.quantizers import FixedPoint, formats  # noqa: E402
from binpoint.training.tune import Fit, tune  # noqa: E402

__all__ = (
    "AdaptWidths",
    "Fit",
    "FixedPoint",
    "Overflow",
    "Plan",
    "Rounding",
    "calibrate",
    "cast",
    "export",
    "fold_norms",
    "formats",
    "learn",
    "place_points",
    "prepare",
    "tune",
)
