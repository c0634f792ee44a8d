"""Trained in another way, a net ends with the plain run's bits: hooks, copies, files, autocast."""

import contextlib
import warnings
from typing import Any, Callable, Dict, List

import pytest
import torch
import torch.utils.checkpoint
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from frostproof.properties.harness.core.checks import (
    check,
    check_equal,
    check_same_bits,
    check_same_gradient,
)
from frostproof.properties.harness.core.law import cells, law, part
from frostproof.properties.harness.running.attempts import attempt
from frostproof.properties.harness.running.call_modes import Eager
from frostproof.properties.harness.running.training_ways import NEEDS, TRAINING_WAYS
from frostproof.strategies import TrainingRun, training_runs
from frostproof.strategies.capabilities import NotOffered


@law("W1 F1 F3 K1", "PyTorch documentation: saved tensors, checkpoint, hooks, serialization", "float32")
@part(6, least=5)
@pytest.mark.parametrize("way", cells(TRAINING_WAYS, NEEDS))
@given(data=st.data())
def test_ways_train_to_the_plain_result(
    device: str, dtype: torch.dtype, way: str, data: st.DataObject
) -> None:
    """W1: trained in another way, every parameter and gradient has the bits of the plain run."""
    run: TrainingRun = data.draw(
        training_runs(device=device, dtype=dtype, max_depth=4, max_steps=3, learns=True)
    )
    if run.optimizer.needs_closure:
        return  # LBFGS ends with other bits from run to run on 2.8; copied, it has a law of its own
    if way == "reentrant checkpoint":
        need_reentrant()
    if way == "queue" and torch.device(device).type != "cpu":
        raise NotOffered("queue: an accelerator's memory is not opened by the process that owns it")
    kept = run.clearing != "none" or run.optimizer.matrices_only  # which clears no other gradients
    if kept and way in ("deepcopy", "pickle", "load", "queue", "in backward"):
        return  # a copy takes no gradients with it, not even zeros
    plain, other = Eager(run, device, dtype), TRAINING_WAYS[way](run, device, dtype)
    for step in range(1, run.steps + 1):
        plain.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            attempt(other.step, f"{way}, step {step},")
        bits, gradients = plain.bits(), plain.gradient_bits()
        for name, parameter in other.named.items():
            check_same_bits(parameter, bits[name], f"{way}: {name} after step {step}")
            check_same_gradient(parameter, gradients[name], f"{way}: gradient of {name}")


SWAP = "torch.__future__.set_swap_module_params_on_conversion"


def _clone_hooks() -> Any:
    return torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone)


SAVING: Dict[str, Callable[[], Any]] = {
    "plainly": contextlib.nullcontext,
    "save_on_cpu": lambda: torch.autograd.graph.save_on_cpu(),
    "copying hooks": _clone_hooks,
}


@law("W3 D6", "torch.autograd.graph.save_on_cpu documentation", "float32")
@pytest.mark.parametrize("how", cells(SAVING, NEEDS))
def test_saved_values_are_those_of_forward(device: str, dtype: torch.dtype, how: str) -> None:
    """W3: backward uses the values of forward, or refuses where they were changed in place."""
    parameter = nn.Parameter(torch.tensor([1.0, 2.0], device=device))
    with SAVING[how]():
        loss = (parameter * parameter).sum()
    with torch.no_grad():
        parameter.mul_(5)
    try:
        loss.backward()
    except RuntimeError as problem:
        check("inplace" in str(problem), f"{how}: {problem}")
        return
    assert parameter.grad is not None
    check_equal(parameter.grad.tolist(), [2.0, 4.0], f"{how}: the gradient of the squares of 1 and 2")


def autocast() -> Any:
    """Autocast to bfloat16 on the CPU; NotOffered where this torch has none."""
    if not hasattr(torch, "autocast"):
        raise NotOffered("this torch has no torch.autocast")
    return torch.autocast("cpu", dtype=torch.bfloat16)


