# pyright: basic, reportMissingImports=false
"""Training with progress, checkpoints and fixed seeds: weights and binary points together."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.nn import functional

from binpoint.errors import NotTrainable
from binpoint.training.quantizers import fixed_points

DECAY = 1e-4


@dataclass(frozen=True, slots=True)
class Plan:
    """How to train.

    Args:
        epochs: rounds over the data.
        batch: samples of a step.
        rate: largest rate of weights (Adam), falling along a cosine.
        point_rate: the same of binary points; bits per step, as Adam's steps have unit size.
        seed: of the order of samples and of what `augment` draws.
        checkpoint: a file written after each epoch; a training of the same plan that finds it goes
            on from there.
        progress: whether to show a bar.
    """

    epochs: int = 10
    batch: int = 64
    rate: float = 1e-3
    point_rate: float = 1e-2
    seed: int = 1
    checkpoint: Path | None = None
    progress: bool = False


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one round gave: mean loss, accuracy on what it learned from, seconds, remarks.

    There is no accuracy where the loss is the caller's.
    """

    index: int
    loss: float
    accuracy: float | None
    seconds: float
    notes: str = ""


Augment = Callable[[Any, Any], Any]
"""A batch and a generator to another batch of the same shape."""

Callback = Callable[[nn.Module, Epoch], str | None]
"""Called between epochs; what it returns goes into the epoch's notes."""

Loss = Callable[[Any, Any], Any]
"""What a batch's results and its `y` give: a mean over the batch."""


def device() -> str:
    """`cuda` if there is any, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def learn(
    module: nn.Module,
    x: Any,
    y: Any,
    plan: Plan,
    *,
    augment: Augment | None = None,
    callback: Callback | None = None,
    loss: Loss | None = None,
) -> list[Epoch]:
    """Train a module, in place; a classifier unless a loss is given.

    The same plan, data and machine give the same result, and a training that was cut goes on as if
    it had not been.

    Args:
        module: a float module or one that `prepare` made.
        x: samples, [N, …].
        y: classes, [N]; with `loss` whatever that reads, [N, …].
        plan: see there.
        augment: changes a batch before it is learned from.
        callback: called between epochs.
        loss: in place of the cross entropy of scores and classes.

    Returns:
        One entry per epoch, those before a resumption included.

    Raises:
        NotTrainable: the checkpoint is of another plan, or of another number of samples.
    """
    place = device()
    module.to(place)
    job = {"samples": len(x), **_steady(plan)}
    saved = _saved(plan.checkpoint, job)
    if saved is not None:
        module.load_state_dict(saved["module"])
    optimizer, schedule = _optimizer(module, plan, math.ceil(len(x) / plan.batch))
    history: list[Epoch] = []
    if saved is not None:
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        history = [Epoch(**e) for e in saved["history"]]
    with _bar(plan, len(history)) as show:
        for index in range(len(history), plan.epochs):
            generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + index)
            torch.manual_seed(plan.seed * 1_000_003 + index)
            found = _round(module, _batches(x, y, plan, generator, place, augment),
                           (optimizer, schedule), loss, index, show)  # fmt: skip
            if callback is not None and index + 1 < plan.epochs:
                found = replace(found, notes=callback(module, found) or "")
            history.append(found)
            _save(plan.checkpoint, job, module, optimizer, schedule, history)
    module.eval()
    return history


def _optimizer(module: nn.Module, plan: Plan, steps: int) -> tuple[Any, Any]:
    points = [q.point for _, q in fixed_points(module)]
    apart = {id(p) for p in points}
    weights = [p for p in module.parameters() if id(p) not in apart]
    groups = [{"params": weights, "lr": plan.rate, "weight_decay": DECAY}]
    if points:
        groups.append({"params": points, "lr": plan.point_rate})
    optimizer = torch.optim.Adam(groups)
    total = max(1, steps * plan.epochs)
    warm = max(1, total // 20)

    def part(step: int) -> float:
        return min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * step / total))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, part)


def _batches(
    x: Any, y: Any, plan: Plan, generator: Any, place: str, augment: Augment | None
) -> Iterator[tuple[Any, Any]]:
    for chosen in torch.randperm(len(x), generator=generator).split(plan.batch):
        if len(chosen) < 2 < len(x):
            continue  # a batch of one has no moments
        batch = x[chosen] if augment is None else augment(x[chosen], generator)
        yield batch.to(place), y[chosen].to(place)


def _round(
    module: nn.Module,
    batches: Iterator[Any],
    steppers: tuple[Any, Any],
    loss: Loss | None,
    index: int,
    show: Any,
) -> Epoch:
    module.train()
    started, loss_sum, right, count = time.perf_counter(), 0.0, 0, 0
    optimizer, schedule = steppers
    for batch, wanted in batches:
        optimizer.zero_grad()
        results = module(batch)
        value = (loss or functional.cross_entropy)(results, wanted)
        value.backward()
        optimizer.step()
        schedule.step()
        loss_sum += float(value.detach()) * len(wanted)
        if loss is None:
            right += int((results.detach().argmax(1) == wanted).sum())
        count += len(wanted)
        part = right / count if loss is None else None
        show(index, count, loss_sum / count, part)
    part = right / count if loss is None else None
    return Epoch(index, loss_sum / count, part, time.perf_counter() - started)


@torch.no_grad()
def accuracy(module: nn.Module, x: Any, y: Any) -> float:
    """The part of samples whose largest score is their class's."""
    place = device()
    module.to(place).eval()
    right = [module(b.to(place)).argmax(1).cpu() == c for b, c in
             zip(x.split(250), y.split(250), strict=True)]  # fmt: skip
    return float(torch.cat(right).double().mean())


