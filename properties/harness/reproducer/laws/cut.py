"""Programs for the laws of cuts."""

import dataclasses
from typing import List

from frostproof.properties.harness.reproducer.case import Case
from frostproof.properties.harness.reproducer.registry import reproduces
from frostproof.properties.harness.reproducer.script import Script
from frostproof.properties.harness.reproducer.training import Recipe
from frostproof.properties.test_cut import MODES, _run
from frostproof.strategies import MLP, Cuts, Layer

FILE = "test_cut.py::"
GRADIENTS = (
    "{name: p.grad if p.grad is None else p.grad.tolist() for name, p in net.named_parameters()}"
)


def emit_second(script: Script, one: Recipe, other: Recipe) -> None:
    """The gradients of ``net`` under one cut as ``cut``; then those under another in place."""
    script.note("cut", f"cut = {GRADIENTS}")
    with script.block("for p in net.parameters():"):
        script.add("p.grad = None")
    other.backward()


@reproduces(FILE + "test_gradients_stop_at_the_cut")
def gradients_stop(case: Case, script: Script) -> None:
    """Gradients of the cut and the uncut net."""
    network, cuts = case.drawn
    one = Recipe(script, case, _run(network, cuts))
    other = Recipe(script, case, _run(network, Cuts()))
    one.network().data()
    one.forward()
    other.forward(name="other")
    script.check(
        f"repr({one.output}.tolist()) == repr({other.output}.tolist())",
        "the cut net gives another output than the uncut one",
    )
    one.backward()
    before = {name for names in network.parameters_by_layer()[: max(cuts.positions)] for name in names}
    blocked = one.ordered(before)
    after = tuple(name for name in one.ordered(network.parameter_names()) if name not in blocked)
    where = f"the cut at {cuts.positions}"
    shown = one.if_small(": {p.grad.tolist()}")
    one.each(blocked, "p.grad is None", f"{{name}} is before {where}, but got a gradient{shown}")
    one.each(after, "p.grad is not None", f"{{name}} is after {where}, but got no gradient")
    emit_second(script, one, other)
    shown = one.if_small(": {cut[name]}, not {p.grad.tolist()}")
    one.each(
        after,
        "p.grad is not None and repr(p.grad.tolist()) == repr(cut[name])",
        f"{{name}} has another gradient than in the uncut net{shown}",
    )


@reproduces(FILE + "test_before_the_cut_stays")
def before_the_cut_stays(case: Case, script: Script) -> None:
    """Training with a cut."""
    run = case.drawn[0]
    if not run.cuts.positions:
        cuts = case.drawn[1] if len(case.drawn) > 1 else Cuts((0,))
        run = dataclasses.replace(run, cuts=cuts, frozen=())
    recipe = Recipe(script, case, run).setup()
    recipe.before()
    recipe.steps()
    gets = recipe.gets()
    others = tuple(n for n in recipe.ordered(run.network.parameter_names()) if n not in gets)
    blocked = "frozen or blocked by a cut"
    recipe.check_stays(others, f"{{name}}, {blocked},")
    recipe.each(others, "p.grad is None", f"{{name}}, {blocked}, got a gradient")
    recipe.each(gets, "p.grad is not None", "{name} is after the cut, but got no gradient")


@reproduces(FILE + "test_last_cut_governs")
def last_cut_governs(case: Case, script: Script) -> None:
    """Many cuts, the last one alone, and one at the input."""
    network, cuts = case.drawn
    first = Recipe(script, case, _run(network, Cuts((0,), cuts.by)))
    other = Recipe(script, case, _run(network, Cuts((max(cuts.positions),), cuts.by)))
    one = Recipe(script, case, _run(network, cuts)).network().data().forward()
    other.forward(name="other")
    first.forward(name="first")
    everything = one.ordered(network.parameter_names())
    one.backward()
    emit_second(script, one, other)
    what = "many cuts than with the last alone"
    one.each(
        everything,
        "(p.grad is None) == (cut[name] is None)",
        f"{{name}} gets a gradient with only one of {what.replace('than', 'and')}",
    )
    one.each(
        everything,
        "p.grad is None or repr(p.grad.tolist()) == repr(cut[name])",
        f"{{name}} has another gradient with {what}"
        + one.if_small(": {cut[name]}, not {p.grad.tolist()}"),
    )
    with script.block("for p in net.parameters():"):
        script.add("p.grad = None")
    first.backward()
    first.each(everything, "p.grad is not None", "{name} got no gradient, cut at the input")


@reproduces(FILE + "test_cut_after_the_last_layer")
def cut_after_the_last(case: Case, script: Script) -> None:
    """A net whose output is cut."""
    network = case["network"]
    recipe = Recipe(script, case, _run(network, Cuts((network.depth,), case["by"])))
    recipe.network().data().forward()
    recipe.before()
    script.add(f"loss = {recipe.loss}")
    script.check("not loss.requires_grad", "the loss requires grad though the output is cut")
    script.raises("RuntimeError", "loss.backward()", "backward behind a cut output", "require grad")
    recipe.check_stays(recipe.ordered(network.parameter_names()), "behind a cut output {name}")


