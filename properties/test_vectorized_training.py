"""Many gradients, or many nets, at once by torch.func.vmap: as one after the other."""

import dataclasses
from typing import Any, Dict, List

import torch
from hypothesis import given
from hypothesis import strategies as st

from frostproof.properties.harness.core.checks import (
    check,
    check_close,
    check_equal,
    check_raises,
    check_same_bits,
    check_unchanged,
    snapshot,
)
from frostproof.properties.harness.core.law import PRECISE, law, part
from frostproof.properties.harness.reference import oracle
from frostproof.properties.harness.running.call_modes import called_with
from frostproof.properties.harness.running.distributed_training import plainly
from frostproof.properties.harness.running.parameter_memory import check_near
from frostproof.properties.harness.running.trainer import Trainer
from frostproof.properties.test_gradients import check_gradients, expected_of
from frostproof.strategies import TrainingRun, training_runs

SAMPLES = "torch.func documentation: per-sample gradients"
ENSEMBLES = "torch.func.stack_module_state documentation: model ensembling"
ELEMENTWISE = ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad")  # rules that know no shapes


def loss_of(trainer: Trainer, values: Any, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The loss of the trainer's net with other parameters and buffers, for (batch, features)."""
    output = called_with(trainer.network, values, inputs, trainer.run.cuts)
    return torch.nn.functional.mse_loss(output, targets)


def gradients_of_samples(trainer: Trainer) -> Dict[str, torch.Tensor]:
    """Of what is unfrozen, the gradient of each sample's own loss: (batch, *shape), by name."""
    live = {name: trainer.named[name].detach() for name in trainer.run.unfrozen()}
    rest = {name: trainer.named[name] for name in trainer.run.frozen}

    def of_one(live: Any, rest: Any, value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return loss_of(trainer, {**rest, **live}, value.unsqueeze(0), target.unsqueeze(0))

    each = torch.func.vmap(torch.func.grad(of_one), in_dims=(None, None, 0, 0))
    found: Dict[str, torch.Tensor] = each(live, rest, trainer.inputs, trainer.targets)
    return found


def give(trainer: Trainer, gradients: Dict[str, torch.Tensor]) -> None:
    """Hand gradients to what they are of; what a cut keeps from the loss has zeros, and gets none."""
    for name, gradient in gradients.items():
        reached = name in trainer.run.gets_gradient()
        check(reached or not bool(gradient.any()), f"{name}, cut off, has a gradient")
        trainer.named[name].grad = gradient.clone() if reached else None


def without_batch_norm(run: TrainingRun) -> TrainingRun:
    """The run, up to 4 samples, in which no sample's output depends on the others."""
    layers = tuple(
        dataclasses.replace(layer, norm="layer") if layer.norm == "batch" else layer
        for layer in run.network.layers
    )
    network = dataclasses.replace(run.network, layers=layers)
    return dataclasses.replace(run, network=network, batch=min(run.batch, 4))


@law("W6 F1 F3 K1", SAMPLES, PRECISE, needs="torch.func.stack_module_state")
@part(4, least=8)
@given(data=st.data())
def test_gradients_of_each_sample(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """W6: vmap of grad gives each sample's gradient, none for the frozen; their mean is the batch's."""
    drawn: TrainingRun = data.draw(
        training_runs(device=device, dtype=dtype, max_depth=4, names=["SGD"], learns=True)
    )
    trainer = Trainer(without_batch_norm(drawn), device, dtype)
    found = gradients_of_samples(trainer)
    check_equal(sorted(found), sorted(trainer.run.unfrozen()), "what there are gradients of")
    check(all(each.grad is None for each in trainer.named.values()), "a parameter got a gradient")
    check_unchanged(trainer.named, trainer.before, "gradients of samples moved")
    inputs, targets = trainer.inputs, trainer.targets
    for row in range(len(inputs)):
        trainer.inputs, trainer.targets = inputs[row : row + 1], targets[row : row + 1]
        give(trainer, {name: gradient[row] for name, gradient in found.items()})
        check_gradients(trainer, expected_of(trainer), dtype)
    trainer.inputs, trainer.targets = inputs, targets
    give(trainer, {name: gradient.mean(0) for name, gradient in found.items()})
    check_gradients(trainer, expected_of(trainer), dtype)


class Ensemble:
    """Nets of one description, of other weights and data each, that are trained as one stack.

    stacked, buffers: what ``stack_module_state`` made of the members', by name.
    """

    def __init__(self, run: TrainingRun, device: str, dtype: torch.dtype, count: int) -> None:
        self.members = [
            Trainer(
                dataclasses.replace(
                    run,
                    network=dataclasses.replace(run.network, seed=run.network.seed + number),
                    seed=run.seed + number,
                ),
                device,
                dtype,
            )
            for number in range(count)
        ]
        first = self.members[0]
        nets: List[Any] = [member.network for member in self.members]
        made: Any = torch.func.stack_module_state(nets)
        self.stacked, self.buffers = made[0], made[1]
        self.inputs = torch.stack([member.inputs for member in self.members])
        self.targets = torch.stack([member.targets for member in self.members])
        self.optimizer = run.optimizer.build([self.stacked[name] for name in first.listed])

    def losses(self) -> torch.Tensor:
        """The loss of each member: (members,)."""

        def of_one(values: Any, buffers: Any, inputs: Any, targets: Any) -> torch.Tensor:
            return loss_of(self.members[0], (values, buffers), inputs, targets)

        made: torch.Tensor = torch.func.vmap(of_one)(
            self.stacked, self.buffers, self.inputs, self.targets
        )
        return made


@law("W6 F1 F3 K1", ENSEMBLES, PRECISE, needs="torch.func.stack_module_state")
@part(4, least=8)
@given(data=st.data())
def test_ensembles_train_as_their_members(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """W6: stacked, nets train as each does alone: flags, losses, gradients, steps and buffers."""
    run: TrainingRun = plainly(
        data.draw(
            training_runs(
                device=device, dtype=dtype, names=ELEMENTWISE, max_depth=4, max_steps=2, learns=True
            )
        )
    )
    ensemble = Ensemble(dataclasses.replace(run, clearing="none"), device, dtype, 2)
    stacked, members = ensemble.stacked, ensemble.members
    for name, each in stacked.items():
        check_equal(each.requires_grad, name not in run.frozen, f"requires_grad of stacked {name}")
    before = snapshot({name: stacked[name] for name in run.frozen})
    for _ in range(run.steps):
        ensemble.optimizer.zero_grad(set_to_none=True)
        expected = [expected_of(member) for member in members]
        losses = ensemble.losses()
        losses.sum().backward()
        for place, member in enumerate(members):  # before the step: SGD's foreach one changes them
            for name, parameter in member.named.items():
                gradient = stacked[name].grad
                parameter.grad = None if gradient is None else gradient[place].clone()
        ensemble.optimizer.step()
        for place in range(len(members)):
            check_member(ensemble, place, float(losses[place].detach()), expected[place], dtype)
        check_unchanged(stacked, before, "frozen and stacked,")
    for member in members:
        for name in run.frozen:
            check_same_bits(member.named[name], member.before[name], f"frozen {name} of a member")


def check_member(
    ensemble: Ensemble, place: int, loss: float, expected: oracle.Expected, dtype: torch.dtype
) -> None:
    """One member, stepped with its part of the gradients, ends where its part of the stack is."""
    __tracebackhide__ = True
    member, stacked = ensemble.members[place], ensemble.stacked
    unit = float(torch.finfo(dtype).eps) * 1000 * expected.condition
    check_close(torch.tensor(loss), torch.tensor(expected.loss), f"loss {place}", unit, unit)
    check_gradients(member, expected, dtype)
    with torch.no_grad():
        member.loss()  # which counts the batch in the norms' statistics
    member.apply()
    for name, parameter in member.named.items():
        one = stacked[name].detach()[place]
        check_near(one, parameter.detach(), member.spec, f"{name} of member {place} after a step")
        with torch.no_grad():
            if parameter.requires_grad:
                parameter.copy_(one)
    for name, buffer in member.network.named_buffers():
        check_close(ensemble.buffers[name][place], buffer, f"{name} of member {place}", unit, unit)


@law("W6 F8", ENSEMBLES, "float32", needs="torch.func.stack_module_state")
def test_ensembles_refuse_masks_that_differ(device: str, dtype: torch.dtype) -> None:
    """W6: nets with masks that differ are not stacked, nor nets in train and in eval mode."""
    for name in ("weight", "bias"):
        nets = [torch.nn.Linear(2, 2, device=device) for _ in range(2)]
        getattr(nets[1], name).requires_grad_(False)
        stack: Any = torch.func.stack_module_state
        check_raises(RuntimeError, lambda: stack(nets), "masks that differ", "requires_grad")  # noqa: B023
        check_equal([each.requires_grad for each in nets[0].parameters()], [True, True], "the flags")
    norms = [torch.nn.BatchNorm1d(2, device=device).train(mode) for mode in (True, False)]
    check_raises(RuntimeError, lambda: stack(norms), "modes that differ", "mode")


@law("W6 F8 C5", ENSEMBLES, "float32", needs="torch.func.stack_module_state")
def test_stacks_are_apart_from_their_members(device: str, dtype: torch.dtype) -> None:
    """W6: a stack has memory and gradients of its own: what trains it leaves its members alone."""
    nets: List[Any] = [torch.nn.Linear(2, 2, device=device) for _ in range(2)]
    for net in nets:
        net.bias.requires_grad_(False)
    before = [snapshot(dict(net.named_parameters())) for net in nets]
    stacked, _ = torch.func.stack_module_state(nets)
    optimizer = torch.optim.SGD(list(stacked.values()), lr=0.5)
    for each in stacked.values():
        check(each.is_leaf, "what was stacked is no leaf")
    sum(each.sum() for each in stacked.values()).backward()  # type: ignore[union-attr]
    optimizer.step()
    check(stacked["bias"].grad is None, "what is frozen got a gradient")
    for net, bits in zip(nets, before):
        check_unchanged(dict(net.named_parameters()), bits, "after a step over the stack, a member's")
        check(net.weight.grad is None, "a member got the stack's gradient")
    for place, net in enumerate(nets):
        check_close(stacked["weight"][place], net.weight - 0.5, "the stack after a step", 1e-6, 1e-6)
