"""Long histories of one live model: after every event each tensor is where it must be."""

import copy
from typing import Any, Dict, FrozenSet, List, Optional, Tuple

import pytest
import torch
from hypothesis import seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from frostproof.properties.harness.core.bits import from_bits, read_bits
from frostproof.properties.harness.core.checks import (
    check,
    check_equal,
    check_same_bits,
    check_same_gradient,
    check_within,
    count_cases,
    fail,
    snapshot,
)
from frostproof.properties.harness.core.law import PRECISE, law
from frostproof.properties.harness.machine import running
from frostproof.properties.harness.reference import oracle
from frostproof.properties.harness.reference.update_rules import Rule, rule_for
from frostproof.properties.harness.running import workarounds
from frostproof.properties.harness.running.recording import recorded
from frostproof.properties.harness.running.trainer import Trainer
from frostproof.properties.harness.session import evidence
from frostproof.properties.test_optimizers import check_update
from frostproof.strategies import MLP, OptimizerSpec, TrainingRun, mlps

SPECS = (
    OptimizerSpec("SGD", (("lr", 0.02), ("momentum", 0.9), ("weight_decay", 0.1))),
    OptimizerSpec("Adam", (("lr", 0.02),)),
    OptimizerSpec("AdamW", (("lr", 0.02),)),
    OptimizerSpec("RMSprop", (("lr", 0.02), ("momentum", 0.5))),
    # not Adagrad: it makes its state when it is built, and lacks it for groups added later
    OptimizerSpec("Adamax", (("lr", 0.02), ("weight_decay", 0.1))),
)
LARGEST = 20.0  # gradients above are dropped before a step, so that values stay ordinary
PLACES = st.integers(0, 31)


