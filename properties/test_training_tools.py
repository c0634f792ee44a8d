"""What surrounds a step leaves the frozen alone: clipping, scaling, schedulers, loading."""

import copy
import dataclasses
import math
from typing import Any, Iterable, List

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from frostproof.properties.harness.core.bits import from_bits, read_bits
from frostproof.properties.harness.core.checks import (
    check,
    check_close,
    check_equal,
    check_same_bits,
    check_same_gradient,
    check_unchanged,
    fail,
)
from frostproof.properties.harness.core.law import FLOATING, PRECISE, law, part
from frostproof.properties.harness.reference import oracle
from frostproof.properties.harness.running.trainer import Trainer, freeze
from frostproof.strategies import (
    MLP,
    OptimizerSpec,
    TrainingRun,
    freeze_masks,
    mlps,
    optimizers,
    training_runs,
)
from frostproof.strategies.optimizer_traits import traits_of
from frostproof.strategies.optimizers import implementations, optimizer_names

# The norm, or "value", and the largest that is allowed.
CLIPPINGS: List[Any] = [
    (kind, largest) for kind in (2.0, "value", 1.0, math.inf) for largest in (1e-3, 0.1, 1e4)
]


def total_norm(gradients: Iterable[torch.Tensor], kind: float) -> float:
    """The norm of all gradients (float64) as if they were one vector."""
    sizes = [gradient.abs() for gradient in gradients]
    if math.isinf(kind):
        return max(float(size.max()) for size in sizes)
    return float(sum(float((size**kind).sum()) for size in sizes) ** (1 / kind))


def clipping_tolerance(dtype: torch.dtype, count: int) -> float:
    """The relative rounding of a norm of so many numbers, summed in float32 at least."""
    eps = float(torch.finfo(dtype).eps)
    return 16 * eps + count / 50 * min(eps, float(torch.finfo(torch.float32).eps))