def _step(layer: nn.Linear) -> None:
    layer(torch.ones(1, 2)).sum().backward()
    torch.optim.SGD(layer.parameters(), lr=1.0).step()


def _load(layer: nn.Linear) -> None:
    layer.load_state_dict({"weight": torch.full((2, 2), 3.0), "bias": torch.ones(2)})


CHANGES: Dict[str, Callable[[nn.Linear], None]] = {"step": _step, "load_state_dict": _load}


def linear(weight: float = 1.0) -> nn.Linear:
    """A layer, 2 to 2, of equal weights and no bias."""
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.fill_(weight)
        layer.bias.zero_()
    return layer


@law("W4 F3", "torch.amp documentation: autocast", "float32")
@pytest.mark.parametrize("change", list(CHANGES))
def test_autocast_sees_new_values(device: str, dtype: torch.dtype, change: str) -> None:
    """W4: within one region of autocast the forward after a step, or a load, uses the new weight."""
    layer = linear()
    with autocast():
        layer(torch.ones(1, 2))
        CHANGES[change](layer)
        inside = layer(torch.ones(1, 2)).float()
    with autocast():
        outside = layer(torch.ones(1, 2)).float()
    check_equal(
        inside.tolist(), outside.tolist(), f"the output after {change}, in its region and in another"
    )


@law("W4 F1 F2", "torch.amp documentation: autocast", "float32")
@pytest.mark.parametrize("scaled", [False, True], ids=["unscaled", "scaled"])
def test_autocast_follows_a_freeze_schedule(device: str, dtype: torch.dtype, scaled: bool) -> None:
    """W4: frozen and unfrozen under autocast, a weight moves while it is live and no more."""
    scaler: Any = None
    if scaled:
        kind = getattr(getattr(torch, "amp", None), "GradScaler", None)
        if kind is None:
            raise NotOffered("this torch has no torch.amp.GradScaler")
        scaler = kind("cpu", init_scale=4.0)
    nets = [nn.Sequential(linear(0.5), linear(0.25)) for _ in range(2)]
    steppers = [torch.optim.Adam(net.parameters(), lr=0.125) for net in nets]
    for number, live in enumerate((True, False, False, True)):
        before = nets[0][0].weight.detach().clone()  # type: ignore[union-attr, operator]
        for net, optimizer, flags in zip(nets, steppers, (True, False)):
            optimizer.zero_grad(set_to_none=True)
            if flags:
                net[0].requires_grad_(live)
            with autocast():
                loss = net(torch.ones(1, 2)).float().pow(2).sum()
            if scaler is None:
                loss.backward()
            else:
                scaler.scale(loss).backward()
            if not flags and not live:
                for each in net[0].parameters():
                    each.grad = None
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
        moved = not torch.equal(before, nets[0][0].weight)  # type: ignore[arg-type]
        check_equal(moved, live, f"the weight has moved in step {number}")
        for (name, one), two in zip(nets[0].named_parameters(), nets[1].parameters()):
            check_same_bits(
                one, two.detach(), f"{name} after step {number}, frozen by its flag or its gradient"
            )


@law("W4 F9", "torch.amp.GradScaler documentation", "float32")
def test_scaler_steps_what_is_all_frozen(device: str, dtype: torch.dtype) -> None:
    """W4: a scaler takes an optimizer whose parameters are all frozen, as its own step does."""
    kind = getattr(getattr(torch, "amp", None), "GradScaler", None)
    if kind is None:
        raise NotOffered("this torch has no torch.amp.GradScaler")
    scaler, frozen, live = kind("cpu"), linear().requires_grad_(False), linear()
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (frozen, live)]
    scaler.scale(live(frozen(torch.ones(1, 2))).sum()).backward()
    for optimizer in optimizers:
        attempt(lambda: scaler.step(optimizer), "GradScaler.step of an optimizer without gradients")  # noqa: B023
    scaler.update()
    check_equal(frozen.weight.tolist(), [[1.0, 1.0], [1.0, 1.0]], "the frozen weight")


