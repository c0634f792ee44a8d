"""Programs for the laws of whole modules."""

import torch

from properties.harness.reproducer.case import Case
from properties.harness.reproducer.networks import emit_network, program_names
from properties.harness.reproducer.registry import reproduces
from properties.harness.reproducer.script import Script
from properties.harness.reproducer.training import Recipe
from properties.test_modules import with_other_weights
from strategies import MLP, Layer, TrainingRun

FILE = "test_modules.py::"


def _place(case: Case, network: MLP) -> str:
    """The drawn module as an expression of a net of blocks: the net, a block, or its layer."""
    modules = ["net"]
    for index, layer in enumerate(network.layers):
        modules += [f"net[{index}]", f"net[{index}][0]"]
        if layer.norm != "none":
            modules.append(f"net[{index}][1]")
    built = network.build("cpu", case.dtype)
    names = [name for name, module in built.named_modules() if list(module.parameters())]
    name = names[case["place"] % len(names)]
    prefixes = {network.prefix(index): index for index in range(network.depth)}
    owner = name.rpartition(".")[0]
    if name in prefixes:
        return f"net[{prefixes[name]}]"
    if owner in prefixes:
        return f"net[{prefixes[owner]}][{0 if name.endswith('linear') else 1}]"
    return "net"


@reproduces(FILE + "test_requires_grad_recurses")
def requires_grad_recurses(case: Case, script: Script) -> None:
    """Module.requires_grad_ on a part of a net."""
    network = case["network"]
    emit_network(script, network, case.dtype, blocks=True)
    script.add(f"module = {_place(case, network)}")
    script.add("inside = [id(p) for p in module.parameters()]")
    script.note("before", "before = {name: repr(p.tolist()) for name, p in net.named_parameters()}")
    with script.block("for p in net.parameters():"):
        script.add("p.grad = torch.ones_like(p)")
    with script.block("for flag in (False, True, False):"):
        script.check("module.requires_grad_(flag) is module", "requires_grad_ returned another object")
        script.add("module.requires_grad_(flag)")
        with script.block("for name, p in net.named_parameters():"):
            script.check(
                "p.requires_grad == (flag or id(p) not in inside)",
                "requires_grad_({flag}): {name} has requires_grad {p.requires_grad}",
            )
            script.check("repr(p.tolist()) == before[name]", "requires_grad_ changed {name}")
            script.check("p.grad is not None", "requires_grad_({flag}) dropped the gradient of {name}")
        with script.block("for name, buffer in net.named_buffers():"):
            script.check("not buffer.requires_grad", "the buffer {name} requires grad")
    script.add("net.requires_grad_(True)")
    script.check("all(p.requires_grad for p in net.parameters())", "requires_grad_(True) missed some")


@reproduces(FILE + "test_frozen_module_stays")
def frozen_module_stays(case: Case, script: Script) -> None:
    """A layer frozen as a module."""
    network = case["network"]
    index = case["place"] % network.depth
    run = TrainingRun(network, batch=4, steps=2, seed=network.seed)
    recipe = Recipe(script, case, run)
    recipe.names = program_names(network, blocks=True)
    emit_network(script, network, case.dtype, blocks=True)
    recipe.data().forward(blocks=True)
    recipe.optimizer()
    recipe.before()
    script.add(f"net[{index}].requires_grad_(False)")
    names = network.parameters_by_layer()[index]
    later = recipe.with_run(frozen=names)
    later.names = recipe.names
    later.steps()
    later.check_stays(later.ordered(names), "frozen {name}")
    later.each(later.ordered(names), "p.grad is None", "frozen {name} has a gradient")
    later.each(later.gets(), "p.grad is not None", "live {name} has no gradient")


@reproduces(FILE + "test_tied_freeze_together")
def tied(case: Case, script: Script) -> None:
    """Two layers with one weight."""
    width, seed = case["width"], case["seed"]
    layers = (Layer(width, activation="tanh"), Layer(width, tied=True))
    recipe = Recipe(script, case, TrainingRun(MLP(width, layers, seed=seed), batch=4, seed=seed))
    recipe.setup()
    recipe.before()
    one, two = "net[0]", "net[2]"
    script.check(f"{one}.weight is {two}.weight", "tied weights are two objects")
    script.add(f"{one if case['freeze_first'] else two}.weight.requires_grad_(False)")
    script.check(f"not {two}.weight.requires_grad", "freezing one of two tied weights left the other")
    recipe.backward()
    recipe.apply()
    recipe.check_stays(("0.weight",), "the frozen tied weight {name}")
    recipe.each(("0.bias", "2.bias"), "p.grad is not None", "{name} got no gradient")