@law("F9", "torch.nn.utils.clip_grad_norm_ documentation", FLOATING)
@given(data=st.data())
def test_clipping_leaves_frozen(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F9: clipping scales all live gradients alike, as documented, and moves nothing itself."""
    run: TrainingRun = data.draw(training_runs(device=device, dtype=dtype, learns=True))
    trainer = Trainer(run, device, dtype)
    trainer.backward()
    kind, largest = data.draw(st.sampled_from(CLIPPINGS))
    before = {n: oracle.as_float64(p.grad) for n, p in trainer.named.items() if p.grad is not None}
    check_equal(set(before), set(run.gets_gradient()), "who has a gradient before clipping")
    info = torch.finfo(dtype)
    unit = clipping_tolerance(dtype, sum(gradient.numel() for gradient in before.values()))
    if kind == "value":
        torch.nn.utils.clip_grad_value_(trainer.network.parameters(), largest)
        wanted = {name: gradient.clamp(-largest, largest) for name, gradient in before.items()}
    else:
        norm = total_norm(before.values(), kind)
        found = torch.nn.utils.clip_grad_norm_(trainer.network.parameters(), largest, norm_type=kind)
        check_close(found, torch.tensor(norm, dtype=torch.float64), f"the {kind}-norm", unit, 1e-6)
        factor = min(1.0, largest / (norm + 1e-6))
        wanted = {name: gradient * factor for name, gradient in before.items()}
    check_unchanged(trainer.named, trainer.before, "clipping moved")
    for name, parameter in trainer.named.items():
        if name not in wanted:
            check(parameter.grad is None, f"clipping gave {name} a gradient")
        elif parameter.grad is None:
            fail(f"clipping lost the gradient of {name}")
        else:
            what = f"the gradient of {name}, clipped to {kind} {largest},"
            check_close(parameter.grad, wanted[name], what, unit, 2 * float(info.eps * info.tiny))
    if not run.optimizer.needs_closure:
        trainer.apply()
    for name in run.frozen:
        check_same_bits(trainer.named[name], trainer.before[name], f"frozen {name} after clipping")


@law("F9", "torch.nn.utils.clip_grad_norm_ documentation", "float32")
@part(6, least=10)
@pytest.mark.parametrize("kind", ["norm", "value"])
@given(network=mlps(max_depth=3, max_width=8))
def test_clipping_without_gradients(device: str, dtype: torch.dtype, kind: str, network: MLP) -> None:
    """F9: where everything is frozen, clipping finds a norm of zero, and does nothing."""
    run = TrainingRun(network, frozen=network.parameter_names(), seed=network.seed)
    trainer = Trainer(run, device, dtype)
    if kind == "value":
        torch.nn.utils.clip_grad_value_(trainer.network.parameters(), 1.0)
    else:
        norm = torch.nn.utils.clip_grad_norm_(trainer.network.parameters(), 1.0)
        check_equal(float(norm), 0.0, "the norm of no gradients")
    check_unchanged(trainer.named, trainer.before, "clipping without gradients moved")
    for name, parameter in trainer.named.items():
        check(parameter.grad is None, f"clipping gave {name} a gradient")


@law("F9", "PyTorch examples, gradient accumulation", FLOATING)
@given(data=st.data())
def test_accumulation_leaves_frozen(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F9: each further backward adds the same gradient exactly, and frozen ones get none."""
    run: TrainingRun = data.draw(training_runs(device=device, dtype=dtype, learns=True))
    if any(layer.norm == "batch" for layer in run.network.layers):
        run = dataclasses.replace(run, batch=max(run.batch, 4))
    trainer = Trainer(run, device, dtype)
    trainer.backward()
    once = trainer.gradient_bits()
    single = {
        name: from_bits(bits, trainer.named[name].shape, dtype).to(device)
        for name, bits in once.items()
        if bits is not None
    }
    total = dict(single)
    places = {name: _place(trainer, name) for name in total}
    for times in range(2, 6):
        trainer.backward()
        total = {name: gradient + single[name] for name, gradient in total.items()}
        for name, bits in trainer.gradient_bits().items():
            if name not in total:
                check(bits is None, f"{name} got a gradient at backward number {times}")
            else:
                check_same_gradient(
                    trainer.named[name],
                    read_bits(total[name]),
                    f"gradient of {name} after {times} backwards",
                )
                check_equal(_place(trainer, name), places[name], f"the memory of {name}'s gradient")


def _place(trainer: Trainer, name: str) -> int:
    grad = trainer.named[name].grad
    return 0 if grad is None else grad.data_ptr()


# Name, options, the factor on the first rate after n steps, and what step() takes. The factor
# is never 0: LBFGS divides by it.
SCHEDULERS: List[Any] = [
    entry
    for entry in (
        ("StepLR", {"step_size": 2, "gamma": 0.5}, lambda n: 0.5 ** (n // 2), ()),
        ("ExponentialLR", {"gamma": 0.5}, lambda n: 0.5**n, ()),
        ("CosineAnnealingLR", {"T_max": 9}, lambda n: (1 + math.cos(math.pi * n / 9)) / 2, ()),
        ("MultiStepLR", {"milestones": [1, 3], "gamma": 0.5}, lambda n: 0.5 ** ((n > 0) + (n > 2)), ()),
        ("ConstantLR", {"factor": 0.5, "total_iters": 2}, lambda n: 0.5 if n < 2 else 1.0, ()),
        ("LinearLR", {"start_factor": 0.5, "total_iters": 4}, lambda n: 0.5 + min(n, 4) / 8, ()),
        ("PolynomialLR", {"total_iters": 9, "power": 2.0}, lambda n: (1 - n / 9) ** 2, ()),
        (
            "CosineAnnealingWarmRestarts",
            {"T_0": 2},
            lambda n: (1 + math.cos(math.pi * (n % 2) / 2)) / 2,
            (),
        ),
        ("ReduceLROnPlateau", {"factor": 0.5, "patience": 0}, lambda n: 0.5 ** max(0, n - 1), (1.0,)),
    )
    if hasattr(torch.optim.lr_scheduler, entry[0])
]


def in_two_groups(run: TrainingRun) -> TrainingRun:
    """The run with two parameter groups, where the optimizer takes groups (LBFGS does not)."""
    return run if run.optimizer.needs_closure else dataclasses.replace(run, groups=2)


@law("F9", "torch.optim.lr_scheduler documentation", FLOATING)
@given(data=st.data())
def test_schedulers_leave_frozen(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F9: a scheduler sets each group's rate by its formula and moves no parameter itself."""
    runs = training_runs(device=device, dtype=dtype, learns=True)
    run: TrainingRun = data.draw(runs.map(in_two_groups))
    trainer = Trainer(run, device, dtype)
    name, options, factor, given = data.draw(st.sampled_from(SCHEDULERS))
    for place, group in enumerate(trainer.optimizer.param_groups):
        group["lr"] = group["lr"] / (place + 1)
    first = [group["lr"] for group in trainer.optimizer.param_groups]
    scheduler = getattr(torch.optim.lr_scheduler, name)(trainer.optimizer, **options)
    for step in range(1, run.steps + 1):
        trainer.step()
        moved = trainer.bits()
        scheduler.step(*given)
        check_unchanged(trainer.named, moved, f"{name}.step():")
        for place, group in enumerate(trainer.optimizer.param_groups):
            wanted = first[place] * factor(step)
            check(
                math.isclose(group["lr"], wanted, rel_tol=1e-9),
                f"{name}: lr of group {place} is {group['lr']} after {step} steps, expected {wanted}",
            )
    for frozen in run.frozen:
        check_same_bits(trainer.named[frozen], trainer.before[frozen], f"frozen {frozen}")


@law("F9", "torch.optim.Optimizer.add_param_group documentation", PRECISE)
@given(data=st.data())
def test_added_group_leaves_frozen(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F9: parameters added by add_param_group: the frozen among them stand still, others train."""
    network = data.draw(mlps(min_depth=2, tied=False))
    mask = data.draw(freeze_masks(network))
    run = TrainingRun(network, frozen=mask, batch=4, seed=network.seed)
    trainer = Trainer(run, device, dtype)
    names = network.parameter_names()
    split = data.draw(st.integers(1, len(names) - 1))
    spec = OptimizerSpec("SGD", (("lr", 0.1), ("weight_decay", 0.1)))
    trainer.optimizer = spec.build([trainer.named[name] for name in names[:split]])
    trainer.optimizer.add_param_group({"params": [trainer.named[name] for name in names[split:]]})
    trainer.step()
    for name in names:
        if name in mask:
            check_same_bits(trainer.named[name], trainer.before[name], f"frozen {name}")
        elif bool((trainer.named[name].abs() > 0.1).any()):
            check(
                read_bits(trainer.named[name]) != trainer.before[name],
                f"live {name} did not move, with weight decay and a gradient",
            )


@law("F9", "torch.optim.Optimizer.load_state_dict documentation", "float32")
@given(data=st.data())
def test_loading_state_leaves_frozen(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F9: saving and loading net and optimizer half-way changes nothing: the same bits at the end."""
    run: TrainingRun = data.draw(training_runs(device=device, dtype=dtype, learns=True))
    # float32 only: loading casts NAdam's and ASGD's float32 scalars to the parameter's dtype
    straight = Trainer(run, device, dtype)
    straight.step()
    saved = copy.deepcopy((straight.network.state_dict(), straight.optimizer.state_dict()))
    other = dataclasses.replace(run.network, seed=run.network.seed + 1)
    loaded = Trainer(dataclasses.replace(run, network=other), device, dtype)
    loaded.network.load_state_dict(saved[0])
    loaded.optimizer.load_state_dict(saved[1])
    for name, parameter in loaded.named.items():
        flag = name not in run.frozen
        check_equal(parameter.requires_grad, flag, f"requires_grad of {name} after loading")
        kept = straight.named[name].grad
        if run.clearing == "keep" and kept is not None:  # gradients are no part of a state_dict
            parameter.grad = from_bits(read_bits(kept), parameter.shape, dtype).to(device)
    for _ in range(run.steps):
        straight.step()
        loaded.step()
    for name in run.frozen:
        check_same_bits(loaded.named[name], straight.before[name], f"frozen {name}")
    expected = straight.bits()
    for name, parameter in loaded.named.items():
        check_same_bits(parameter, expected[name], f"{name} after loading half-way")
    buffers = dict(straight.network.named_buffers())
    for name, buffer in loaded.network.named_buffers():
        check_same_bits(buffer, read_bits(buffers[name]), f"buffer {name} after loading half-way")


SCALED = [name for name in optimizer_names() if traits_of(name).scaled_steps]


def scaled_optimizers(device: str, dtype: torch.dtype) -> st.SearchStrategy[OptimizerSpec]:
    """Any of SCALED with any options; half of them fused, where this torch can. Shrinks to SGD."""
    # an eps that counts: without it Adam's step is the same at any scale
    options = {name: () if name == "SGD" else (("eps", 1e-3),) for name in SCALED}
    fused = [
        OptimizerSpec(name, (*options[name], ("fused", True), ("lr", 0.1)))
        for name in SCALED
        if "fused" in implementations(name, device, dtype)
    ]
    others = optimizers(names=SCALED, device=device, dtype=dtype)
    return others | st.sampled_from(fused) if fused else others


@law("F9", "torch.amp.GradScaler documentation", "float32")
@given(data=st.data())
def test_gradient_scaling_leaves_frozen(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F9: a scaled loss with unscaled gradients moves live parameters only."""
    network = data.draw(mlps(norms=False))
    mask = data.draw(freeze_masks(network))
    spec = data.draw(scaled_optimizers(device, dtype))
    run = TrainingRun(network, frozen=mask, optimizer=spec, batch=4, seed=network.seed)
    if not run.gets_gradient():
        run = dataclasses.replace(run, frozen=())
    plain, scaled = Trainer(run, device, dtype), Trainer(run, device, dtype)
    plain.backward()
    (scaled.loss() * 1024.0).backward()
    for name, parameter in scaled.named.items():
        ours, theirs = parameter.grad, plain.named[name].grad
        if name in run.frozen:
            check(ours is None and theirs is None, f"frozen {name} got a gradient")
            continue
        if ours is None or theirs is None:
            fail(f"live {name} got no gradient")
        with torch.no_grad():
            check(
                bool(((ours / 1024.0 - theirs).abs() <= 1e-5 * (1e-3 + theirs.abs())).all()),
                f"gradient of {name} through a scaled loss is another",
            )
    scaler_class = getattr(getattr(torch, "amp", None), "GradScaler", None)
    if scaler_class is None or device.startswith("mps"):
        return
    scaler = scaler_class(device.partition(":")[0], init_scale=1024.0)
    trainer = Trainer(run, device, dtype)
    scaler.scale(trainer.loss()).backward()
    if network.seed % 2:  # asked for by hand, it must not be done again by step
        scaler.unscale_(trainer.optimizer)
        for name in run.gets_gradient():
            ours, theirs = trainer.named[name].grad, plain.named[name].grad
            assert ours is not None and theirs is not None
            check_close(ours, theirs, f"the unscaled gradient of {name}", 1e-6, 1e-9)
    scaler.step(trainer.optimizer)
    scaler.update()
    plain.apply()
    for name, parameter in trainer.named.items():
        if name in run.frozen:
            check_same_bits(parameter, trainer.before[name], f"frozen {name} under GradScaler")
        else:  # scaling by a power of two is exact
            check_close(parameter, plain.named[name], f"{name} under GradScaler", 1e-6, 1e-9)
    check_overflow_skipped(trainer, scaler)


def check_overflow_skipped(trainer: Trainer, scaler: Any) -> None:
    """Where one gradient is infinite the step moves nothing, and the scale is halved."""
    __tracebackhide__ = True
    trainer.clear()
    scaler.scale(trainer.loss()).backward()
    last = [parameter for parameter in trainer.named.values() if parameter.grad is not None][-1]
    with torch.no_grad():
        last.grad.view(-1)[-1] = math.inf  # type: ignore[union-attr]
    before, scale = trainer.bits(), scaler.get_scale()
    scaler.step(trainer.optimizer)
    check_unchanged(trainer.named, before, "a step of GradScaler with an infinite gradient moved")
    scaler.update()
    check_equal(scaler.get_scale(), scale / 2, "the scale after an infinite gradient")


@law("F6 F9", "torch.optim.Optimizer.zero_grad documentation", FLOATING)
@given(data=st.data())
def test_zero_grad_clears_all(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F6: zero_grad, of optimizer or module, clears every gradient, of those frozen midway too."""
    run: TrainingRun = data.draw(training_runs(device=device, dtype=dtype, learns=True, cuts=False))
    set_to_none, whole = data.draw(st.booleans()), data.draw(st.booleans())
    trainer = Trainer(dataclasses.replace(run, frozen=(), listed="all"), device, dtype)
    trainer.backward()
    freeze(trainer.named, run.frozen, run.freezing)
    clearing: Any = trainer.network if whole else trainer.optimizer
    clearing.zero_grad(set_to_none=set_to_none)
    for name in trainer.named if whole else trainer.listed:
        parameter = trainer.named[name]
        check_equal(parameter.requires_grad, name not in run.frozen, f"requires_grad of {name}")
        check_same_bits(parameter, trainer.before[name], f"{name} after zero_grad")
        if set_to_none:
            check(parameter.grad is None, f"{name} still has a gradient after zero_grad")
        else:
            zeros = parameter.grad is not None and not bool((parameter.grad != 0).any())
            check(zeros, f"the gradient of {name} is not zero after zero_grad")