@reproduces(FILE + "test_skip_round_the_cut")
def skip_round_the_cut(case: Case, script: Script) -> None:
    """A cut with and without a skip round it."""
    width, depth, seed = case["width"], case["depth"], case["seed"]
    position = 1 + (case["place"] - 1) % (depth - 1)
    layers: List[Layer] = [
        Layer(width, activation="tanh", skip=int(index == position)) for index in range(depth)
    ]
    recipe = Recipe(script, case, _run(MLP(width, tuple(layers), seed=seed), Cuts((position,))))
    recipe.network().data().forward()
    layers[position] = dataclasses.replace(layers[position], skip=0)
    plain = MLP(width, tuple(layers), seed=seed)
    other = Recipe(script, case, _run(plain, Cuts((position,))))
    other.forward(name="without_skip")
    everything = recipe.ordered(recipe.run.network.parameter_names())
    with script.passage():
        recipe.backward()
        recipe.each(
            everything, "p.grad is not None", "{name} is reached by the skip, but got no gradient"
        )
        with script.block("for p in net.parameters():"):
            script.add("p.grad = None")
    other.backward()
    behind = other.ordered({n for names in plain.parameters_by_layer()[:position] for n in names})
    ahead = tuple(name for name in everything if name not in behind)
    other.each(behind, "p.grad is None", "{name}: without the skip it is cut off, but got a gradient")
    other.each(ahead, "p.grad is not None", "{name}: without the skip it got no gradient")


@reproduces(FILE + "test_no_grad_records_nothing")
def no_grad_records_nothing(case: Case, script: Script) -> None:
    """A forward pass under no_grad, which may end by an exception."""
    run = _run(case["network"], Cuts())
    recipe = Recipe(script, case, run).network().data().forward()
    if not case["train"]:
        script.add("net.eval()")
    with script.block("def look(module, inputs, output):"):
        script.add("pass")
        script.check(
            "torch.is_grad_enabled() or not output.requires_grad",
            "under no_grad the output of {module} requires grad",
        )
    script.note("records", f"records = {recipe.output}.requires_grad")
    with script.block("for module in net.modules():"):
        script.add("module.register_forward_hook(look)")
    with script.block("with contextlib.suppress(ArithmeticError), torch.no_grad():"):
        script.add(f"output = {recipe.output}")
        script.check("not output.requires_grad", "the output under no_grad requires grad")
        script.add("raise ArithmeticError" if case["fails"] else "pass")
    script.check("torch.is_grad_enabled()", "grad mode is off after a no_grad block")
    script.check(
        f"{recipe.output}.requires_grad is records", "whether the output has a graph was {records}"
    )


def _emit_modes(script: Script) -> None:
    """A leaf that requires grad, and the grad modes with whether a graph is recorded inside."""
    script.add("leaf = torch.ones(2, dtype=dtype, device=device, requires_grad=True)")
    lines = [f'    "{name}": (lambda: {name}, {inside}),' for name, (_, inside) in MODES.items()]
    script.add("\n".join(["modes = {", *lines, "}"]))


@reproduces(FILE + "test_modes_nest")
def modes_nest(case: Case, script: Script) -> None:
    """Grad modes in one another, as blocks and as decorators."""
    script.add("import itertools")
    _emit_modes(script)
    with script.block("def recorded_in(nest):"):
        script.add(
            'inference = [name for name in nest if "inference" in name][-1:]',
            'off = inference == ["torch.inference_mode()"]',
            "return not off and (not nest or modes[nest[-1]][1])",
        )
    with script.block("def look(nest, when):"):
        script.add("pass")
        script.check(
            "(leaf * 2).requires_grad is recorded_in(nest)",
            "requires_grad is {(leaf * 2).requires_grad} {when} {' '.join(nest)}",
        )
    with script.block("def enter(nest, place, decorates, fails):"):
        script.add('look(nest[:place], "inside")')
        with script.block("if place == len(nest):"):
            script.add("return 1 / (not fails)")
        with script.block("try:"):
            with script.block('if decorates and "set_grad" not in nest[place]:'):
                script.add("modes[nest[place]][0]()(enter)(nest, place + 1, decorates, fails)")
            with script.block("else:"), script.block("with modes[nest[place]][0]():"):
                script.add("enter(nest, place + 1, decorates, fails)")
        with script.block("finally:"):
            script.add('look(nest[:place], f"after {nest[place]} inside")')
    with script.block(
        "for depth, decorates, fails in itertools.product((1, 2, 3), (False, True), (False, True)):"
    ):
        with script.block("for nest in itertools.product(modes, repeat=depth):"):
            with script.block("with contextlib.suppress(ZeroDivisionError):"):
                script.add("enter(nest, 0, decorates, fails)")
    script.add("torch.set_grad_enabled(False)")
    script.check("not (leaf * 2).requires_grad", "a graph is recorded after set_grad_enabled(False)")
    script.add("torch.set_grad_enabled(True)")
    script.check("(leaf * 2).requires_grad", "no graph is recorded after set_grad_enabled(True)")


@reproduces(FILE + "test_modes_belong_to_their_thread")
def modes_belong_to_their_thread(case: Case, script: Script) -> None:
    """Each grad mode inside each other, in two threads."""
    _emit_modes(script)
    with script.block("def elsewhere(inside):"):
        script.add("seen.append((leaf * 2).requires_grad)")
        with script.block("with modes[inside][0]():"):
            script.add("seen.append((leaf * 2).requires_grad)", "met.wait(60)", "met.wait(60)")
    with script.block("for outside in modes:"), script.block("for inside in modes:"):
        script.add("seen, met = [], threading.Barrier(2)")
        with script.block("with modes[outside][0]():"):
            script.add("other = threading.Thread(target=elsewhere, args=(inside,))", "other.start()")
            script.add(
                "met.wait(60)", "here = (leaf * 2).requires_grad", "met.wait(60)", "other.join()"
            )
        script.check(
            "here is modes[outside][1]",
            "inside {outside}, with {inside} in another thread, requires_grad is {here}",
        )
        script.check(
            "seen[0]", "a thread that is begun inside {outside} records no graph to begin with"
        )
        script.check(
            "seen[1] is modes[inside][1]", "in a thread, inside {inside}, requires_grad is {seen[1]}"
        )
