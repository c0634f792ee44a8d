"""What torch must refuse, loudly, because going on in silence would train something else."""

import functools
from itertools import product
from typing import Dict, Tuple

import torch
from hypothesis import given
from hypothesis import strategies as st

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.core.checks import (
    check,
    check_equal,
    check_raises,
    check_same_bits,
    check_unchanged,
    count_cases,
)
from frostproof.properties.harness.core.law import DIFFERENTIABLE, FLOATING, law
from frostproof.properties.harness.running.trainer import Trainer
from frostproof.strategies import TrainingRun, training_runs

# In-place operations as code on a parameter ``p`` of halves, and what they make of a half.
IN_PLACE: Dict[str, float] = {
    "p.add_(1)": 1.5,
    "p.mul_(3)": 1.5,
    "p.sub_(1)": -0.5,
    "p.div_(2)": 0.25,
    "p.zero_()": 0.0,
    "p.fill_(2)": 2.0,
    "p.copy_(torch.ones_like(p))": 1.0,
    "p.view(-1).add_(1)": 1.5,
    "p.__setitem__(..., 3)": 3.0,
}
HALVES: Tuple[Tuple[int, ...], ...] = ((), (3,), (2, 70))


@law("F5 F1", "PyTorch notes, Autograd mechanics, In-place operations with autograd", DIFFERENTIABLE)
def test_leaves_refuse_in_place(device: str, dtype: torch.dtype) -> None:
    """F5: in grad mode a live leaf refuses in-place operations, and a frozen one takes them."""
    for (code, value), shape, live, recording in product(
        IN_PLACE.items(), HALVES, (True, False), (True, False)
    ):
        halves = torch.full(shape, 0.5, device=device, dtype=dtype)
        p = torch.nn.Parameter(halves, requires_grad=live)
        before = read_bits(p)
        write = functools.partial(eval, code, {"torch": torch, "p": p})
        with torch.enable_grad() if recording else torch.no_grad():
            what = f"{code} on a {'live' if live else 'frozen'} leaf of shape {shape}"
            if live and recording:
                check_raises(RuntimeError, write, what, "leaf")
                check_same_bits(p, before, f"the values after {what} was refused")
            else:
                write()
                wanted = torch.full(shape, value, device=device, dtype=dtype)
                check_same_bits(p, wanted, f"the values after {what}")
        check_equal(p.requires_grad, live, f"requires_grad after {what}")
        check(p.grad_fn is None, f"a leaf has a grad_fn after {what}")
        count_cases(1)


@law("F5", "torch.Tensor.backward documentation", FLOATING)
@given(data=st.data())
def test_backward_refuses(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F5: backward refuses a graph that has been used, and an output that is no single number."""
    runs = training_runs(device=device, dtype=dtype, learns=True, max_depth=3, max_steps=1)
    run: TrainingRun = data.draw(runs)
    trainer = Trainer(run, device, dtype)
    output = trainer.output()
    if output.numel() > 1:
        check_raises(RuntimeError, output.backward, "backward of many numbers", "scalar")
    wrong = torch.ones(output.numel() + 1, device=device, dtype=dtype)
    check_raises(RuntimeError, lambda: output.backward(wrong), "backward from another shape", "shape")
    check_unchanged(trainer.named, trainer.before, "a refused backward changed")
    check(all(p.grad is None for p in trainer.named.values()), "a refused backward left gradients")
    loss = trainer.loss()
    loss.backward()
    once = trainer.gradient_bits()
    check_raises(RuntimeError, loss.backward, "backward through a used graph", "second time")
    check_equal(trainer.gradient_bits(), once, "the gradients after a refused backward")
