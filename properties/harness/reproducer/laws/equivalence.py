"""Programs for the laws that compare two ways to train."""

import dataclasses
from typing import Dict, Tuple

from properties.harness import oracle
from properties.harness.reproducer.case import Case
from properties.harness.reproducer.networks import layers_slice
from properties.harness.reproducer.registry import reproduces
from properties.harness.reproducer.script import Script
from properties.harness.reproducer.training import Recipe
from properties.harness.trainer import Trainer
from properties.harness.update_rules import allowed_error, rule_for
from strategies import Cuts, OptimizerSpec, TrainingRun
from strategies.optimizers import IMPLEMENTATIONS, implementations

FILE = "test_equivalence.py::"


def emit_run(script: Script, recipe: Recipe, name: str, **optimizer: object) -> None:
    """A function that trains a new net as the run says."""
    with script.block(f"def {name}():", name=name):
        recipe.network().freeze().forward().optimizer(**optimizer)
        recipe.steps()
        script.add("return net")


def compare(script: Script, one: str, other: str, what: str) -> None:
    """Both functions end with the same bits."""
    with script.block(f"for (name, p), q in zip({one}().named_parameters(), {other}().parameters()):"):
        script.check(
            "repr(p.tolist()) == repr(q.tolist())",
            f"{{name}}, {what}: {{q.tolist()}}, not {{p.tolist()}}",
        )


@reproduces(FILE + "test_ways_to_freeze_a_prefix")
def ways_to_freeze(case: Case, script: Script) -> None:
    """A frozen prefix against other ways to leave it alone."""
    network, spec, place = case.draws(None, OptimizerSpec("SGD", (("lr", 0.1),)), 1)
    if spec.needs_closure:
        spec = OptimizerSpec("SGD", (("lr", 0.1), ("momentum", 0.9)))
    prefix = tuple(name for layer in network.parameters_by_layer()[:place] for name in layer)
    base = TrainingRun(network, optimizer=spec, batch=4, steps=3, seed=network.seed)
    frozen = Recipe(script, case, dataclasses.replace(base, frozen=prefix))
    frozen.data()
    emit_run(script, frozen, "frozen_prefix")
    ways: Dict[str, Tuple[str, TrainingRun]] = {
        "left_out": (
            "left out of the optimizer",
            dataclasses.replace(base, frozen=prefix, listed="trainable"),
        ),
        "detached": ("detached after", dataclasses.replace(base, cuts=Cuts((place,)))),
        "without_grad": (
            "run under no_grad",
            dataclasses.replace(base, cuts=Cuts((place,), "no_grad")),
        ),
    }
    for name, (what, run) in ways.items():
        emit_run(script, Recipe(script, case, run), name)
        compare(script, "frozen_prefix", name, f"{what} against frozen")
    tail = Recipe(script, case, ways["left_out"][1])
    with script.block("def on_features():", name="on_features"):
        tail.network().freeze()
        with script.block("with torch.no_grad():"):
            script.add(f"features = {layers_slice(network, 0, place)}(x)")
        tail.output = f"{layers_slice(network, place, network.depth)}(features)"
        tail.optimizer()
        tail.steps()
        script.add("return net")
    compare(script, "frozen_prefix", "on_features", "trained on features against frozen")
    frozen.network()
    frozen.before()
    script.note("net", "net = frozen_prefix()")
    frozen.check_stays(frozen.frozen, "frozen {name}")


@reproduces(FILE + "test_order_and_groups_do_not_matter")
def order_and_groups(case: Case, script: Script) -> None:
    """Another order of parameters, and groups."""
    (run,) = case.draws(None)
    if run.optimizer.needs_closure:
        run = dataclasses.replace(run, optimizer=OptimizerSpec("Adam", (("lr", 0.1),)))
    plain = Recipe(script, case, dataclasses.replace(run, groups=1))
    plain.data()
    emit_run(script, plain, "plain")
    emit_run(script, Recipe(script, case, run), "backwards", backwards=True)
    compare(script, "plain", "backwards", "parameters in another order")
    emit_run(script, Recipe(script, case, dataclasses.replace(run, groups=2)), "split")
    compare(script, "plain", "split", "parameters split into groups")


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
