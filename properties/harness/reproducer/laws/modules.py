"""Programs for the laws of whole modules."""

import torch

from frostproof.properties.harness.reproducer.case import Case
from frostproof.properties.harness.reproducer.networks import emit_network, program_names
from frostproof.properties.harness.reproducer.registry import reproduces
from frostproof.properties.harness.reproducer.script import Script
from frostproof.properties.harness.reproducer.training import Recipe
from frostproof.properties.test_modules import (
    BATCH_NORMS,
    PARAMETRIZED,
    PIECES,
    TIED,
    with_other_weights,
)
from frostproof.strategies import MLP, Layer, TrainingRun

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
    script.add(f"net.train({case['train']})", f"module = {_place(case, network)}")
    script.note("held", "held = dict(net.named_parameters())")
    script.add("inside = [id(p) for p in module.parameters()]")
    script.note("before", "before = {name: repr(p.tolist()) for name, p in net.named_parameters()}")
    with script.block("for p in net.parameters():"):
        script.add("p.grad = torch.ones_like(p)")
    calls = ("False", "True", "requires_grad=False", "", "requires_grad=False")
    for flag, call in zip((False, True, False, True, False), calls):
        setting = f"requires_grad_({call})"
        script.add(f"returned = module.{setting}")
        script.check("returned is module", f"{setting} returned another object")
        with script.block("for name, p in net.named_parameters():"):
            script.check("p is held[name]", f"{{name}} is another object after {setting}")
            script.check(
                f"p.requires_grad == ({flag} or id(p) not in inside)",
                f"{setting}: {{name}} has requires_grad {{p.requires_grad}}",
            )
            script.check("repr(p.tolist()) == before[name]", f"{setting} changed {{name}}")
            script.check("p.grad is not None", f"{setting} dropped the gradient of {{name}}")
        with script.block("for name, buffer in net.named_buffers():"):
            script.check("not buffer.requires_grad", "the buffer {name} requires grad")
        with script.block("for name, each in net.named_modules():"):
            script.check(
                f"each.training is {case['train']}",
                f"{setting} set training of {{name}} to {{each.training}}",
            )
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
        with script.block("for name, each in net.named_modules():"):
            script.check(
                "each.training is mode", "after train({mode}) {name} has training {each.training}"
            )
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
    network, frozen, train = case.draws(None, (), True)
    both = "[*{0}.named_parameters(), *{0}.named_buffers()]"
    emit_network(script, with_other_weights(network), case.dtype)
    script.add("source = net")
    with script.block("for buffer in source.buffers():"):
        script.add("buffer += 1")
    recipe = Recipe(script, case, TrainingRun(network, frozen, seed=network.seed)).network().freeze()
    script.add(f"net.train({train})")
    with script.block("for p in net.parameters():"):
        script.add("p.grad = torch.ones(p.shape, dtype=dtype, device=device)")
    script.note("held", f"held = dict({both.format('net')})")
    script.note("places", f"places = {{name: t.data_ptr() for name, t in {both.format('net')}}}")
    script.note("wanted", f"wanted = {{name: repr(t.tolist()) for name, t in {both.format('source')}}}")
    script.note("live", f"live = {{name for name, _ in net.named_parameters()}} - {{*{recipe.frozen}}}")
    script.add("net.load_state_dict(source.state_dict())")
    with script.block(f"for name, t in {both.format('net')}:"):
        script.check("t is held[name]", "{name} is another object after loading")
        script.check("t.data_ptr() == places[name]", "{name} has other memory after loading")
        script.check("t.requires_grad == (name in live)", "loading changed the flag of {name}")
        script.check("t.is_leaf", "{name} is no longer a leaf after loading")
        script.check(
            "(t.grad is None) == (not isinstance(t, nn.Parameter))",
            "after loading the gradient of {name} is {t.grad}",
        )
        script.check("repr(t.tolist()) == wanted[name]", "{name} was not loaded")
    with script.block(f"for name, t in {both.format('source')}:"):
        script.check("t.data_ptr() != places[name]", "{name} shares the memory it was loaded from")


