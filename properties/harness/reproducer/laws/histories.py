"""Programs for histories: the events one after the other, and what must hold at the end."""

import contextlib
import copy
import dataclasses
from typing import Any, Dict, List, Optional, Tuple

import torch

from frostproof.properties.harness.core.bits import from_bits
from frostproof.properties.harness.reference import oracle
from frostproof.properties.harness.reference.update_rules import allowed_error
from frostproof.properties.harness.reproducer.case import Case
from frostproof.properties.harness.reproducer.laws.cut import GRADIENTS
from frostproof.properties.harness.reproducer.laws.optimizers import furthest
from frostproof.properties.harness.reproducer.networks import (
    emit_forward,
    emit_network,
    layers_slice,
    starts,
)
from frostproof.properties.harness.reproducer.registry import reproduces
from frostproof.properties.harness.reproducer.script import Script
from frostproof.properties.harness.reproducer.training import Recipe, options_text
from frostproof.properties.test_histories import LARGEST, History
from frostproof.strategies import MLP, Cuts, TrainingRun

TEST = "test_histories.py::test_histories"


class Teller:
    """Emits events while a live history goes along: it knows what each event meets."""

    def __init__(self, script: Script, case: Case) -> None:
        class Live(History):
            device, dtype = case.device, case.dtype

        self.script, self.case = script, case
        self.live = Live()
        self.live.trail = []
        self.recipe: Recipe
        self.aliases = self.copies = self.forwards = 0
        self.output: Dict[Tuple[int, ...], str] = {}
        self.kept: List[Tuple[str, str]] = []  # (expression, expected expression)

    @property
    def network(self) -> MLP:
        """The description of the live net."""
        return self.live.trainer.run.network

    def place(self, name: str) -> str:
        """A parameter as an expression."""
        return self.recipe.place(name)

    def places(self, names: Any) -> str:
        """A list of parameters as an expression."""
        return "[" + ", ".join(self.place(name) for name in names) + "]"

    # events

    def tell(self, event: str, arguments: Dict[str, Any]) -> None:
        """Emit one event."""
        getattr(self, f"_{event}")(**arguments)

    def follow(self, event: str, arguments: Dict[str, Any]) -> None:
        """Let the live history take the event; a law that it breaks is the program's to show."""
        with contextlib.suppress(Exception):
            getattr(self.live, event)(**arguments)

    def _begin(self, network: MLP, spec: Any, late: int) -> None:
        run = TrainingRun(network, optimizer=spec, batch=3, seed=network.seed)
        self.recipe = Recipe(self.script, self.case, run)
        emit_network(self.script, network, self.case.dtype)
        self.recipe.data()
        names = list(network.parameter_names())
        listed = names[: max(1, len(names) - late)]
        self.script.note(
            "optimizer",
            f"optimizer = torch.optim.{spec.name}({self.places(listed)}{options_text(spec)})",
        )

    def forward(self, cuts: Tuple[int, ...]) -> str:
        """The output with these cuts."""
        if cuts not in self.output:
            self.forwards += 1
            name = f"forward{self.forwards}"
            self.output[cuts] = emit_forward(self.script, self.network, Cuts(cuts), name=name)
        return self.output[cuts]

    def reached(self) -> List[str]:
        """The names that a backward now gives a gradient."""
        live = self.network.reached(self.live.cuts) - self.live.frozen
        return [name for name in self.network.parameter_names() if name in live]

    def _backward(self) -> None:
        loss = f"nn.functional.mse_loss({self.forward(self.live.cuts)}, target)"
        if self.reached():
            self.script.add(f"{loss}.backward()")
        else:
            self.script.check(f"not {loss}.requires_grad", "a loss that reaches nothing requires grad")

    def too_large(self) -> bool:
        """Whether the next step is replaced by clearing."""
        gradients = [p.grad for p in self.live.named.values() if p.grad is not None]
        return any(not bool((gradient.abs() < LARGEST).all()) for gradient in gradients)

    def _step(self) -> None:
        if self.too_large():
            self._clear(True)
        else:
            self.recipe.apply()

    def _clear(self, to_none: bool) -> None:
        self.script.add(f"net.zero_grad(set_to_none={to_none})")

    def _clip(self, largest: float) -> None:
        self.script.add(f"nn.utils.clip_grad_value_(list(net.parameters()), {largest})")

    def _change_rate(self, rate: float) -> None:
        with self.script.block("for group in optimizer.param_groups:"):
            self.script.add(f'group["lr"] = {rate}')

    def _add_group(self) -> None:
        self.script.add(f'optimizer.add_param_group({{"params": {self.places(self.live.late)}}})')

    def _freeze_one(self, place: int, flag: bool, how: bool) -> None:
        where = self.place(self.live._name(place))
        self.script.add(
            f"{where}.requires_grad_({not flag})" if how else f"{where}.requires_grad = {not flag}"
        )

    def _freeze_module(self, place: int, flag: bool) -> None:
        modules = [
            name for name, module in self.live.network.named_modules() if list(module.parameters())
        ]
        self.script.add(f"{self.module(modules[place % len(modules)])}.requires_grad_({not flag})")

    def module(self, name: str) -> str:
        """A module of the live net as an expression."""
        network = self.network
        for index in range(network.depth):
            prefix = network.prefix(index)
            if name == f"{prefix}.linear":
                return f"net[{starts(network)[index]}]"
            if name == prefix:
                return layers_slice(network, index, index + 1)
            if network.nested and name == prefix.rpartition(".")[0]:
                return layers_slice(network, index, min(index + 2, network.depth))
        return "net"

    def _cut(self, place: int) -> None:
        pass  # the next forward cuts

    def _uncut(self) -> None:
        pass

    def _take_alias(self, place: int) -> None:
        self.aliases += 1
        name = f"alias{self.aliases}"
        where = self.place(self.live._name(place))
        self.script.add(f"{name} = {where}.detach()")
        self.kept.append((name, f"repr({where}.tolist())"))

    def _keep(self, name: str, made: str, source: str) -> None:
        self.script.note(f"{name}_values", f"{name}_values = repr({source}.tolist())")
        self.script.note(name, f"{name} = {made}")
        self.kept.append((name, f"{name}_values"))

    def _take_clone(self, place: int) -> None:
        self.copies += 1
        where = self.place(self.live._name(place))
        self._keep(f"copy{self.copies}", f"{where}.clone()", where)

    def _fork(self) -> None:
        self.copies += 1
        fork = f"fork{self.copies}"
        self.script.note(
            f"{fork}_values",
            f"{fork}_values = {{name: repr(p.tolist()) for name, p in net.named_parameters()}}",
        )
        self.script.add(f"{fork} = copy.deepcopy(net)")
        self.script.check(
            f"[p.requires_grad for p in {fork}.parameters()]"
            " == [p.requires_grad for p in net.parameters()]",
            "deepcopy changed what is frozen",
        )
        self.kept.append(
            (
                f"[*{fork}.named_parameters()]",
                f"{fork}_values",
            )
        )

    def _save(self) -> None:
        self.script.add("saved = copy.deepcopy(net.state_dict())")
        self.script.note(
            "saved_values",
            "saved_values = {name: repr(p.tolist()) for name, p in net.named_parameters()}",
        )

    def _load(self) -> None:
        self.script.add("net.load_state_dict(saved)")

    def _replace(self, place: int) -> None:
        name = self.live._name(place)
        where = self.place(name)
        self.script.add(
            f"new = nn.Parameter(torch.tensor({where}.tolist(), dtype=dtype, device=device))"
        )
        kind = name.rpartition(".")[2]
        for index, own in enumerate(self.network.parameters_by_layer()):
            if name in own:
                self.script.add(f"net[{starts(self.network)[index]}].{kind} = new")
        self.kept = [pair for pair in self.kept if where + "." not in pair[1]]

    def _switch(self, train: bool) -> None:
        self.script.add(f"net.train({train})")

    def _under_no_grad(self, fails: bool) -> None:
        output = self.forward(())
        # one block: a program may end at a check inside it
        leaving = "contextlib.suppress(KeyError), " if fails else ""
        with self.script.block(f"with {leaving}torch.no_grad():"):
            self.script.check(f"not {output}.requires_grad", "an output under no_grad requires grad")
            self.script.check("not torch.is_grad_enabled()", "grad mode is on under no_grad")
            self.script.add('raise KeyError("left by an exception")' if fails else output)
        self.script.check("torch.is_grad_enabled()", "grad mode stays off after no_grad")

    # what must hold at the end

    def snapshot(self) -> None:
        """The values and gradients before the last event."""
        self.recipe.before()
        self.script.note("gradients", f"gradients = {GRADIENTS}")

    def values(self, event: str, names: List[str]) -> None:
        """Every value that no step has moved is as it was, or as it was saved."""
        kept = tuple(self.recipe.names[name] for name in names)
        before = "saved_values" if event == "load" else "before"
        self.recipe.check_stays(kept, f"{{name}}, in the event {event},", before)

    def end(self, event: str, arguments: Dict[str, Any]) -> None:
        """Emit the last event and the checks after it."""
        everything = list(self.network.parameter_names())
        live = self.live
        event_is = "clear" if event == "step" and self.too_large() else event
        stepping = [n for n in everything if n in live.references and live.gradients[n] is not None]
        moving = stepping if event_is == "step" else []
        old = {name: oracle.as_float64(p) for name, p in live.named.items()}
        expected: Dict[str, Tuple[torch.Tensor, torch.Tensor]] = {}
        for name in moving:
            rule, gradient = copy.deepcopy(live.references[name]), live.named[name].grad
            assert gradient is not None
            wanted = rule.step(old[name], oracle.as_float64(gradient))
            expected[name] = wanted, allowed_error(rule, self.case.dtype, old[name], wanted)
        held = dict(live.gradients)
        arriving = self.reached() if event == "backward" else []
        reference: Optional[oracle.Expected] = None
        if event == "backward":
            reference = oracle.expect(
                self.network,
                live.named,
                live.trainer.inputs,
                live.trainer.targets,
                frozen=live.frozen,
                cuts=live.cuts,
            )
        self.snapshot()
        self.tell(event, arguments)
        self.follow(event, arguments)
        self.values(event, [name for name in everything if name not in moving])
        for name in moving:
            self.near(name, self.place(name), live.named[name], *expected[name], f"after {event}")
        for name in arriving:
            assert reference is not None
            self.script.check(f"{self.place(name)}.grad is not None", f"{name} got no gradient")
            room = oracle.gradient_tolerance(self.case.dtype, reference, name)
            if room is None:
                continue
            wanted, bits = reference.gradients[name], held[name]
            if bits is not None:
                was = oracle.as_float64(from_bits(bits, live.named[name].shape, self.case.dtype))
                room = room + 8 * torch.finfo(self.case.dtype).eps * was.abs()
                wanted = wanted + was
            gradient = live.named[name].grad
            self.near(name, f"{self.place(name)}.grad", gradient, wanted, room, "gradient")
        self.script.run = dataclasses.replace(
            live.trainer.run, frozen=tuple(sorted(live.frozen)), cuts=Cuts(live.cuts)
        )
        self.gradients(event_is, arguments, everything, arriving)
        flags = [name not in live.frozen for name in everything]
        self.script.check(
            f"[p.requires_grad for p in net.parameters()] == {flags}",
            f"after {event} requires_grad is {{[p.requires_grad for p in net.parameters()]}}",
        )
        self.companions()

    def near(
        self,
        name: str,
        place: str,
        now: Optional[torch.Tensor],
        wanted: torch.Tensor,
        room: torch.Tensor,
        what: str,
    ) -> None:
        """The element that is furthest off is near its expected value."""
        worst = furthest(now, wanted, room)[1] if now is not None else 0
        number = wanted.flatten()[worst].item()
        allowed = 4 * room.flatten()[worst].item()  # each event before had its own error
        self.script.check_after(
            f"got = {place}.flatten()[{worst}].item()",
            f"abs(got - {number!r}) <= {allowed:.3g}",
            f"{self.recipe.names[name]}, element {worst}, {what}: {{got}}, expected {number!r}",
        )

    def gradients(
        self, event: str, arguments: Dict[str, Any], everything: List[str], arriving: List[str]
    ) -> None:
        """Every gradient that the last event may not touch is as it was."""
        replaced = [self.live._name(arguments["place"])] if event == "replace" else []
        rest = [name for name in everything if name not in arriving and name not in replaced]
        names = tuple(self.recipe.names[name] for name in rest)
        shown = "p.grad if p.grad is None else p.grad.tolist()"
        if event == "clear" and arguments.get("to_none", True):
            self.recipe.each(names, "p.grad is None", "{name} has a gradient after clearing")
        elif event == "clear":
            self.recipe.each(
                names, "p.grad is None or not p.grad.any()", "{name} has a gradient after clearing"
            )
        elif event == "clip":
            bound = arguments["largest"]
            self.recipe.each(
                names,
                "(p.grad is None) == (gradients[name] is None) and (p.grad is None or repr("
                "torch.tensor(gradients[name], dtype=dtype, device=device)"
                f".clamp(-{bound}, {bound}).tolist()) == repr(p.grad.tolist()))",
                "{name}: the clipped gradient is {p.grad}, it was {gradients[name]}",
            )
        else:
            self.recipe.each(
                names,
                f"repr({shown}) == repr(gradients[name])",
                f"{{name}}: {event} changed the gradient {{gradients[name]}} to {{p.grad}}",
            )
        for name in replaced:
            self.script.check(f"{self.place(name)}.grad is None", "a new parameter has a gradient")

    def companions(self) -> None:
        """Aliases follow, copies stand still."""
        for expression, wanted in self.kept:
            if expression.startswith("["):
                with self.script.block(f"for name, p in {expression}:"):
                    self.script.check(
                        f"repr(p.tolist()) == {wanted}[name]", "{name} of a deep copy changed"
                    )
                continue
            what = "does not follow" if expression.startswith("alias") else "changed"
            self.script.check(f"repr({expression}.tolist()) == {wanted}", f"{expression} {what}")


@reproduces(TEST)
def history(case: Case, script: Script) -> None:
    """Each event in turn; the checks that hold after the last."""
    teller = Teller(script, case)
    events = case["events"]
    for place, (event, arguments) in enumerate(events):
        if place == len(events) - 1 and place:
            teller.end(event, arguments)
            return
        teller.tell(event, arguments)
        teller.follow(event, arguments)
    everything = tuple(teller.recipe.names.values())
    teller.recipe.each(
        tuple(dict.fromkeys(everything)), "p.requires_grad and p.grad is None", "{name} is not fresh"
    )
