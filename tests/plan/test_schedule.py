"""The order of steps, against every order there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from binpoint.ir.graph import Origin
from binpoint.ir.kernel import KernelCall
from binpoint.plan import schedule as module
from binpoint.plan.fuse import Step
from binpoint.plan.schedule import Schedule, schedule

Net = tuple[tuple[Step, ...], dict[str, int], dict[str, str], tuple[str, ...], tuple[str, ...]]


def step(name: str, reads: str, writes: str, takes: str = "") -> Step:
    call = KernelCall("fake", ())
    return Step(
        name, (), tuple(reads.split()), tuple(writes.split()), call, Origin(),
        in_place=tuple(takes.split()),
    )  # fmt: skip


def orders(steps: Sequence[Step], known: frozenset[str]) -> Iterator[tuple[Step, ...]]:
    """Every order in which operands come before their readers."""
    if not steps:
        yield ()
    for index, item in enumerate(steps):
        if known.issuperset(item.reads):
            rest = (*steps[:index], *steps[index + 1 :])
            for tail in orders(rest, known | set(item.writes)):
                yield (item, *tail)


def peak(order: Sequence[Step], net: Net) -> int:
    """Most bytes live at once, counted from the definition: from first write to last reader."""
    _, sizes, owner, inputs, outputs = net
    kept = {owner[n] for n in outputs}
    last = {owner[n]: i for i, s in enumerate(order) for n in (*s.writes, *s.reads)}
    first = {owner[n]: -1 for n in inputs}
    for i, s in enumerate(order):
        for n in s.writes:
            first.setdefault(owner[n], i)
    ends = {b: len(order) if b in kept else last.get(b, -1) for b in first}
    most = sum(sizes.get(owner[n], 0) for n in inputs)
    for i, s in enumerate(order):
        now = {b for b in first if first[b] <= i <= ends[b]}
        total = sum(sizes.get(b, 0) for b in now)
        result = owner[s.writes[0]]
        dying = [n for n in s.in_place if owner[n] in sizes and ends[owner[n]] == i]
        if dying and result in sizes:
            total -= sizes[result]
        most = max(most, total)
    return most


def random_net(random: Random) -> Net:
    inputs = tuple(f"in{i}" for i in range(random.randint(1, 2)))
    values, steps = list(inputs), list[Step]()
    sizes = {name: 4 * random.randint(1, 9) for name in values}
    owner = {name: name for name in values}
    for index in range(random.randint(1, 7)):
        reads = list(dict.fromkeys(random.choice(values) for _ in range(random.randint(1, 3))))
        name = f"v{index}"
        match random.randrange(4):
            case 0:
                owner[name] = owner[reads[0]]
                steps.append(step(f"s{index}", reads[0], name))
            case 1:
                owner[name], sizes[name] = name, sizes[owner[reads[0]]]
                steps.append(step(f"s{index}", " ".join(reads), name, reads[0]))
            case _:
                owner[name], sizes[name] = name, 4 * random.randint(1, 9)
                steps.append(step(f"s{index}", " ".join(reads), name))
        values.append(name)
    read = {n for s in steps for n in s.reads}
    outputs = tuple(v for v in values if v not in read and v not in inputs)
    outside = {owner[n] for n in (*inputs, *outputs)} if random.random() < 0.5 else set[str]()
    sizes = {name: size for name, size in sizes.items() if name not in outside}
    random.shuffle(steps)
    return tuple(steps), sizes, owner, inputs, outputs


def valid(found: Schedule, net: Net) -> None:
    steps, _, _, inputs, _ = net
    assert sorted(s.name for s in found.steps) == sorted(s.name for s in steps)
    known = set(inputs)
    for item in found.steps:
        assert known.issuperset(item.reads)
        known.update(item.writes)


@settings(max_examples=150)
@given(random=st.randoms(use_true_random=False))
def test_no_order_needs_less(random: Random) -> None:
    """Whether all steps are tried everywhere, or eagerly one that is of use alone."""
    net = random_net(random)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MOST_PLAIN", random.choice((0, 1000)))
        found = schedule(*net)
    valid(found, net)
    least = min(peak(order, net) for order in orders(net[0], frozenset(net[3])))
    assert peak(found.steps, net) == found.peak == found.bound == least
    assert found.optimal


@settings(max_examples=150)
@given(random=st.randoms(use_true_random=False))
def test_without_a_search_the_bound_still_holds(random: Random) -> None:
    net = random_net(random)
    with pytest.MonkeyPatch.context() as patch:
        for limit in ("_MOST_STATES", "_MOST_PLAIN"):
            patch.setattr(module, limit, 0)
        found = schedule(*net)
    valid(found, net)
    least = min(peak(order, net) for order in orders(net[0], frozenset(net[3])))
    assert found.bound <= least <= peak(found.steps, net) == found.peak
    assert found.optimal == (found.peak == found.bound)


def test_a_branch_that_frees_memory_goes_first() -> None:
    steps = (
        step("wide", "x", "a"), step("narrow", "a", "b"),
        step("wide2", "x", "c"), step("narrow2", "c", "d"), step("join", "b d", "y"),
    )  # fmt: skip
    sizes = {"a": 100, "b": 4, "c": 80, "d": 4, "y": 4}
    owner = {n: n for n in ("x", *sizes)}
    found = schedule(steps, sizes, owner, ("x",), ("y",))
    assert [s.name for s in found.steps][:2] in (["wide", "narrow"], ["wide2", "narrow2"])
    assert found.peak == found.bound == 104


def test_many_parallel_branches_are_ordered_without_a_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for limit in ("_MOST_STATES", "_MOST_PLAIN"):
        monkeypatch.setattr(module, limit, 500)
    steps: list[Step] = []
    sizes: dict[str, int] = {}
    for i in range(12):
        steps += [step(f"a{i}", "x", f"v{i}"), step(f"b{i}", f"v{i}", f"w{i}")]
        sizes |= {f"v{i}": 40, f"w{i}": 4}
    steps.append(step("join", " ".join(f"w{i}" for i in range(12)), "y"))
    sizes["y"] = 4
    owner = {n: n for n in ("x", *sizes)}
    found = schedule(tuple(steps), sizes, owner, ("x",), ("y",))
    # Each branch is finished before the next begins: 11 results, one wide value and its result.
    assert found.peak == 11 * 4 + 44
    assert not found.optimal


def test_nothing_to_order() -> None:
    sizes: Mapping[str, int] = {"x": 8}
    found = schedule((), sizes, {"x": "x"}, ("x",), ("x",))
    assert (found.steps, found.peak, found.bound) == ((), 8, 8)
