"""Programs for the laws that compare two ways to train."""

import dataclasses
import functools
from typing import Any, Dict, Tuple

from frostproof.properties.harness.reference import oracle
from frostproof.properties.harness.reference.update_rules import allowed_error, rule_for
from frostproof.properties.harness.reproducer.case import Case
from frostproof.properties.harness.reproducer.networks import layers_slice
from frostproof.properties.harness.reproducer.registry import reproduces
from frostproof.properties.harness.reproducer.script import Script
from frostproof.properties.harness.reproducer.training import Recipe, options_text
from frostproof.properties.harness.running.trainer import Trainer
from frostproof.strategies import Cuts, OptimizerSpec, TrainingRun
from frostproof.strategies.optimizers import IMPLEMENTATIONS, implementations

FILE = "test_equivalence.py::"


def emit_both(
    script: Script,
    one: Recipe,
    other: Recipe,
    forward: Dict[str, Any],
    optimizer: Dict[str, Any],
) -> None:
    """Train ``net`` as one run says and the same net, ``twin``, as the other says.

    forward, optimizer: options of the second way's forward and optimizer.
    """
    one.network().data().before("start")
    script.add("twin = copy.deepcopy(net)")
    one.freeze().forward().optimizer()
    one.steps()
    script.add("net, twin = twin, net")
    other.freeze().forward(name="other", **forward).optimizer(**optimizer)
    other.steps()


def compare(script: Script, recipe: Recipe, what: str) -> None:
    """Both nets have the same bits."""
    shown = recipe.if_small(": {p.tolist()}, not {q.tolist()}")
    with script.block("for (name, p), q in zip(net.named_parameters(), twin.parameters()):"):
        script.check("repr(p.tolist()) == repr(q.tolist())", f"{{name}} {what}{shown}")


WAYS = {
    "left out": "ends otherwise when the frozen are left out of the optimizer",
    "detach": "ends otherwise when the net is detached after what was frozen",
    "no_grad": "ends otherwise when what was frozen runs under no_grad",
}


def ways_to_freeze(case: Case, script: Script, way: str) -> None:
    """A frozen prefix against another way to leave it alone."""
    network, spec, place = case.draws(None, OptimizerSpec("SGD", (("lr", 0.1),)), 1)
    if spec.needs_closure:
        spec = OptimizerSpec("SGD", (("lr", 0.1), ("momentum", 0.9)))
    prefix = tuple(name for layer in network.parameters_by_layer()[:place] for name in layer)
    base = TrainingRun(network, optimizer=spec, batch=4, steps=3, seed=network.seed)
    if way == "left out":
        run = dataclasses.replace(base, frozen=prefix, listed="trainable")
    else:
        run = dataclasses.replace(base, cuts=Cuts((place,), way))
    other = Recipe(script, case, run)
    frozen = Recipe(script, case, dataclasses.replace(base, frozen=prefix))
    emit_both(script, frozen, other, {}, {})
    compare(script, frozen, WAYS[way])
    script.add("net = twin")
    frozen.check_stays(frozen.frozen, "frozen {name}", "start")


for each in WAYS:
    reproduces(FILE + "test_ways_to_freeze_a_prefix")(functools.partial(ways_to_freeze, way=each))


@reproduces(FILE + "test_ways_to_freeze_a_prefix")
def on_features(case: Case, script: Script) -> None:
    """A frozen prefix against the tail alone, trained on what the prefix gives."""
    network, spec, place = case.draws(None, OptimizerSpec("SGD", (("lr", 0.1),)), 1)
    if spec.needs_closure:
        spec = OptimizerSpec("SGD", (("lr", 0.1), ("momentum", 0.9)))
    prefix = tuple(name for layer in network.parameters_by_layer()[:place] for name in layer)
    run = TrainingRun(network, frozen=prefix, optimizer=spec, batch=4, steps=3, seed=network.seed)
    frozen = Recipe(script, case, run)
    frozen.network().data()
    script.add("twin = copy.deepcopy(net)")
    frozen.freeze().forward().optimizer()
    frozen.steps()
    script.add("net, twin = twin, net")
    tail = Recipe(script, case, dataclasses.replace(run, listed="trainable"))
    tail.freeze()
    with script.block("with torch.no_grad():"):
        script.add(f"features = {layers_slice(network, 0, place)}(x)")
    tail.output = f"{layers_slice(network, place, network.depth)}(features)"
    tail.optimizer()
    tail.steps()
    compare(script, frozen, "ends otherwise when the tail is trained on what the frozen part gives")


def order_or_groups(case: Case, script: Script, groups: bool) -> None:
    """Another order of parameters, or groups."""
    (run,) = case.draws(None)
    if run.optimizer.needs_closure:
        run = dataclasses.replace(run, optimizer=OptimizerSpec("Adam", (("lr", 0.1),)))
    plain = Recipe(script, case, dataclasses.replace(run, groups=1))
    if groups:
        other = Recipe(script, case, dataclasses.replace(run, groups=2))
        emit_both(script, plain, other, {}, {})
        compare(script, plain, "ends otherwise when the parameters are split into groups")
    else:
        emit_both(script, plain, Recipe(script, case, run), {}, {"backwards": True})
        compare(script, plain, "ends otherwise when the parameters are listed in another order")


