"""Who may require grad: backward of nothing, leaves and others, dtypes."""

import functools
from typing import Any, Dict

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
)
from frostproof.properties.harness.core.law import ANY, DIFFERENTIABLE, FLOATING, law
from frostproof.properties.harness.core.layout import (
    ATTACHED,
    attach,
    autograd_state,
    geometry,
    storage_address,
)
from frostproof.properties.harness.running.trainer import Trainer
from frostproof.strategies import (
    MLP,
    TensorSpec,
    TrainingRun,
    mlps,
    tensors,
)


@law("F5", "torch.Tensor.backward documentation", FLOATING)
@given(network=mlps(), seed=st.integers(0, 1023))
def test_all_frozen_refuses_backward(device: str, dtype: torch.dtype, network: MLP, seed: int) -> None:
    """F5: with every parameter frozen the loss does not require grad and backward raises."""
    run = TrainingRun(network, frozen=network.parameter_names(), batch=4, seed=seed)
    trainer = Trainer(run, device, dtype)
    loss = trainer.loss()
    check(not loss.requires_grad, "the loss requires grad though everything is frozen")
    check(loss.grad_fn is None, f"the loss has a grad_fn though all is frozen: {loss.grad_fn}")
    check_raises(RuntimeError, loss.backward, "backward with everything frozen", "require grad")
    check_unchanged(trainer.named, trainer.before, "all frozen:")


def set_flag(tensor: torch.Tensor, flag: bool, how: str) -> None:
    """Set requires_grad as users do: by attribute, or by the method."""
    if how == "attribute":
        tensor.requires_grad = flag
    else:
        check(tensor.requires_grad_(flag) is tensor, "requires_grad_ returned another object")


HOW = st.sampled_from(("attribute", "method"))


MODE = st.sampled_from(("enable_grad", "no_grad"))


@law("F5", "torch.Tensor.requires_grad documentation", DIFFERENTIABLE)
@given(spec=tensors(kinds=("non_leaf", "view")), how=HOW, mode=MODE)
def test_non_leaf_cannot_be_frozen(
    device: str, dtype: torch.dtype, spec: TensorSpec, how: str, mode: str
) -> None:
    """F5: requires_grad = False on a non-leaf raises RuntimeError, and changes nothing."""
    tensor = spec.build(device, dtype)
    node, bits = tensor.grad_fn, read_bits(tensor)
    with getattr(torch, mode)():
        freezing = f"freezing a non-leaf by {how}"
        check_raises(RuntimeError, lambda: set_flag(tensor, False, how), freezing, "leaf")
    check(tensor.requires_grad, "the refused non-leaf no longer requires grad")
    check(tensor.grad_fn is node, f"the refused non-leaf has another grad_fn: {tensor.grad_fn}")
    check_same_bits(tensor, bits, "values of the refused non-leaf")


@law("F5 F8", "torch.Tensor.requires_grad documentation", DIFFERENTIABLE)
@given(
    spec=tensors(kinds=("leaf", "requires_grad", "parameter", "frozen")),
    how=HOW,
    mode=MODE,
    attached=st.sampled_from(ATTACHED),
)
def test_flag_is_set_and_undone(
    device: str, dtype: torch.dtype, spec: TensorSpec, how: str, mode: str, attached: str
) -> None:
    """F5: a floating or complex leaf takes requires_grad, on and off, and nothing else changes."""
    tensor = spec.build(device, dtype)
    attach(tensor, attached)
    before, bits, place = autograd_state(tensor), read_bits(tensor), geometry(tensor)
    flag = before.pop("requires_grad")
    address, gradient = storage_address(tensor), before.pop("grad")
    for wanted in (not flag, flag, not flag, False):
        with getattr(torch, mode)():
            set_flag(tensor, wanted, how)
        check_equal(tensor.requires_grad, wanted, f"requires_grad, set by {how} under {mode}")
        after = autograd_state(tensor)
        check(after.pop("grad") is gradient, "setting requires_grad changed the gradient")
        check(after.pop("requires_grad") is wanted, "requires_grad is not a bool")
        check_equal(after, before, "what autograd knows besides requires_grad")
    check_equal(geometry(tensor), place, "geometry after requires_grad was set")
    check_equal(storage_address(tensor), address, "storage after requires_grad was set")
    check_same_bits(tensor, bits, "values after requires_grad was set")


@law("F5", "torch.Tensor.requires_grad documentation", ANY)
def test_only_floating_can_require_grad(device: str, dtype: torch.dtype) -> None:
    """F5: integer and bool tensors are not made to require grad; floating and complex ones are."""
    made: Dict[str, Any] = {
        "torch.empty": lambda: torch.empty(3, dtype=dtype, device=device, requires_grad=True),
        "torch.tensor": lambda: torch.tensor([1], dtype=dtype, device=device, requires_grad=True),
        "Parameter": lambda: torch.nn.Parameter(torch.empty(3, dtype=dtype, device=device)),
    }
    for name, make in made.items():
        if dtype.is_floating_point or dtype.is_complex:
            check(make().requires_grad, f"{name} of {dtype} did not take requires_grad")
        else:
            check_raises(RuntimeError, make, f"{name} of {dtype} that requires grad")
    frozen = torch.nn.Parameter(torch.empty(3, dtype=dtype, device=device), requires_grad=False)
    check(not frozen.requires_grad, f"a Parameter of {dtype} made frozen requires grad")
    for how in ("attribute", "method"):
        for tensor in (frozen, torch.empty((), dtype=dtype, device=device)):
            if dtype.is_floating_point or dtype.is_complex:
                set_flag(tensor, True, how)
                check(tensor.requires_grad, f"{dtype} did not take requires_grad by {how}")
            else:
                refused = functools.partial(set_flag, tensor, True, how)
                check_raises(RuntimeError, refused, f"requires_grad of {dtype} by {how}", "floating")
            set_flag(tensor, False, how)
            check(not tensor.requires_grad, f"requires_grad of {dtype} cannot be undone by {how}")
