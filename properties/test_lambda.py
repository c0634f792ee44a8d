"""Lambda with filter, map and reduce, and the idioms that they serve in training."""

import dataclasses
from functools import reduce
from typing import List

import torch
from hypothesis import given
from hypothesis import strategies as st

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.core.checks import check, check_equal, check_raises, check_unchanged
from frostproof.properties.harness.core.law import FLOATING, law
from frostproof.properties.harness.running.trainer import Trainer
from frostproof.strategies import OptimizerSpec, TrainingRun, training_runs

INTEGERS = st.lists(st.integers(-1000, 1000), max_size=20)


@law("L1", "Python documentation, filter")
@given(numbers=INTEGERS, divisor=st.integers(1, 7))
def test_filter_keeps_matches_in_order(numbers: List[int], divisor: int) -> None:
    """L1: filter keeps exactly the matching items, in order, lazily and once."""
    asked: List[int] = []

    def matches(number: int) -> bool:
        asked.append(number)
        return number % divisor == 0

    kept = filter(matches, numbers)
    check_equal(asked, [], "asked before the first item is taken")
    expected = []
    for number in numbers:
        if number % divisor == 0:
            expected.append(number)
    check_equal(list(kept), expected, f"multiples of {divisor}")
    check_equal(list(kept), [], "a second pass")


@law("L1", "Python documentation, map")
@given(numbers=INTEGERS, factor=st.integers(-9, 9))
def test_map_keeps_length_and_order(numbers: List[int], factor: int) -> None:
    """L1: map applies its function to each item in order, lazily and once."""
    asked: List[int] = []
    mapped = map(lambda n: asked.append(n) or n * factor + 10, numbers)  # type: ignore[func-returns-value]
    check_equal(asked, [], "asked before the first item is taken")
    check_equal(list(mapped), [number * factor + 10 for number in numbers], "mapped")
    check_equal(list(mapped), [], "a second pass")


@law("L1", "Python documentation, functools.reduce")
@given(numbers=INTEGERS, start=st.integers(-9, 9))
def test_reduce_is_the_left_fold(numbers: List[int], start: int) -> None:
    """L1: reduce equals the left fold, whatever the operation's symmetry."""
    total = start
    for number in numbers:
        total = total * 3 - number
    check_equal(reduce(lambda left, right: left * 3 - right, numbers, start), total, "the fold")


@law("L2", "the source article; torch.optim documentation", FLOATING)
@given(data=st.data())
def test_filtered_optimizer_trains_alike(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """L2: an optimizer over filter(lambda p: p.requires_grad, ...) trains as over all."""
    run: TrainingRun = data.draw(training_runs(device=device, dtype=dtype, learns=True))
    if run.optimizer.needs_closure:  # LBFGS sums over all it lists, in another order
        run = dataclasses.replace(run, optimizer=OptimizerSpec("Adam", (("lr", 0.01),)))
    everything = Trainer(run, device, dtype, listed="all")
    filtered = Trainer(run, device, dtype, listed="all")
    live = filter(lambda p: p.requires_grad, [filtered.named[name] for name in filtered.listed])
    if any(filtered.named[name].requires_grad for name in filtered.listed):
        filtered.optimizer = filtered.spec.build(live)
    everything.train()
    filtered.train()
    check_unchanged(filtered.named, everything.bits(), "under the filtered optimizer")


@law("L2", "torch.optim documentation", FLOATING)
@given(run=training_runs(cuts=False))
def test_exhausted_filter_is_refused(device: str, dtype: torch.dtype, run: TrainingRun) -> None:
    """L2: a filter iterates once: an optimizer built from it a second time raises ValueError."""
    network = run.network.build(device, dtype)
    trainable = filter(lambda p: p.requires_grad, network.parameters())
    check_equal(len(list(trainable)), len(run.network.parameter_names()), "the first pass")
    check_raises(
        ValueError,
        lambda: torch.optim.SGD(trainable, lr=0.1),
        "an optimizer over an exhausted filter",
        "empty parameter list",
    )


@law("L2", "the source article", FLOATING)
@given(run=training_runs(cuts=False))
def test_map_and_reduce_agree_with_loops(device: str, dtype: torch.dtype, run: TrainingRun) -> None:
    """L2: snapshots by map and totals by reduce agree with loops over the parameters."""
    network = run.network.build(device, dtype)
    snapshots = list(map(lambda p: p.detach().clone(), network.parameters()))
    total = reduce(lambda left, right: left + right, map(lambda p: p.numel(), network.parameters()))
    count = 0
    for copied, parameter in zip(snapshots, network.parameters()):
        check(read_bits(copied) == read_bits(parameter), "a snapshot by map has other bits")
        count += parameter.numel()
    check_equal(len(snapshots), len(run.network.parameter_names()), "snapshots")
    check_equal(total, count, "elements by reduce")