@reproduces(FILE + "test_batch_norm_of_every_rank")
def batch_norm_of_every_rank(case: Case, script: Script) -> None:
    """Two batches through a BatchNorm, by its formulas."""
    rank, (frozen, momentum, train, mode) = case["rank"], case["normalizing"]
    channels, rows, unit = case["channels"], case["rows"], 1e4 * torch.finfo(case.dtype).eps
    affine = ", affine=False" if frozen == "without" else ""
    script.add(f"norm = nn.{BATCH_NORMS[rank]}({channels}, momentum={momentum}{affine})")
    script.add(f"norm.to(device, dtype).train({train})")
    for name in ("weight", "bias") if frozen == "all" else (frozen,):
        if name in ("weight", "bias"):
            script.add(f"norm.{name}.requires_grad = False")
    if train:
        script.add(f"mean, var = torch.zeros({channels}).double(), torch.ones({channels}).double()")
    for step in (1, 2):
        shape = (rows, channels, *(2,) * rank)
        script.add(
            f"generator = torch.Generator().manual_seed({case['seed'] + step})",
            f"x = torch.rand({shape}, generator=generator, dtype=torch.float64) * 2 - 1",
            "x = x.to(device, dtype)",
        )
        script.note("old", "old = {name: repr(b.tolist()) for name, b in norm.named_buffers()}")
        with script.block(f"with torch.{mode}():"):
            script.add("result = norm(x)")
        script.add(f"rates = x.cpu().double().transpose(0, 1).reshape({channels}, -1)")
        script.add("centre, spread = rates.mean(1), rates.var(1, unbiased=False)")
        if train:
            share, count = 1 / step if momentum is None else momentum, rows * 2**rank
            script.add(
                f"mean = {1 - share!r} * mean + {share!r} * centre",
                f"var = {1 - share!r} * var + {share!r} * spread * {count / (count - 1)!r}",
            )
            for name, wanted in (("running_mean", "mean"), ("running_var", "var")):
                script.check(
                    f"((norm.{name}.cpu() - {wanted}).abs() <= {unit:.3g} * (1 + abs({wanted}))).all()",
                    f"{name} {step} is {{norm.{name}.tolist()}}, by its rule {{{wanted}.tolist()}}",
                )
            script.check(
                f"norm.num_batches_tracked == {step}", "{norm.num_batches_tracked} batches tracked"
            )
        else:
            script.add(
                f"centre, spread = torch.zeros({channels}).double(), torch.ones({channels}).double()"
            )
            with script.block("for name, b in norm.named_buffers():"):
                script.check("repr(b.tolist()) == old[name]", "{name} of an eval BatchNorm changed")
        script.add("wanted = (rates - centre[:, None]) / (spread[:, None] + 1e-5).sqrt()")
        script.add(f"got = result.detach().cpu().double().transpose(0, 1).reshape({channels}, -1)")
        script.check(
            f"((got - wanted).abs() <= {unit:.3g} * (1 + wanted.abs())).all()",
            f"batch {step}: BatchNorm gives {{got.tolist()}}, by its formula {{wanted.tolist()}}",
        )
        live = mode == "enable_grad" and frozen in ("none", "weight", "bias")
        script.check(f"result.requires_grad is {live}", f"requires_grad of the result is {not live}")


@reproduces(FILE + "test_every_container")
def every_container(case: Case, script: Script) -> None:
    """Parameters in containers of all kinds."""
    script.add("net = nn.Module()")
    for number, piece in enumerate(case["pieces"]):
        if piece == "none":
            script.add(f'net.register_parameter("piece{number}", None)')
            continue
        script.add(f"net.piece{number} = {PIECES[piece]}")
        if piece == TIED:
            script.add(f"net.again{number} = net.piece{number}")
        if piece == "linear" and PARAMETRIZED:
            script.add(
                "torch.nn.utils.parametrize.register_parametrization("
                f'net.piece{number}, "weight", nn.Tanh())'
            )
    script.add(f"net.to(device).train({case['train']})")
    each = "[p for m in {0}.modules() for p in m._parameters.values() if p is not None]"
    script.add(f"held = list(dict.fromkeys({each.format('net')}))")
    script.check(
        "sorted(map(id, net.parameters())) == sorted(map(id, held))", "parameters() lists others"
    )
    for flag in (False, True, False):
        script.add(f"net.requires_grad_({flag})")
        script.check(
            f"all(p.requires_grad is {flag} for p in held)", f"requires_grad_({flag}) missed some"
        )
        script.add("net.zero_grad(set_to_none=True)")
        script.check(f"all(p.requires_grad is {flag} for p in held)", "zero_grad changed requires_grad")
        if flag:
            with script.block("for p in held:"):
                script.add("(p * 2).sum().backward()")
        some = "not None" if flag else "None"
        script.check(
            f"all(p.grad is {some} for p in held)", f"after zero_grad, frozen {not flag}: gradients"
        )
    copies = (("a deepcopy", "copy.deepcopy(net)"), ("to()", "net.to(torch.float64)"))
    for what, text in copies:
        script.add(f"other = {text}", f"others = list(dict.fromkeys({each.format('other')}))")
        script.check("len(others) == len(held)", f"{{len(others)}} parameters after {what}")
        script.check("not any(p.requires_grad for p in others)", f"{what} unfroze a parameter")
        script.check(
            "not any(b.requires_grad for b in other.buffers())", f"a buffer requires grad after {what}"
        )
    script.add("saved = net.state_dict()", "places = [value.data_ptr() for value in saved.values()]")
    script.check(
        f"all(t.data_ptr() in places for t in [*{each.format('net')}, *net.buffers()])",
        "state_dict() does not hold everything",
    )
    script.add("net.load_state_dict({name: value + 1 for name, value in saved.items()})")
    script.check(
        f"not any(p.requires_grad for p in {each.format('net')})", "load_state_dict unfroze a parameter"
    )
    script.check(
        "all(value.data_ptr() in places for value in net.state_dict().values())",
        "after loading some have other memory",
    )
