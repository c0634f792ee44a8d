"""A user's own model (--model): the laws of freezing, on random masks over its parameters."""

from typing import Callable, List, Sequence, Tuple

import pytest
import torch
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from frostproof.properties.harness.core.checks import (
    Tally,
    check,
    check_equal,
    check_same_bits,
    check_unchanged,
    count_cases,
    snapshot,
)
from frostproof.properties.harness.core.law import law
from frostproof.properties.harness.own import anatomy
from frostproof.properties.harness.own.findings import named
from frostproof.properties.harness.own.model import OwnModel, allowed, difference, off_its_step
from frostproof.properties.harness.session.evidence import Current
from frostproof.properties.harness.session.state import of
from frostproof.strategies import OptimizerSpec, freeze_masks, optimizers

DENSE = ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam")


@pytest.fixture
def own_model(request: pytest.FixtureRequest) -> OwnModel:
    """The user's model."""
    model: OwnModel = of(request.config).own.of("model", request)
    return model


@pytest.fixture
def model(own_model: OwnModel) -> OwnModel:
    """The user's model, as it came."""
    own_model.restore()
    return own_model


def explore(model: OwnModel, act: Callable[[st.DataObject], None]) -> None:
    """Run a law on random draws, seeded by the run, each from the model as it came."""
    __tracebackhide__ = True

    @settings(settings.default, database=None, print_blob=False)
    @seed(Current.seed)
    @given(data=st.data())
    def example(data: st.DataObject) -> None:
        before = Tally.assertions
        model.restore()
        act(data)
        count_cases(int(Tally.assertions > before))

    example()


def draw_mask(data: st.DataObject, model: OwnModel) -> Tuple[str, ...]:
    """The names to freeze, of those that can train."""
    return tuple(name for name in data.draw(freeze_masks(model.module)) if name in model.parameters)


def draw_optimizer(data: st.DataObject, model: OwnModel) -> OptimizerSpec:
    """An optimizer that takes the model's gradients."""
    if model.sparse:
        return OptimizerSpec("SGD", (("lr", data.draw(st.sampled_from((0.1, 0.01)))),))
    if model.complex:
        return OptimizerSpec(
            data.draw(st.sampled_from(("SGD", "Adam", "AdamW"))), (("foreach", False), ("lr", 0.01))
        )
    dtypes = {parameter.dtype for parameter in model.parameters.values()}
    dtype = min(dtypes, key=lambda kind: torch.finfo(kind).bits)
    device = next(iter(model.parameters.values())).device.type
    return data.draw(optimizers(names=DENSE, device=device, dtype=dtype))


class Trained:
    """Some steps over all parameters, the frozen ones listed too.

    eager: names whose state the optimizer made when it was built, as Adagrad does.
    """

    def __init__(self, model: OwnModel, spec: OptimizerSpec, steps: int) -> None:
        self.model = model
        self.optimizer = spec.build(list(model.parameters.values()))
        self.eager = self.with_state()
        for _ in range(steps):
            for parameter in model.parameters.values():
                parameter.grad = None
            model.backward()
            self.optimizer.step()

    def with_state(self) -> List[str]:
        """Names for which the optimizer holds state."""
        state = self.optimizer.state
        return [name for name, parameter in self.model.parameters.items() if state.get(parameter)]


def check_frozen(trained: Trained, frozen: Sequence[str], what: str) -> None:
    """Each frozen parameter has its bits, no gradient, no state."""
    __tracebackhide__ = True
    made = set(trained.with_state()) - set(trained.eager)
    for name in frozen:
        parameter = trained.model.parameters[name]
        check_same_bits(parameter, trained.model.bits[name], f"frozen {name} {what}")
        check(parameter.grad is None, f"frozen {name} {what}: got a gradient")
        check(name not in made, f"frozen {name} {what}: the optimizer made state for it")


@law("F1", "torch.nn documentation, Parameter.requires_grad")
def test_frozen_stay(model: OwnModel) -> None:
    """F1: a frozen parameter of the model keeps its bits, gets no gradient and no state."""

    def act(data: st.DataObject) -> None:
        mask = draw_mask(data, model)
        spec, steps = draw_optimizer(data, model), data.draw(st.integers(1, 3))
        model.freeze(mask)
        check_frozen(Trained(model, spec, steps), mask, f"after {steps} steps of {spec}")
        check_equal(
            [name for name, p in model.parameters.items() if not p.requires_grad],
            [name for name in model.parameters if name in mask],
            "what is frozen after training",
        )

    explore(model, act)


