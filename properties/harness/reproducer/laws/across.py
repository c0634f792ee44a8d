"""Programs for the laws across ways of running a net, devices and processes."""

from typing import Dict

from frostproof.properties.harness.core import evidence
from frostproof.properties.harness.core.checks import LawBroken
from frostproof.properties.harness.reference import oracle
from frostproof.properties.harness.reproducer.case import Case
from frostproof.properties.harness.reproducer.laws.cut import GRADIENTS
from frostproof.properties.harness.reproducer.laws.optimizers import emit_gradient_check
from frostproof.properties.harness.reproducer.registry import reproduces
from frostproof.properties.harness.reproducer.script import Script
from frostproof.properties.harness.reproducer.training import Recipe, options_text
from frostproof.properties.harness.running.call_modes import (
    Compile,
    Eager,
    FunctionalCall,
    can_compile,
    can_transform,
)
from frostproof.properties.harness.running.trainer import Trainer
from frostproof.properties.test_across import check_alike, compiled_runs, on_cpu, varied_runs
from frostproof.properties.test_gradients import expected_of
from frostproof.strategies import TrainingRun

FILE = "test_across.py::"
FUNCTIONAL = "functional_call(Whole(module), {values}, (x,))"
VALUES = '{f"net.{key}": value for key, value in net.state_dict(keep_vars=True).items()}'


def emit_functional(script: Script, recipe: Recipe) -> None:
    """From here on ``net`` is a copy that trains, and ``module`` is run with the copy's values."""
    script.add("module, net = net, copy.deepcopy(net)")
    with script.block("class Whole(nn.Module):", name="Whole"):
        with script.block("def __init__(self, net):"):
            script.add("super().__init__()", "self.net = net")
        with script.block("def forward(self, x):"):
            script.add("net = self.net", f"return {recipe.output}")


def emit_way(script: Script, recipe: Recipe, way: str) -> None:
    """Make the recipe's output that of a way of running the net."""
    if way == "checkpoint":
        script.add("from torch.utils.checkpoint import checkpoint")
        recipe.output = f"checkpoint(lambda x: {recipe.output}, x, use_reentrant=False)"
    elif way == "functional_call":
        where = "torch.func" if can_transform() else "torch.nn.utils.stateless"
        script.add(f"from {where} import functional_call")
        emit_functional(script, recipe)
        recipe.output = FUNCTIONAL.format(values=VALUES)
    elif way == "compiled":
        script.add(f'compiled = torch.compile(lambda x: {recipe.output}, backend="eager")')
        recipe.output = "compiled(x)"


def emit_training(script: Script, recipe: Recipe, name: str, way: str) -> None:
    """A function that trains a new net in a way: its first gradients, and its values at the end."""
    with script.block(f"def {name}():", name=name):
        recipe.network().freeze().forward()
        emit_way(script, recipe, way)
        if way == "functional_call":
            script.note("called", "called = repr([p.tolist() for p in module.parameters()])")
        recipe.optimizer()
        recipe.step()
        script.add(f"first = {GRADIENTS}")
        if recipe.run.steps > 1:
            recipe.steps(recipe.run.steps - 1)
        if way == "functional_call":
            script.check(
                "repr([p.tolist() for p in module.parameters()]) == called",
                "the module that was only called has moved",
            )
            script.check(
                "all(p.grad is None for p in module.parameters())",
                "the module that was only called has gradients",
            )
        script.add("return first, {name: p.tolist() for name, p in net.named_parameters()}")


def emit_comparison(script: Script, case: Case, run: TrainingRun, way: str) -> None:
    """The run in a way and plainly."""
    recipe = Recipe(script, case, run)
    recipe.data()
    emit_training(script, recipe, "plain", "again")
    emit_training(script, recipe, "other", way)
    script.add("(gradients, values), (other_gradients, other_values) = plain(), other()")
    with script.block("for name in values:"):
        for what, one, two in (
            ("gradient", "gradients", "other_gradients"),
            ("value at the end", "values", "other_values"),
        ):
            script.check(
                f"repr({one}[name]) == repr({two}[name])",
                f"{way}: {what} of {{name}} is {{{two}[name]}}, plainly {{{one}[name]}}",
            )


@reproduces(FILE + "test_other_ways_train_alike")
def other_ways(case: Case, script: Script) -> None:
    """One way of running a net against the plain call."""
    (run,) = case.draws(None)
    emit_comparison(script, case, run, case["way"])


def compiled(case: Case, script: Script) -> None:
    """A compiled net against the plain one: the first whose compiling goes wrong now."""
    runs = compiled_runs(evidence.Current.seed)
    for run in runs:
        try:
            trainers = [kind(run, case.device, case.dtype) for kind in (Eager, Compile)]
            check_alike(trainers[0], trainers[1], "compiled")
        except Exception:
            break
    emit_comparison(script, case, run, "compiled")