@law("W5 F8", "torch.nn.Module.to documentation", "float32")
@pytest.mark.parametrize("way", cells(["plain", "swap"], {"swap": SWAP}))
def test_conversions_keep_hooks(device: str, dtype: torch.dtype, way: str) -> None:
    """W5: a hook that freezes rows of a weight, by zeroing their gradient, outlives a conversion."""
    layer, seen = linear(), []
    mask = torch.tensor([[0.0], [1.0]])

    def freeze_first_row(gradient: torch.Tensor) -> torch.Tensor:
        seen.append(1)
        return gradient * mask.to(gradient.dtype)

    layer.weight.register_hook(freeze_first_row)
    if way == "swap":
        torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        layer.double()
    finally:
        if way == "swap":
            torch.__future__.set_swap_module_params_on_conversion(False)
    layer(torch.ones(1, 2, dtype=torch.float64)).sum().backward()
    check_equal(len(seen), 1, f"{way}: calls of the weight's hook after a conversion")
    assert layer.weight.grad is not None
    check_equal(layer.weight.grad[0].tolist(), [0.0, 0.0], "the gradient of the frozen row")


def kind_of(reentrant: bool) -> Dict[str, Any]:
    """The option that names the kind of checkpoint; none where torch has one kind only."""
    return {"use_reentrant": reentrant} if hasattr(torch, "compile") else {}


def need_reentrant() -> None:
    """Raise NotOffered where the older checkpoint cannot run here and now.

    torch 1.8 refuses it for the rest of a thread once ``torch.autograd.grad`` has raised there.
    """
    leaf = torch.ones(1, requires_grad=True)
    try:
        torch.utils.checkpoint.checkpoint(
            lambda value: value * 2, leaf, **kind_of(reentrant=True)
        ).sum().backward()
    except RuntimeError as problem:
        raise NotOffered(f"the older checkpoint: {problem}") from None


def checkpointed(reentrant: bool, module: nn.Module, value: torch.Tensor) -> torch.Tensor:
    """The module's output, by a checkpoint of either kind."""
    if not reentrant and not hasattr(torch, "compile"):
        raise NotOffered("the checkpoint of this torch has no kind that is not reentrant")
    if reentrant:
        need_reentrant()
    options = kind_of(reentrant)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: torch.Tensor = torch.utils.checkpoint.checkpoint(module, value, **options)
    return made


REENTRANT = pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])


@law("W3 F8", "torch.utils.checkpoint documentation: forward runs twice", "float32")
@REENTRANT
def test_checkpoint_counts_a_batch_twice(device: str, dtype: torch.dtype, reentrant: bool) -> None:
    """W3: under a checkpoint a norm in train mode, frozen too, counts its batch twice: a trap."""
    for frozen in (False, True):
        norm = nn.BatchNorm1d(2).requires_grad_(not frozen)
        value = torch.tensor([[1.0, 2.0], [3.0, 5.0]], requires_grad=True)
        checkpointed(reentrant, norm, value).pow(2).sum().backward()
        check_equal(int(norm.num_batches_tracked or 0), 2, f"batches counted, frozen: {frozen}")


@law(
    "W3 F1", "torch.utils.checkpoint documentation: the function must compute the same again", "float32"
)
@REENTRANT
def test_checkpoint_goes_by_flags_of_backward(device: str, dtype: torch.dtype, reentrant: bool) -> None:
    """W3: unfrozen after forward, a weight gets a gradient by the older checkpoint (a trap)."""
    layer = linear()
    layer.weight.requires_grad = False
    value = torch.ones(1, 2, requires_grad=True)
    loss = checkpointed(reentrant, layer, value).sum()
    layer.weight.requires_grad = True
    refused: List[str] = []
    try:
        loss.backward()
    except (RuntimeError, IndexError) as problem:  # 2.0 refuses by an IndexError
        refused.append(str(problem))
    if reentrant:
        check(layer.weight.grad is not None, "the older checkpoint gave the weight no gradient")
    else:
        check(bool(refused) or layer.weight.grad is None, "a weight that was frozen got a gradient")
