# pyright: basic, reportMissingImports=false
"""Fitting a prepared module to its own real values: rounding learned, layer by layer, no labels.

Every weight is rounded down or up, whichever lets its layer give what it would give uncast; source:
AdaRound (Nagel et al. 2020), with h = clip(1.2 · sigmoid(V) − 0.1, 0, 1) between down and up, by

    |f(x) − f_q(x)|² / |f(x)|² + strength · mean(1 − |2h − 1|^b), b falling from 20 to 2

over V, over biases, and over factors and offsets of normalisations. A layer reads what the layers
before it give after they were fitted; its result counts after its activation and its cast, whose
binary point is chosen as well.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from rich.progress import Progress
from torch import fx, nn
from torch.func import functional_call

from binpoint.errors import NotTrainable
from binpoint.training.kinds import Kind, kind_of
from binpoint.training.learn import device
from binpoint.training.norm import FixedBatchNorm
from binpoint.training.quantizers import FixedPoint, fixed_points, weight_point

_STEPS = (0, 1, -1)
"""Bits by which binary points are tried finer and coarser."""

_FOLLOWING = (Kind.LINE, Kind.RECTIFIER, Kind.BENT, Kind.QUANTIZER)
_LOW, _HIGH = -0.1, 1.1
_WARM = 0.2


@dataclass(frozen=True, slots=True)
class Fit:
    """How to fit.

    Args:
        steps: of each layer.
        batch: samples of a step.
        rate: of V (Adam).
        shift_rate: of biases, factors and offsets, relative to their largest value.
        strength: how much it counts that weights are not yet round.
        seed: of the order of batches.
        progress: whether to show a bar.
    """

    steps: int = 300
    batch: int = 32
    rate: float = 2e-2
    shift_rate: float = 1e-3
    strength: float = 0.02
    seed: int = 1
    progress: bool = False


@dataclass(frozen=True, slots=True)
class Fitted:
    """A layer, its result's relative squared error before and after, and how many weights moved.

    Moved are those that went to the farther of their two neighbours.
    """

    layer: str
    before: float
    after: float
    moved: int


def tune(module: fx.GraphModule, x: Any, fit: Fit | None = None) -> list[Fitted]:
    """Fit a prepared and calibrated module to its own real values, in place.

    Afterwards all weights lie on the grids of their quantizers. A layer that learning would make
    worse keeps its weights rounded to nearest.

    Args:
        module: what `prepare` made, its activations calibrated.
        x: some hundred samples, [N, …]; there are no labels.
        fit: see there.

    Returns:
        One entry per layer with weights, in the order of computation.

    Raises:
        NotTrainable: a quantizer has seen no data yet, or there are no samples.
    """
    plan = fit or Fit()
    for name, part in fixed_points(module):
        if not part.ready:
            raise NotTrainable(
                "a quantizer has seen no data yet", at=name, hint="calibrate before tuning"
            )
    if not len(x):
        raise NotTrainable("there are no samples to tune with")
    hot = [name for name, part in fixed_points(module) if part.terms is not None]
    if hot:
        raise NotTrainable(
            "weights of few signed powers of two have no rounding up or down to learn",
            at=hot[0],
            hint="train them, or prepare without weight_terms",
        )
    place = device()
    module.to(place).eval()
    twin = copy.deepcopy(module)
    for _, part in fixed_points(twin):
        part.open = True
    with Progress(disable=not plan.progress) as bar:
        return _Walk(module, twin, plan, bar).run(x.to(place))


class _Walk:
    """Both modules run node by node, on all batches."""

    def __init__(self, module: fx.GraphModule, twin: fx.GraphModule, plan: Fit, bar: Any) -> None:
        self.module, self.twin, self.plan, self.bar = module, twin, plan, bar
        self.found: dict[fx.Node, list[Any]] = {}
        self.wanted: dict[fx.Node, list[Any]] = {}
        self.twins = dict(zip(module.graph.nodes, twin.graph.nodes, strict=True))

    def run(self, x: Any) -> list[Fitted]:
        """Fit layer after layer."""
        nodes = list(self.module.graph.nodes)
        last = {n: i for i, node in enumerate(nodes) for n in (node, *node.all_input_nodes)}
        layers = [n for n in nodes if self._layer(n) is not None]
        task = self.bar.add_task("layers", total=len(layers))
        done: set[str] = set()
        result: list[Fitted] = []
        for index, node in enumerate(nodes):
            if node.op == "placeholder":
                self.found[node] = self.wanted[node] = list(x.split(self.plan.batch))
            elif node.op != "output" and node not in self.found:
                if node in layers and node.target not in done:
                    chain = self._chain(node)
                    done.add(node.target)
                    result.append(self._fitted(node, chain))
                    self.bar.update(task, advance=1, description=f"{node.target}")
                self._both(node)
            for old in [n for n, i in last.items() if i == index]:
                self.found.pop(old, None)
                self.wanted.pop(old, None)
        return result

    def _layer(self, node: fx.Node) -> Any:
        """The layer with fixed-point weights that a node is, or None."""
        layer = self.module.get_submodule(node.target) if node.op == "call_module" else None
        return layer if weight_point(layer) is not None else None

    def _chain(self, node: fx.Node) -> list[fx.Node]:
        """The layer, and what follows it alone up to the first cast."""
        chain = [node]
        while len(chain[-1].users) == 1:
            (user,) = chain[-1].users
            layer = self.module.get_submodule(user.target) if user.op == "call_module" else None
            kind = kind_of(user, layer) if user.op != "output" else None
            follows = isinstance(layer, FixedBatchNorm) or kind in _FOLLOWING
            if not follows or user.all_input_nodes != [chain[-1]]:
                break
            chain.append(user)
            if kind is Kind.QUANTIZER:
                break
        return chain

    def _both(self, node: fx.Node) -> None:
        with torch.no_grad():
            self.found[node] = _values(self.module, [node], self.found)
            twin = self.twins[node]
            wanted = {self.twins[n]: v for n, v in self.wanted.items()}
            self.wanted[node] = _values(self.twin, [twin], wanted)

    def _fitted(self, node: fx.Node, chain: list[fx.Node]) -> Fitted:
        with torch.no_grad():
            wanted = {self.twins[n]: v for n, v in self.wanted.items()}
            targets = _values(self.twin, [self.twins[n] for n in chain], wanted)
        count = sum(t.numel() for t in targets)
        power = sum(float(t.double().square().sum()) for t in targets) / count or 1.0
        layer = _Layer(self, chain, targets, power)
        quantizer = layer.quantizer
        before = layer.error()
        layer.choose_points()
        nearest, least = layer.state(), layer.error()
        with _opened(quantizer):
            layer.learn()
        after = layer.error()
        if after > least:
            layer.restore(nearest)
            after = least
        moved = int((layer.module.weight != nearest[0]).sum())
        return Fitted(str(node.target), before, after, moved)


class _Layer:
    """One layer with what follows it, and what it should give."""

    def __init__(self, walk: _Walk, chain: list[fx.Node], targets: list[Any], power: float) -> None:
        self.chain, self.targets, self.power, self.plan = chain, targets, power, walk.plan
        self.whole, self.found = walk.module, walk.found
        self.module: Any = walk.module.get_submodule(chain[0].target)
        self.quantizer: FixedPoint = self.module.weight_quant.tensor_quant

    def output(self, index: int) -> Any:
        """What the chain gives for a batch."""
        return _value(self.whole, self.chain, self.found, index)

    @torch.no_grad()
    def error(self) -> float:
        """Relative squared error over all batches."""
        wrong = sum(float((self.output(i) - t).double().square().sum())
                    for i, t in enumerate(self.targets))  # fmt: skip
        return wrong / self.power / sum(t.numel() for t in self.targets)

    @torch.no_grad()
    def choose_points(self) -> None:
        """Move the weights' points, then the cast's, to neighbours that fit better."""
        point = self.quantizer.point
        start = point.detach().clone()
        errors = []
        for by in _STEPS:
            point.copy_(start + by)
            errors.append(self._channel_errors(point))
        best = torch.tensor(_STEPS, device=start.device)[torch.stack(errors).argmin(0)]
        point.copy_(start + best.to(start.dtype))
        cast = self._cast()
        if cast is not None:
            start = cast.point.detach().clone()
            found = []
            for by in _STEPS:
                cast.point.copy_(start + by)
                found.append(self.error())
            cast.point.copy_(start + _STEPS[found.index(min(found))])

    def _channel_errors(self, point: Any) -> Any:
        """In the shape of the points: one, or one per output channel, axis 1 of results."""
        total = torch.zeros(point.numel(), dtype=torch.float64, device=point.device)
        for index, target in enumerate(self.targets):
            wrong = (self.output(index) - target).double().square()
            channels = wrong.transpose(0, 1) if point.numel() > 1 else wrong
            total += channels.reshape(point.numel(), -1).sum(1)
        return total.reshape(point.shape)

    @torch.no_grad()
    def state(self) -> list[Any]:
        """Weights rounded to nearest, and what else is learned."""
        return [self.quantizer(self.module.weight)[0], *(p.clone() for p in self._shifts())]

    @torch.no_grad()
    def restore(self, state: list[Any]) -> None:
        """Take weights and the rest as they were."""
        for parameter, kept in zip((self.module.weight, *self._shifts()), state, strict=True):
            parameter.copy_(kept)

    def _cast(self) -> FixedPoint | None:
        """The cast at the end, if no other node uses it."""
        node = self.chain[-1]
        alone = sum(n.target == node.target for n in self.whole.graph.nodes) == 1
        part = self.whole.get_submodule(node.target) if node.op == "call_module" else None
        found = [p for _, p in fixed_points(part)] if part is not None else []
        if len(self.chain) == 1 or not alone or len(found) != 1:
            return None
        return found[0] if kind_of(node, part) is Kind.QUANTIZER else None

    def learn(self) -> None:
        """Learn the rounding, and set the weights to their grid."""
        quantizer, weight = self.quantizer, self.module.weight
        step = torch.exp2(-quantizer.points)
        low, high = quantizer.ends
        floor = torch.floor(weight.detach() / step)
        part = (weight.detach() / step - floor).clamp(0.01, 0.99)
        v = nn.Parameter(torch.log((part - _LOW) / (_HIGH - part)))
        groups: list[Any] = [{"params": [v], "lr": self.plan.rate}]
        for moved in self._shifts():
            reach = float(moved.detach().abs().max()) or 1.0
            groups.append({"params": [moved], "lr": self.plan.shift_rate * reach})
        optimizer = torch.optim.Adam(groups)
        generator = torch.Generator().manual_seed(self.plan.seed)
        order: list[int] = []
        for index in range(self.plan.steps):
            order = order or torch.randperm(len(self.targets), generator=generator).tolist()
            soft = torch.clamp(floor + _h(v), low, high) * step
            loss = self._loss(soft, order.pop()) + self._unround(v, index)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            _falling(optimizer, index, self.plan)
        with torch.no_grad():
            weight.copy_(torch.clamp(floor + (v >= 0), low, high) * step)

    def _loss(self, soft: Any, index: int) -> Any:
        node, rest = self.chain[0], self.chain[1:]
        args, kwargs = _arguments(node, self.found, index)
        y = functional_call(self.module, {"weight": soft}, args, kwargs)
        if rest:
            y = _value(self.whole, rest, {node: {index: y}}, index)
        return (y - self.targets[index]).square().mean() / self.power

    def _unround(self, v: Any, index: int) -> Any:
        """How far from round the weights are; nothing at first, ever stricter later."""
        done = (index / self.plan.steps - _WARM) / (1 - _WARM)
        if done < 0:
            return 0.0
        power = 2 + 18 * (0.5 + 0.5 * math.cos(math.pi * done))
        return self.plan.strength * (1 - (2 * _h(v) - 1).abs() ** power).mean()

    def _shifts(self) -> list[Any]:
        """Biases, and factors and offsets of normalisations."""
        parts = [self.whole.get_submodule(n.target) for n in self.chain if n.op == "call_module"]
        norms = [p.norm for p in parts if isinstance(p, FixedBatchNorm)]
        found = [self.module.bias, *(p for n in norms for p in (n.weight, n.bias))]
        return [p for p in found if p is not None]


def _h(v: Any) -> Any:
    return torch.clamp(torch.sigmoid(v) * (_HIGH - _LOW) + _LOW, 0, 1)


def _falling(optimizer: Any, index: int, plan: Fit) -> None:
    """Rates of biases and of normalisations fall to zero along a cosine; that of V stays."""
    for group in optimizer.param_groups[1:]:
        first = group.setdefault("first", group["lr"])
        group["lr"] = first * (0.5 + 0.5 * math.cos(math.pi * (index + 1) / plan.steps))


@contextmanager
def _opened(part: FixedPoint) -> Any:
    """A quantizer that lets values pass."""
    part.open = True
    try:
        yield
    finally:
        part.open = False


def _values(module: Any, nodes: list[fx.Node], env: Any) -> list[Any]:
    """What the last of nodes in a row gives for every batch."""
    count = len(next(iter(env.values())))
    return [_value(module, nodes, env, index) for index in range(count)]


def _value(module: Any, nodes: Iterable[fx.Node], env: Any, index: int) -> Any:
    own: dict[fx.Node, Any] = {}
    result = None
    for node in nodes:
        args, kwargs = _arguments(node, env, index, own)
        match node.op:
            case "call_module":
                result = module.get_submodule(node.target)(*args, **kwargs)
            case "call_function":
                result = node.target(*args, **kwargs)
            case "call_method":
                result = getattr(args[0], node.target)(*args[1:], **kwargs)
            case _:
                raise NotTrainable("a node that is no operation", have=node.op)
        own[node] = result
    return result


def _arguments(node: fx.Node, env: Any, index: int, own: Any = None) -> tuple[Any, Any]:
    def look(n: fx.Node) -> Any:
        return own[n] if own and n in own else env[n][index]

    return fx.node.map_arg(node.args, look), fx.node.map_arg(node.kwargs, look)