@law("F2", "torch.autograd documentation, requires_grad")
def test_gradients_do_not_depend_on_the_mask(model: OwnModel) -> None:
    """F2: the gradients of the others are those they have where nothing is frozen."""

    def act(data: st.DataObject) -> None:
        mask = draw_mask(data, model)
        model.freeze(mask)
        model.backward()
        for name, parameter in model.parameters.items():
            gradient = parameter.grad
            if name in mask:
                check(gradient is None, f"frozen {name}: got a gradient with {named(mask)} frozen")
                continue
            gap = difference(model.gradients[name], gradient)
            seen = (
                f"is off by {gap:.3g} of its largest value"
                if gap is not None
                else ("is missing (a reentrant checkpoint whose inputs are frozen loses it)")
            )
            if gap is None and gradient is not None:
                seen = "should not exist, as it does not with nothing frozen"
            check(
                gap is not None and gap <= allowed(parameter.dtype),
                f"the gradient of {name} {seen}; frozen: {named(mask) or 'nothing'}",
            )

    explore(model, act)


@law("F3", "torch.optim documentation, SGD")
def test_the_rest_trains(model: OwnModel) -> None:
    """F3: with plain SGD each other parameter moves by -lr * gradient, and nothing else moves."""

    def act(data: st.DataObject) -> None:
        mask = draw_mask(data, model)
        model.freeze(mask)
        model.backward()
        torch.optim.SGD(list(model.parameters.values()), lr=0.01).step()
        for name, parameter in model.parameters.items():
            gradient = parameter.grad
            if gradient is None or not parameter.numel():
                check_same_bits(parameter, model.bits[name], f"{name}, which got no gradient,")
                continue
            gap, limit = off_its_step(parameter, model.bits[name], gradient, 0.01)
            check(gap <= limit, f"{name} is off its SGD step by {gap:.3g} with {named(mask)} frozen")

    explore(model, act)


@law("F8", "torch.nn documentation, Module.requires_grad_")
def test_frozen_submodule_stays(model: OwnModel) -> None:
    """F8: requires_grad_(False) on a submodule freezes it whole; in eval mode its buffers stay too."""
    modules = dict(model.module.named_modules())
    paths = [path for path, owner in modules.items() if list(owner.parameters())]

    def act(data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(paths))
        part = modules[path]
        returned = part.requires_grad_(False)
        check(returned is part, "requires_grad_ returns its module")
        for owner in part.modules():
            owner.training = False
        inside = {id(parameter) for parameter in part.parameters()}
        frozen = tuple(name for name, p in model.parameters.items() if id(p) in inside)
        buffers = dict(part.named_buffers())
        buffers = {name: buffer for name, buffer in buffers.items() if buffer.layout is torch.strided}
        around = snapshot(buffers)
        trained = Trained(model, draw_optimizer(data, model), 2)
        what = f"after {path or 'the whole module'} was frozen"
        check_frozen(trained, frozen, what)
        now = dict(part.named_buffers())
        for name, buffer in buffers.items():
            if now.get(name) is not buffer and anatomy.unsaved(part, name):
                now[name] = buffer  # a table that was made anew
        check_unchanged(now, around, f"{what}, in eval mode, its buffer")

    explore(model, act)


@law("F5", "torch.autograd documentation, requires_grad")
def test_nothing_escapes(model: OwnModel) -> None:
    """F5: with the whole module frozen, the loss sends gradients to nothing but inputs."""
    model.module.requires_grad_(False)
    escaped = model.escaped()
    hidden = {id(p): name for name, p in anatomy.hidden_parameters(model.module).items()}
    names = [hidden[id(leaf)] for leaf in escaped if id(leaf) in hidden]
    others = [f"one of shape {tuple(leaf.shape)}" for leaf in escaped if id(leaf) not in hidden]
    seen = []
    if names:
        seen.append(
            f"{named(names)} lie outside named_parameters; register them (nn.ModuleList, "
            "nn.ParameterList, nn.Parameter)"
        )
    if others:
        seen.append(f"it depends on tensors that the module does not hold: {named(others)}")
    check(
        not escaped,
        f"the module is frozen, and the loss still sends gradients out: {'; '.join(seen)}",
    )
