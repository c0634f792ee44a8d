"""Freezing and unfreezing while training, and the traps of it."""

import dataclasses

import torch
from hypothesis import event, given
from hypothesis import strategies as st

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.core.checks import (
    check,
    check_equal,
    check_same_gradient,
    check_unchanged,
    snapshot,
)
from frostproof.properties.harness.core.law import FLOATING, PRECISE, law
from frostproof.properties.harness.running.trainer import Trainer, freeze
from frostproof.properties.test_freeze import _state_bits
from frostproof.strategies import (
    MLP,
    Layer,
    OptimizerSpec,
    TrainingRun,
    freeze_masks,
    mlps,
    training_runs,
)
from frostproof.strategies.optimizers import implementations


@law("F6", "torch.optim.Optimizer.zero_grad documentation", FLOATING)
@given(data=st.data())
def test_frozen_midway_with_cleared_gradients(
    device: str, dtype: torch.dtype, data: st.DataObject
) -> None:
    """F6: frozen midway with gradients cleared to None, a parameter stands still from then on."""
    run: TrainingRun = data.draw(training_runs(device=device, dtype=dtype, learns=True))
    if run.optimizer.needs_closure:  # LBFGS moves it: test_lbfgs_moves_frozen_midway
        run = dataclasses.replace(run, optimizer=OptimizerSpec("SGD", (("lr", 0.1), ("momentum", 0.9))))
    mask = run.frozen or run.unfrozen()[:1]
    run = dataclasses.replace(run, frozen=(), clearing="none", listed="all")
    trainer = Trainer(run, device, dtype)
    trainer.train()
    trainer.network.zero_grad(set_to_none=True)
    freeze(trainer.named, mask, run.freezing)
    before = snapshot({name: trainer.named[name] for name in mask})
    trainer.run = dataclasses.replace(run, frozen=tuple(mask))
    for _ in range(2):
        trainer.step()
        check_unchanged(trainer.named, before, f"frozen midway under {trainer.spec.name}:")
        for name in mask:
            check(trainer.named[name].grad is None, f"{name}: a gradient after freezing")


TRAPS = (
    ("stale gradient", (("lr", 0.1),), "stale"),
    ("weight decay with zeroed gradients", (("lr", 0.1), ("weight_decay", 0.1)), "zeros"),
    ("momentum with zeroed gradients", (("lr", 0.1), ("momentum", 0.9)), "zeros"),
)


