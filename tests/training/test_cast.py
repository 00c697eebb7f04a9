# pyright: basic, reportMissingImports=false
"""The cast is that of ap_fixed, for every rule, and its gradient is the stated one."""

from __future__ import annotations

import math
import subprocess
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from binpoint.training.cast import Overflow, Rounding, cast, codes

RULES = [(r, o, s) for r in Rounding for o in Overflow for s in (True, False)]
NAMES = {
    Rounding.FLOOR: "AP_TRN", Rounding.HALF_UP: "AP_RND", Rounding.HALF_EVEN: "AP_RND_CONV",
    Overflow.WRAP: "AP_WRAP", Overflow.SATURATE: "AP_SAT", Overflow.SYMMETRIC: "AP_SAT_SYM",
}  # fmt: skip
WIDTH, POINT = 5, 2


def numbers(rng: np.random.Generator) -> torch.Tensor:
    """Ties, their neighbours, and numbers in and far out of the range."""
    ties = np.arange(-200, 200) / 2.0 ** (POINT + 1)
    near = [ties, np.nextafter(ties, 1e9), np.nextafter(ties, -1e9), rng.normal(0, 10, 500)]
    return torch.from_numpy(np.concatenate(near))


def defined(x: float, rounding: Rounding, overflow: Overflow, *, signed: bool) -> int:
    """The definition, in rational numbers."""
    steps = Fraction(x) * 2**POINT
    match rounding:
        case Rounding.FLOOR:
            whole = math.floor(steps)
        case Rounding.HALF_UP:
            whole = math.floor(steps + Fraction(1, 2))
        case Rounding.HALF_EVEN:
            whole = round(steps)
    low, high = (-(2 ** (WIDTH - 1)), 2 ** (WIDTH - 1) - 1) if signed else (0, 2**WIDTH - 1)
    if overflow is Overflow.WRAP:
        return (whole - low) % 2**WIDTH + low
    if overflow is Overflow.SYMMETRIC and signed:
        low += 1
    return min(max(whole, low), high)


@pytest.mark.parametrize(("rounding", "overflow", "signed"), RULES)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_codes_are_those_of_the_definition(
    rng: np.random.Generator,
    rounding: Rounding,
    overflow: Overflow,
    signed: bool,
    kind: torch.dtype,
) -> None:
    x = numbers(rng).to(kind)
    point = torch.tensor(float(POINT))
    rules = {"signed": signed, "rounding": rounding, "overflow": overflow}
    found = codes(x, point, WIDTH, **rules)
    wanted = [defined(v, rounding, overflow, signed=signed) for v in x.tolist()]
    assert found.tolist() == wanted
    assert cast(x, point, WIDTH, **rules).tolist() == [w / 2**POINT for w in wanted]


@pytest.mark.needs("g++")
def test_codes_are_those_of_ap_fixed(rng: np.random.Generator, tmp_path: Path) -> None:
    spec = find_spec("da4ml")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    headers = Path(spec.submodule_search_locations[0]) / "codegen/hls/source/ap_types/include"
    x = numbers(rng)
    kinds = [
        f"ap_{'' if s else 'u'}fixed<{WIDTH}, {WIDTH - POINT}, {NAMES[r]}, {NAMES[o]}>"
        for r, o, s in RULES
    ]
    lines = "".join(f'    std::printf("%g ", {k}(w).to_double());\n' for k in kinds)
    (tmp_path / "main.cpp").write_text(
        '#include "ap_fixed.h"\n#include <cstdio>\nint main() {\n  double x;\n'
        '  while (std::scanf("%la", &x) == 1) {\n    const ap_fixed<120, 40> w = x;\n'
        f'{lines}    std::printf("\\n");\n  }}\n}}\n'
    )
    program = tmp_path / "casts"
    build = ["g++", "-std=c++17", "-w", "-O1", f"-I{headers}", str(tmp_path / "main.cpp")]
    subprocess.run([*build, "-o", str(program)], check=True)
    given = "\n".join(float(v).hex() for v in x.tolist())
    said = subprocess.run([program], input=given, text=True, capture_output=True, check=True)
    theirs = np.array([[float(v) for v in row.split()] for row in said.stdout.splitlines()])
    assert theirs.shape == (len(x), len(RULES))
    for column, (rounding, overflow, signed) in enumerate(RULES):
        ours = cast(x, torch.tensor(float(POINT)), WIDTH, signed=signed, rounding=rounding,
                    overflow=overflow)  # fmt: skip
        assert (ours.numpy() == theirs[:, column]).all(), RULES[column]


def test_the_gradient_is_the_straight_through_estimators(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(0, 3, 400)).requires_grad_()
    point = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    weights = torch.from_numpy(rng.normal(0, 1, 400))
    (cast(x, point, 4) * weights).sum().backward()
    steps = x.detach().numpy() * 4
    inside = (np.rint(steps) >= -8) & (np.rint(steps) <= 7)
    assert 0 < inside.sum() < 400
    assert (x.grad.numpy() == np.where(inside, weights.numpy(), 0)).all()
    bound = np.where(inside, np.rint(steps) - steps, np.clip(np.rint(steps), -8, 7))
    wanted = (-math.log(2) / 4 * bound * weights.numpy()).sum()
    assert float(point.grad) == pytest.approx(wanted, rel=1e-12)