def transformed(case: Case, script: Script) -> None:
    """torch.func.grad against the reference."""
    (run,) = case.draws(None)
    recipe = Recipe(script, case, run).setup(optimizer=False)
    script.add("from torch.func import functional_call, grad")
    emit_functional(script, recipe)
    with script.block("def loss(live, rest):"):
        script.add("values = {**held, **rest}")
        script.add("values.update({key: live[name] for key, name in owner.items() if name in live})")
        script.add(f"output = {FUNCTIONAL.format(values='values')}")
        script.add("return nn.functional.mse_loss(output, target)")
    script.add(f"held = {VALUES}")
    script.add("names = {id(p): name for name, p in net.named_parameters()}")
    script.add("owner = {key: names[id(p)] for key, p in held.items() if id(p) in names}")
    script.add("rest = {key: value for key, value in held.items() if key not in owner}")
    script.add("live = {name: p for name, p in net.named_parameters() if p.requires_grad}")
    with script.block("with torch.no_grad():"):
        script.add("found = grad(loss)(live, rest)")
    unfrozen = recipe.ordered(run.unfrozen())
    script.check(f"sorted(found) == sorted({unfrozen})", "torch.func.grad gave {sorted(found)}")
    trainer = FunctionalCall(run, case.device, case.dtype)
    expected, seen = expected_of(trainer), trainer.gradients()
    for name in run.unfrozen():
        shown, place = recipe.names[name], recipe.place(name)
        if name not in expected.gradients:
            script.check(f'not found["{shown}"].any()', f"{shown}, cut off, has a gradient")
            continue
        script.add(f'{place}.grad = found["{shown}"]')
        parameter = trainer.named[name]
        parameter.grad = seen.get(name)
        emit_gradient_check(script, place, shown, parameter, expected, name)


if can_transform():
    reproduces(FILE + "test_transformed_gradients")(transformed)
if can_compile():
    reproduces(FILE + "test_compiled_nets_train_alike")(compiled)


def rooms(run: TrainingRun, case: Case) -> Dict[str, float]:
    """How far gradients on two devices may lie apart, by name; generous after the first step."""
    trainer = Trainer(on_cpu(run), "cpu", case.dtype)
    found: Dict[str, float] = {}
    for _ in range(run.steps):
        expected = expected_of(trainer)
        for name in run.gets_gradient():
            room = oracle.gradient_tolerance(case.dtype, expected, name)
            apart = float("inf") if room is None else 2 * float(room.max())
            found[name] = max(found.get(name, 0.0), apart)
        try:
            trainer.step()
        except LawBroken:
            break
    return found


@reproduces(FILE + "test_devices_train_alike")
def devices(case: Case, script: Script) -> None:
    """The same run on the CPU and on the device, gradients and values compared at each step."""
    (run,) = case.draws(None)
    recipe = Recipe(script, case, run)
    with script.block("def side(device, options):"):
        recipe.network().data().freeze().forward()
        recipe.optimizer(call=", **options")
        if recipe.output.startswith("forward("):
            script.add("return net, x, target, optimizer, forward")
        else:
            script.add(f"return net, x, target, optimizer, lambda net, x: {recipe.output}")
    here, there = (options_text(each.optimizer) for each in (on_cpu(run), recipe.run))
    script.add(f'sides = [side("cpu", dict({here[2:]})), side(device, dict({there[2:]}))]')
    allowed = {recipe.names[name]: room for name, room in rooms(run, case).items()}
    script.note("allowed", f"allowed = {allowed}")
    pairs = "zip(sides[0][0].named_parameters(), sides[1][0].parameters())"
    with script.block(f"for step in range({run.steps}):"):
        with script.block("for net, x, target, optimizer, run in sides:"):
            recipe.output = "run(net, x)"
            recipe.clear()
            recipe.backward()
        with script.block(f"for (name, p), q in {pairs}:"):
            script.check(
                "(p.grad is None) == (q.grad is None)", "{name} has a gradient on one device only"
            )
            if run.clearing != "keep":
                script.check(
                    "p.grad is None or (p.grad - q.grad.cpu()).abs().max() <= allowed[name]",
                    "gradient of {name}: {p.grad.tolist()} on cpu, {q.grad.tolist()} on {device}",
                )
            with script.block("if p.grad is not None:"):
                script.add("q.grad.copy_(p.grad)")
        with script.block("for net, x, target, optimizer, run in sides:"):
            recipe.apply()
        with script.block(f"for (name, p), q in {pairs}:"):
            script.check(
                "((p - q.cpu()).abs() <= 1e-3 * (1e-3 + p.abs())).all()",
                "{name}: {p.tolist()} on cpu, {q.tolist()} on {device}",
            )
            script.check(
                "p.grad is not None or (p == q.cpu()).all()",
                "{name}, frozen or cut off: {p.tolist()} on cpu, {q.tolist()} on {device}",
            )
            with script.block("with torch.no_grad():"):
                script.add("q.copy_(p)")


@reproduces(FILE + "test_processes_train_alike")
def processes(case: Case, script: Script) -> None:
    """One text, run here and in a new process."""
    runs = varied_runs(evidence.Current.seed)
    text = str(case.seen)
    run: TrainingRun = next((each for each in runs if repr(each) in text), runs[0])
    inner = Script([])
    inner.header = script.header
    inner.add("torch.set_num_threads(1)")  # sums of several threads may round otherwise
    Recipe(inner, case, run).setup().steps()
    inner.add("values = repr([p.tolist() for p in net.parameters()])")
    script.add(f'code = """{inner.text()}"""', "exec(code)")
    script.add("import subprocess")
    script.add(
        'command = [sys.executable, "-c", code + "print(values)"]',
        "other = subprocess.run(command, capture_output=True, text=True)",
    )
    script.check("other.stdout.strip() == values", "another process ends with other bits")