@reproduces(FILE + "test_batch_norm_statistics")
def batch_norm(case: Case, script: Script) -> None:
    """A frozen BatchNorm's buffers and parameters."""
    network = MLP(3, (Layer(case["width"], norm="batch"), Layer(2)), seed=case["seed"])
    run = TrainingRun(network, batch=4, steps=case["steps"], seed=case["seed"])
    recipe = Recipe(script, case, run).setup()
    recipe.before()
    script.add("net[:2].requires_grad_(False)")
    if not case["train"]:
        script.add("net[:2].eval()")
    script.add("old = {name: repr(buffer.tolist()) for name, buffer in net[1].named_buffers()}")
    script.check("len(old) >= 3", "BatchNorm has only the buffers {sorted(old)}")
    recipe.steps()
    with script.block("for name, buffer in net[1].named_buffers():"):
        if case["train"]:
            script.check(
                "repr(buffer.tolist()) != old[name]",
                "{name} of a frozen BatchNorm in train mode stood still",
            )
        else:
            script.check(
                "repr(buffer.tolist()) == old[name]", "{name} of a BatchNorm in eval mode changed"
            )
    if case["train"]:
        script.check(
            f"net[1].num_batches_tracked == {case['steps']}",
            f"{{net[1].num_batches_tracked}} batches tracked, not {case['steps']}",
        )
        with script.block("with torch.no_grad():"):
            script.add("h = x.double() @ net[0].weight.double().t() + net[0].bias.double()")
            script.add("mean = h.sum(0) / len(h)")
            script.add("var = ((h - mean) ** 2).sum(0) / (len(h) - 1)")
            kept, unit = 0.9 ** case["steps"], 1e4 * torch.finfo(case.dtype).eps
            for name, value in (
                ("running_mean", f"{1 - kept!r} * mean"),
                ("running_var", f"{kept!r} + {1 - kept!r} * var"),
            ):
                script.check_after(
                    f"expected = {value}",
                    f"((net[1].{name} - expected).abs() <= {unit:.3g} * (1 + expected.abs())).all()",
                    f"{name} is {{net[1].{name}.tolist()}}, by its rule {{expected.tolist()}}",
                )
    frozen = recipe.ordered(network.parameters_by_layer()[0])
    recipe.check_stays(frozen, "frozen {name}")
    recipe.each(frozen, "p.grad is None", "frozen {name} has a gradient")


@reproduces(FILE + "test_modes_leave_flags")
def modes(case: Case, script: Script) -> None:
    """train() and eval() of a partly frozen net, then a backward."""
    network, frozen = case.draws(None, ())
    run = TrainingRun(network, frozen, batch=4, seed=network.seed)
    recipe = Recipe(script, case, run).network().data().freeze().forward()
    recipe.before()
    with script.block("for mode in (False, True, False):"):
        script.add("net.train() if mode else net.eval()")
        with script.block("for name, p in net.named_parameters():"):
            script.check(
                f"p.requires_grad == (name not in {recipe.frozen})",
                "after train({mode}) requires_grad of {name} is {p.requires_grad}",
            )
            script.check("repr(p.tolist()) == before[name]", "train({mode}) changed {name}")
    recipe.backward()
    recipe.each(recipe.gets(), "p.grad is not None", "live {name} got no gradient in eval mode")
    recipe.each(recipe.frozen, "p.grad is None", "frozen {name} got a gradient in eval mode")


@reproduces(FILE + "test_loading_writes_in_place")
def loading(case: Case, script: Script) -> None:
    """load_state_dict of another net of the same shape."""
    network, frozen = case.draws(None, ())
    emit_network(script, with_other_weights(network), case.dtype)
    script.add("source = net")
    recipe = Recipe(script, case, TrainingRun(network, frozen, seed=network.seed)).network().freeze()
    script.note("held", "held = dict(net.named_parameters())")
    script.note("places", "places = {name: p.data_ptr() for name, p in net.named_parameters()}")
    script.note("wanted", "wanted = {name: repr(p.tolist()) for name, p in source.named_parameters()}")
    script.add("net.load_state_dict(source.state_dict())")
    with script.block("for name, p in net.named_parameters():"):
        script.check("p is held[name]", "{name} is another object after loading")
        script.check("p.data_ptr() == places[name]", "{name} has other memory after loading")
        script.check(
            f"p.requires_grad == (name not in {recipe.frozen})", "loading changed the flag of {name}"
        )
        script.check("repr(p.tolist()) == wanted[name]", "{name} was not loaded")