class History(RuleBasedStateMachine):
    """A live model, and beside it what each of its tensors must hold.

    bits: of every parameter; gradients: their bits, or None; references: one rule
    for each parameter that the optimizer lists; frozen: names; copies: (tensor, bits) that
    must stand still; aliases: (detached tensor, name) that must follow.
    """

    device = "cpu"
    dtype = torch.float64
    trail: List[Any]  # (event, its arguments), for the program of a failing history

    def __init__(self) -> None:
        super().__init__()
        torch.set_grad_enabled(True)  # whatever the example before has left behind
        self.events = 0
        self.trail = evidence.Current.trail = []
        running.example()

    @initialize(
        network=mlps(max_depth=3, max_width=6, norms=False),
        spec=st.sampled_from(SPECS),
        late=st.integers(0, 2),
    )
    @recorded
    def begin(self, network: MLP, spec: OptimizerSpec, late: int) -> None:
        """A net, and an optimizer that lists all its parameters but the last few."""
        run = TrainingRun(network, optimizer=spec, batch=3, seed=network.seed)
        self.trainer = Trainer(run, self.device, self.dtype)
        self.network, self.named = self.trainer.network, self.trainer.named
        names = list(network.parameter_names())
        self.listed = names[: max(1, len(names) - late)]
        self.late = names[len(self.listed) :]
        self.optimizer = spec.build([self.named[name] for name in self.listed])
        self.references: Dict[str, Rule] = {name: self._fresh_rule(spec) for name in self.listed}
        self.spec = spec
        self.bits = snapshot(self.named)
        self.gradients: Dict[str, Optional[bytes]] = dict.fromkeys(names)
        self.frozen: FrozenSet[str] = frozenset()
        self.cuts: Tuple[int, ...] = ()
        self.aliases: List[Tuple[torch.Tensor, str]] = []
        self.copies: List[Tuple[torch.Tensor, bytes]] = []
        self.saved: Optional[Dict[str, Any]] = None
        self.saved_bits: Dict[str, bytes] = {}

    def _fresh_rule(self, spec: OptimizerSpec) -> Rule:
        found = rule_for(spec, self.dtype)
        assert found is not None
        return found

    def _name(self, place: int) -> str:
        names = self.trainer.run.network.parameter_names()
        return names[place % len(names)]

    # -- learning ----------------------------------------------------------------

    @rule()
    @recorded
    def backward(self) -> None:
        """One more backward: adds the oracle's gradient where one must arrive, and nowhere else."""
        run = self.trainer.run
        expected = oracle.expect(
            run.network,
            self.named,
            self.trainer.inputs,
            self.trainer.targets,
            frozen=self.frozen,
            cuts=self.cuts,
        )
        output = self.network(self.trainer.inputs, cuts=self.cuts)
        loss = torch.nn.functional.mse_loss(output, self.trainer.targets)
        arriving = set(expected.gradients) - {oracle.INPUTS}
        check_equal(loss.requires_grad, bool(arriving), "whether the loss requires grad")
        if loss.requires_grad:
            loss.backward()
        for name, parameter in self.named.items():
            old = self.gradients[name]
            if name not in arriving:
                self._check_gradient(name)
                continue
            if parameter.grad is None:
                fail(f"{name} is live and reached, but got no gradient")
            allowed = oracle.gradient_tolerance(self.dtype, expected, name)
            wanted = expected.gradients[name]
            if old is not None:
                held = oracle.as_float64(from_bits(old, parameter.shape, self.dtype))
                wanted = wanted + held
                if allowed is not None:
                    allowed = allowed + 8 * torch.finfo(self.dtype).eps * held.abs()
            if allowed is not None:
                what = f"gradient of {name}, beside what was there plus the reference,"
                check_within(parameter.grad, wanted, allowed, what)
            self.gradients[name] = read_bits(parameter.grad)

    @rule()
    @recorded
    def step(self) -> None:
        """A step: whatever is listed and has a gradient moves by the rule, frozen or not."""
        for parameter in self.named.values():
            if parameter.grad is not None and not bool((parameter.grad.abs() < LARGEST).all()):
                self._clear(True)
                return
        old = {name: oracle.as_float64(value) for name, value in self.named.items()}
        moving = [name for name in self.references if self.gradients[name] is not None]
        exact = {name: oracle.as_float64(self.named[name].grad) for name in moving}  # type: ignore[arg-type]
        workarounds.step(self.optimizer)
        for name in moving:
            where = f"{name} after a step"
            check_update(self.named[name], old[name], exact[name], self.references[name], where)
            self.bits[name] = read_bits(self.named[name])

    @rule(to_none=st.booleans())
    @recorded
    def clear(self, to_none: bool) -> None:
        """Clear all gradients, to None or to zeros."""
        self._clear(to_none)

    def _clear(self, to_none: bool) -> None:
        self.network.zero_grad(set_to_none=to_none)
        for name, parameter in self.named.items():
            if to_none or self.gradients[name] is None:
                self.gradients[name] = None
            else:
                self.gradients[name] = bytes(parameter.numel() * parameter.element_size())

    # without any gradient clip_grad_value_ raises in torch 2.13: "Expected !nested_tensorlist"
    @precondition(lambda self: any(self.gradients.values()))
    @rule(largest=st.sampled_from((0.5, 0.01)))
    @recorded
    def clip(self, largest: float) -> None:
        """Clip by value: each gradient is bounded, and none appears."""
        torch.nn.utils.clip_grad_value_(list(self.named.values()), largest)
        for name, parameter in self.named.items():
            old = self.gradients[name]
            if old is None or parameter.grad is None:
                continue
            with torch.no_grad():
                wanted = from_bits(old, parameter.shape, self.dtype).clamp_(-largest, largest)
            self.gradients[name] = read_bits(wanted)

    @rule(rate=st.sampled_from((0.005, 0.03)))
    @recorded
    def change_rate(self, rate: float) -> None:
        """Set the learning rate of every group."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for each in self.references.values():
            each.options["lr"] = rate

    @precondition(lambda self: self.late)
    @rule()
    @recorded
    def add_group(self) -> None:
        """Add the parameters that were left out, as a group of their own."""
        self.optimizer.add_param_group({"params": [self.named[name] for name in self.late]})
        for name in self.late:
            self.references[name] = self._fresh_rule(self.spec)
        self.late = []

    # -- freezing and cutting ----------------------------------------------------

    @rule(place=PLACES, flag=st.booleans(), how=st.booleans())
    @recorded
    def freeze_one(self, place: int, flag: bool, how: bool) -> None:
        """Freeze or unfreeze one parameter."""
        name = self._name(place)
        if how:
            self.named[name].requires_grad_(not flag)
        else:
            self.named[name].requires_grad = not flag
        self.frozen = self.frozen | {name} if flag else self.frozen - {name}

    @rule(place=PLACES, flag=st.booleans())
    @recorded
    def freeze_module(self, place: int, flag: bool) -> None:
        """Freeze or unfreeze one module and all below it."""
        modules = [module for module in self.network.modules() if list(module.parameters())]
        module = modules[place % len(modules)]
        inside = {id(parameter) for parameter in module.parameters()}
        names = {name for name, parameter in self.named.items() if id(parameter) in inside}
        module.requires_grad_(not flag)
        self.frozen = self.frozen | names if flag else self.frozen - names

    @rule(place=PLACES)
    @recorded
    def cut(self, place: int) -> None:
        """Cut at one position."""
        self.cuts = (place % (self.trainer.run.network.depth + 1),)

    @rule()
    @recorded
    def uncut(self) -> None:
        """Remove the cut."""
        self.cuts = ()

    # -- looking and copying -----------------------------------------------------

    @rule(place=PLACES)
    @recorded
    def take_alias(self, place: int) -> None:
        """A detached parameter: follows from now on."""
        name = self._name(place)
        self.aliases.append((self.named[name].detach(), name))

    @rule(place=PLACES)
    @recorded
    def take_clone(self, place: int) -> None:
        """A clone: stands still from now on."""
        name = self._name(place)
        self.copies.append((self.named[name].clone(), self.bits[name]))

    @rule()
    @recorded
    def fork(self) -> None:
        """A deep copy of the whole model: stands still from now on."""
        forked = dict(copy.deepcopy(self.network).named_parameters())
        for name, parameter in forked.items():
            check_equal(parameter.requires_grad, name not in self.frozen, f"forked {name} is live")
            self.copies.append((parameter, self.bits[name]))

    @rule()
    @recorded
    def save(self) -> None:
        """A deep copy of the state_dict."""
        self.saved = copy.deepcopy(self.network.state_dict())
        self.saved_bits = dict(self.bits)

    @precondition(lambda self: self.saved is not None)
    @rule()
    @recorded
    def load(self) -> None:
        """Load it back: values return, in place; flags, gradients and aliases are kept."""
        assert self.saved is not None
        self.network.load_state_dict(self.saved)
        self.bits = dict(self.saved_bits)

    @rule(place=PLACES)
    @recorded
    def replace(self, place: int) -> None:
        """Put a new Parameter in a place: the optimizer goes on with the old one."""
        name = self._name(place)
        old = self.named[name]
        new = torch.nn.Parameter(from_bits(self.bits[name], old.shape, self.dtype).to(old.device))
        for module in self.network.modules():
            for key, parameter in list(module._parameters.items()):
                if parameter is old:
                    setattr(module, key, new)
        self.named[name] = new
        self.gradients[name] = None
        self.frozen = self.frozen - {name}
        self.references.pop(name, None)
        self.late = [each for each in self.late if each != name]
        self.aliases = [(alias, owner) for alias, owner in self.aliases if owner != name]

    @rule(train=st.booleans())
    @recorded
    def switch(self, train: bool) -> None:
        """Switch to train or eval mode."""
        self.network.train(train)

    @rule(fails=st.booleans())
    @recorded
    def under_no_grad(self, fails: bool) -> None:
        """Run forward under no_grad, and leave it by its end or by an exception."""
        try:
            with torch.no_grad():
                output = self.network(self.trainer.inputs)
                check(not output.requires_grad, "an output under no_grad requires grad")
                check(not torch.is_grad_enabled(), "grad mode is on under no_grad")
                if fails:
                    raise KeyError("left by an exception")
        except KeyError:
            pass
        check(torch.is_grad_enabled(), "grad mode stays off after no_grad")

    # -- what holds after every event --------------------------------------------

    def _check_gradient(self, name: str) -> None:
        __tracebackhide__ = True
        check_same_gradient(self.named[name], self.gradients[name], f"gradient of {name}")

    @invariant()
    def all_is_where_it_must_be(self) -> None:
        """Values, gradients, flags, aliases and copies."""
        self.events += 1
        for name, parameter in self.named.items():
            check_same_bits(parameter, self.bits[name], name)
            check_equal(parameter.requires_grad, name not in self.frozen, f"{name} requires grad")
            self._check_gradient(name)
        for alias, name in self.aliases:
            check_same_bits(alias, self.bits[name], f"the detached alias of {name}")
        for tensor, bits in self.copies:
            check_same_bits(tensor, bits, "a clone or deep copy")

    def teardown(self) -> None:
        count_cases(1)


@pytest.mark.draws
@law("F1 F2 F3 F6 F7 F8 C4 C5 D3 K1", "a model of the documented semantics, event by event", PRECISE)
def test_histories(device: str, dtype: torch.dtype) -> None:
    """F1-F9, D3, C4, C5, K1: through long random histories every tensor is where it must be."""

    class OnDevice(History):
        pass

    OnDevice.device, OnDevice.dtype = device, dtype
    seed(evidence.Current.seed)(OnDevice)
    profile = settings.default
    assert profile is not None
    examples = max(5, profile.max_examples // 2)
    run_state_machine_as_test(OnDevice, settings=settings(profile, max_examples=examples))