# ---- checkpoints and progress


def _steady(plan: Plan) -> dict[str, Any]:
    """What a plan says of the numbers that come out."""
    return {k: v for k, v in asdict(plan).items() if k not in ("checkpoint", "progress")}


def _saved(path: Path | None, job: dict[str, Any]) -> Any:
    if path is None or not path.exists():
        return None
    saved = torch.load(path, map_location="cpu", weights_only=True)
    if saved.get("job") != job:
        raise NotTrainable(
            "a checkpoint of another training",
            at=str(path),
            have=_told(saved.get("job") or {}),
            want=_told(job),
            hint="remove it, or name another file",
        )
    return saved


def _told(job: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in job.items()) or "none told"


def _save(
    path: Path | None,
    job: dict[str, Any],
    module: nn.Module,
    optimizer: Any,
    schedule: Any,
    history: list[Epoch],
) -> None:
    if path is None:
        return
    state = {
        "job": job,
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "history": [asdict(e) for e in history],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    torch.save(state, partial)
    partial.replace(path)


def _bar(plan: Plan, done: int) -> Any:
    if not plan.progress:
        return nullcontext(lambda *_: None)
    return _Bar(plan, done)


class _Bar:
    """A bar per epoch with loss and accuracy so far."""

    def __init__(self, plan: Plan, done: int) -> None:
        self.plan, self.done = plan, done
        text = "{task.description} loss {task.fields[loss]:.4f}{task.fields[right]}"
        self.progress = Progress(TextColumn(text), BarColumn(), TimeRemainingColumn())
        self.tasks: dict[int, Any] = {}

    def __enter__(self) -> Any:
        self.progress.start()
        return self.show

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, epoch: int, count: int, loss: float, right: float | None) -> None:
        """Say how far an epoch is."""
        if epoch not in self.tasks:
            name = f"epoch {epoch + 1}/{self.plan.epochs}"
            self.tasks[epoch] = self.progress.add_task(name, total=None, loss=0.0, right="")
        text = "" if right is None else f" accuracy {right:.4f}"
        self.progress.update(self.tasks[epoch], completed=count, loss=loss, right=text)