@law("F6", "the catalogue's traps; torch.optim.SGD documentation", PRECISE)
@given(data=st.data())
def test_traps_move_frozen(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F6: stale gradients, and decay or momentum over zeroed ones, do move a frozen parameter."""
    network = data.draw(mlps(max_width=40))
    name, options, kind = data.draw(st.sampled_from(TRAPS))
    event(name)
    spec = OptimizerSpec("SGD", options)
    trainer = Trainer(TrainingRun(network, optimizer=spec, batch=4, seed=network.seed), device, dtype)
    trainer.step()
    trainer.clear()
    trainer.backward()
    if kind == "zeros":
        trainer.apply()
        for parameter in trainer.network.parameters():
            assert parameter.grad is not None
            parameter.grad.zero_()
    mask = data.draw(freeze_masks(network)) or network.parameter_names()[:1]
    freeze(trainer.named, mask, "attribute")
    before = snapshot(trainer.named)
    expected = {}
    for frozen in mask:
        parameter = trainer.named[frozen]
        gradient = parameter.grad
        assert gradient is not None
        drive = gradient
        if "weight_decay" in dict(options):
            drive = parameter
        elif "momentum" in dict(options):
            drive = trainer.optimizer.state[parameter]["momentum_buffer"]
        expected[frozen] = bool((drive.abs() > 1e-4).any())
    trainer.apply()
    for frozen, moves in expected.items():
        if moves:
            check(
                read_bits(trainer.named[frozen]) != before[frozen],
                f"{name}: frozen {frozen} was expected to move (the optimizer goes by .grad, not "
                f"by requires_grad), but stood still",
            )


@law("F6", "measured: a real defect of torch.optim.LBFGS", PRECISE)
@given(seed=st.integers(0, 255), width=st.integers(1, 12))
def test_lbfgs_moves_frozen_midway(device: str, dtype: torch.dtype, seed: int, width: int) -> None:
    """F6: LBFGS moves a parameter frozen midway: its direction was stored before (a trap)."""
    network = mlp_of(width, seed)
    spec = OptimizerSpec("LBFGS", (("lr", 0.1), ("max_iter", 2)))
    run = TrainingRun(network, optimizer=spec, batch=4, seed=seed)
    trainer = Trainer(run, device, dtype)
    trainer.step()
    trainer.step()
    trainer.optimizer.zero_grad(set_to_none=True)
    name = network.parameter_names()[0]
    freeze(trainer.named, (name,), "attribute")
    trainer.run = dataclasses.replace(run, frozen=(name,))
    before = read_bits(trainer.named[name])
    trainer.step()
    check(
        read_bits(trainer.named[name]) != before,
        f"LBFGS left {name} alone after it was frozen midway: torch mended the known trap; "
        f"update the law and the README",
    )


def mlp_of(width: int, seed: int) -> MLP:
    """Two plain linear layers with a tanh between them."""
    return MLP(3, (Layer(width, activation="tanh"), Layer(2)), seed=seed)


@law("F7", "PyTorch notes, Autograd mechanics", FLOATING)
@given(data=st.data())
def test_unfreezing_resumes(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F7: after unfreezing, a parameter gets the gradient of a net that was never frozen."""
    network = data.draw(mlps())
    mask = data.draw(freeze_masks(network)) or network.parameter_names()[-1:]
    spec = OptimizerSpec("SGD", (("lr", 0.1),))
    run = TrainingRun(network, frozen=mask, optimizer=spec, batch=4, seed=network.seed)
    trainer = Trainer(run, device, dtype)
    trainer.step()
    for name in mask:
        trainer.named[name].requires_grad_(True)
    trainer.run = dataclasses.replace(run, frozen=())
    trainer.clear()
    trainer.backward()
    fresh = Trainer(dataclasses.replace(run, frozen=()), device, dtype)
    with torch.no_grad():
        for name, parameter in fresh.named.items():
            parameter.copy_(trainer.named[name])
    fresh.backward()
    expected = fresh.gradient_bits()
    for name, gradient in trainer.gradient_bits().items():
        check(gradient is not None, f"{name}: no gradient after unfreezing")
        check_same_gradient(trainer.named[name], expected[name], f"gradient of {name}")
    before = trainer.bits()
    trainer.apply()
    for name in mask:
        grad = trainer.named[name].grad
        assert grad is not None
        if bool((grad.abs() > 0.05).any()):
            check(read_bits(trainer.named[name]) != before[name], f"unfrozen {name} did not move")


@law("F7", "torch.optim.SGD documentation, fused implementation", "float32")
def test_fused_sgd_takes_a_late_gradient(device: str, dtype: torch.dtype) -> None:
    """F7: fused SGD with momentum trains a parameter that is unfrozen after others have begun."""
    early, late = (torch.nn.Parameter(torch.ones(2, dtype=dtype, device=device)) for _ in range(2))
    late.requires_grad = False
    fused = {"fused": True} if "fused" in implementations("SGD", device, dtype) else {}
    optimizer = torch.optim.SGD([early, late], lr=0.5, momentum=0.5, **fused)
    for _ in range(2):
        early.grad = torch.ones_like(early)
        late.grad = torch.ones_like(late) if late.requires_grad else None
        optimizer.step()
        late.requires_grad = True
    # 1 - 0.5 * 1, then - 0.5 * 1.5; the late one takes its first step
    check_equal(early.tolist(), [-0.25] * 2, "the parameter that was live from the start")
    check_equal(late.tolist(), [0.5] * 2, "the parameter that was unfrozen after a step")


@law("F7", "torch.optim.Optimizer.state documentation", FLOATING)
@given(data=st.data())
def test_state_of_frozen_is_kept(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F7: while a parameter is frozen its optimizer state stands still, bit for bit."""
    network = data.draw(mlps(max_width=40))
    mask = data.draw(freeze_masks(network)) or network.parameter_names()[:1]
    name, options = data.draw(
        st.sampled_from(
            (
                ("SGD", (("lr", 0.1), ("momentum", 0.9))),
                ("Adam", (("lr", 0.01),)),
                ("RMSprop", (("lr", 0.01), ("momentum", 0.5))),
                ("Adagrad", (("lr", 0.01),)),
            )
        )
    )
    run = TrainingRun(network, optimizer=OptimizerSpec(name, options), batch=4, seed=network.seed)
    trainer = Trainer(run, device, dtype)
    trainer.step()
    trainer.optimizer.zero_grad(set_to_none=True)
    freeze(trainer.named, mask, "method")
    trainer.run = dataclasses.replace(run, frozen=mask)
    before = {frozen: _state_bits(trainer, frozen) for frozen in mask}
    check(any(before.values()), f"{name} keeps no state at all")
    trainer.step()
    trainer.step()
    for frozen in mask:
        check_equal(_state_bits(trainer, frozen), before[frozen], f"state of frozen {frozen}")
