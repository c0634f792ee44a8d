"""A batch shared out to replicas in threads, and DataParallel: as the net trains by itself."""

import dataclasses
from typing import Any, Dict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from frostproof.properties.harness.core.checks import (
    check,
    check_equal,
    check_unchanged,
    snapshot,
)
from frostproof.properties.harness.core.law import PRECISE, cells, law, part
from frostproof.properties.harness.core.layout import storage_address
from frostproof.properties.harness.running.call_modes import functional_call
from frostproof.properties.harness.running.distributed_training import plainly
from frostproof.properties.harness.running.replicas import REPLICAS, Replicated, data_parallel
from frostproof.properties.harness.running.trainer import Trainer
from frostproof.properties.test_gradients import check_gradients, expected_of
from frostproof.properties.test_optimizer_state import ORDINARY
from frostproof.properties.test_vectorized_training import without_batch_norm
from frostproof.strategies import TrainingRun, training_runs

SOURCE = "torch.nn.DataParallel documentation: replicas, their outputs gathered, gradients summed"
NEEDS = {"stateless": lambda: "" if functional_call() else "functional_call: this torch has none"}


@law("W9 F1 F3 K1", SOURCE, PRECISE)
@part(6, least=8)
@pytest.mark.parametrize("how", cells(REPLICAS, NEEDS))
@given(data=st.data())
def test_replicas_train_as_the_net(
    device: str, dtype: torch.dtype, how: str, data: st.DataObject
) -> None:
    """W9: shared out to replicas in threads, a batch gives the net its gradients, steps and flags."""
    drawn: TrainingRun = data.draw(
        training_runs(device=device, dtype=dtype, names=ORDINARY, max_depth=4, max_steps=2, learns=True)
    )
    run = without_batch_norm(plainly(drawn))
    run = dataclasses.replace(run, batch=max(run.batch, 2), clearing="none")
    plain = Trainer(run, device, dtype)
    shared = Replicated(run, device, dtype, how, data.draw(st.integers(2, 3)))
    for step in range(1, run.steps + 1):
        shared.clear()
        expected, before = expected_of(plain), state_of(shared)
        shared.loss()
        check_equal(state_of(shared), before, f"flags, versions, gradients after forward {step}")
        check_unchanged(shared.named, plain.bits(), f"forward {step} by replicas moved")
        check_copies(shared)
        shared.backward()
        check_gradients(shared, expected, dtype)
        for name, parameter in shared.named.items():
            plain.named[name].grad = None if parameter.grad is None else parameter.grad.clone()
        shared.apply()
        plain.apply()
        check_unchanged(shared.named, plain.bits(), f"not where the net is after step {step}:")
    check_unchanged(shared.named, shared.before, "frozen, but moved:", run.frozen)


def state_of(trainer: Trainer) -> Dict[str, Any]:
    """Of each parameter: whether it requires grad, is a leaf and has a gradient, and its version."""
    return {
        name: (each.requires_grad, each.is_leaf, each.grad is not None, each._version)
        for name, each in trainer.named.items()
    }


def check_copies(shared: Replicated) -> None:
    """The copies have the net's flags, and memory apart; the replicas are as they were made."""
    __tracebackhide__ = True
    held = shared.network.state_dict(keep_vars=True)
    ours = {storage_address(each) for each in held.values()}
    for copies in shared.copies:
        for key, each in copies.items():
            check_equal(
                each.requires_grad, held[key].requires_grad, f"requires_grad of a copy of {key}"
            )
            check(storage_address(each) not in ours, f"a copy of {key} is in the net's memory")
    for replica in shared.replicas if shared.how is REPLICAS["stateless"] else ():
        mine = dict(replica.named_parameters())
        check_unchanged(mine, shared.kept, "a module that was called with other values has moved:")
        for name, each in mine.items():
            flag = name not in shared.run.frozen
            check_equal(each.requires_grad, flag, f"requires_grad of {name}, of a module called so")
            check(each.grad is None, f"{name}, of a module called with others, has a gradient")


@law("W9 F8", SOURCE + "; state_dict keys", "float32")
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_data_parallel_is_its_module(device: str, dtype: torch.dtype, mode: str) -> None:
    """W9: DataParallel has its module's own parameters, by "module." and their names, as they were."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)).to(device)
    net[0].requires_grad_(False)
    net[1].train(mode == "train")
    named, before = dict(net.named_parameters()), snapshot(dict(net.named_parameters()))
    wrapper = data_parallel(net, device)
    keys = sorted(f"module.{key}" for key in net.state_dict())
    check_equal(sorted(wrapper.state_dict()), keys, "the keys of its state_dict")
    for name, each in wrapper.named_parameters():
        check(each is named[name.partition(".")[2]], f"{name} is not the module's own")
    check_unchanged(dict(net.named_parameters()), before, "wrapping moved")
    flags = [each.requires_grad for each in net.parameters()]
    check_equal(flags, [False, False, True, True], "requires_grad once wrapped")
    check_equal(net[1].training, mode == "train", "the mode of a norm once wrapped")