for each_way in (False, True):
    reproduces(FILE + "test_order_and_groups_do_not_matter")(
        functools.partial(order_or_groups, groups=each_way)
    )


@reproduces(FILE + "test_the_frozen_stay_in_every_implementation")
def every_implementation(case: Case, script: Script) -> None:
    """The same run by each implementation of the optimizer."""
    (run,) = case.draws(None)
    spec = run.optimizer
    if spec.needs_closure:
        spec = OptimizerSpec("Adam", (("lr", 0.1),))
    options = {key: value for key, value in spec.options if key not in ("foreach", "fused")}
    bare = OptimizerSpec(spec.name, tuple(sorted(options.items())))
    recipe = Recipe(script, case, dataclasses.replace(run, optimizer=bare))
    recipe.data()
    ways = [dict(IMPLEMENTATIONS[way]) for way in implementations(spec.name, case.device, case.dtype)]
    with script.block(f"for way in {ways}:"):
        recipe.network().freeze().forward()
        recipe.before()
        text = "".join(f", {option}={value!r}" for option, value in bare.options)
        recipe.optimizer(call=text + ", **way")
        emit_first_step(script, case, recipe)
        if run.steps > 1:
            recipe.steps(run.steps - 1)
        gets = recipe.gets()
        others = tuple(n for n in recipe.ordered(run.network.parameter_names()) if n not in gets)
        recipe.check_stays(others, f"{spec.name} {{way}}: {{name}}, frozen or cut off,")


def emit_first_step(script: Script, case: Case, recipe: Recipe) -> None:
    """The first step of each implementation against the rule, by the gradients of one."""
    trainer = Trainer(recipe.run, case.device, case.dtype)
    old = {name: oracle.as_float64(parameter) for name, parameter in trainer.named.items()}
    trainer.clear()
    trainer.backward()
    expected: Dict[str, Tuple[object, float]] = {}
    for name, parameter in trainer.named.items():
        rule = rule_for(trainer.spec, case.dtype)
        if rule is None or rule.roughness > 1e-3 or parameter.element_size() < 4:
            continue
        if parameter.grad is not None and name in trainer.listed:
            wanted = rule.step(old[name], oracle.as_float64(parameter.grad))
            room = float(allowed_error(rule, case.dtype, old[name], wanted).max())
            expected[recipe.names[name]] = (wanted.tolist(), room)
    recipe.step()
    if not expected or sum(value.numel() for value in old.values()) > 200:
        return
    script.note("expected", f"expected = {expected}")
    with script.block("for name, p in net.named_parameters():"):
        script.check(
            "name not in expected or ((p.cpu().double() - torch.tensor(expected[name][0], "
            "dtype=torch.float64)).abs() <= expected[name][1]).all()",
            "{way}: {name} is {p.tolist()} after a step, by its rule {expected[name][0]}",
        )


@reproduces(FILE + "test_step_takes_a_closure")
def step_takes_a_closure(case: Case, script: Script) -> None:
    """The same training with step(closure), and with step() after the closure."""
    spec, steps, recording = case.draws(OptimizerSpec("SGD", (("lr", 0.1),)), 1, True)
    if spec.needs_closure:
        spec = OptimizerSpec("SGD", (("lr", 0.1), ("momentum", 0.9)))
    script.add("ends, full = [], torch.full((2, 2), 0.75, device=device, dtype=dtype)")
    with script.block("def closure():"):
        script.add(
            "modes.append(torch.is_grad_enabled())",
            "live.grad = None",
            "loss = (live * live * live).sum() + frozen.sum()",
            "loss.requires_grad and loss.backward()",
            "return loss",
        )
    with script.block("for closed in (False, True):"):
        script.add(
            "live, frozen = nn.Parameter(full * 1), nn.Parameter(full * 1, requires_grad=False)",
            f"modes, optimizer = [], torch.optim.{spec.name}([live, frozen]{options_text(spec)})",
        )
        with script.block(f"for step in range(1, {steps + 1}):"):
            script.note("before", "before = (live.data**3).sum().item() + frozen.sum().item()")
            with script.block(f"with torch.set_grad_enabled({recording} or not closed):"):
                script.add("loss = optimizer.step(closure) if closed else closure()")
                script.add("closed or optimizer.step()")
            script.check("modes == [True] * step", "the closure was called in grad modes {modes}")
            script.check(
                "abs(loss.item() - before) <= 1e-5", "step returned {loss}, the loss was {before}"
            )
        script.add("ends.append(live.tolist())")
        script.check("frozen.tolist() == full.tolist()", "a frozen parameter went to {frozen.tolist()}")
    script.check("ends[0] == ends[1]", "with a closure it ends at {ends[1]}, without at {ends[0]}")
