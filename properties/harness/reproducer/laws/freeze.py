"""Programs for the laws of freezing."""

import contextlib
import dataclasses
from typing import Any, ContextManager

import torch

from properties.harness.reproducer.case import Case
from properties.harness.reproducer.laws.cut import GRADIENTS
from properties.harness.reproducer.laws.detach import (
    GEOMETRY,
    emit_attached,
    requires_grad,
    source_of,
)
from properties.harness.reproducer.registry import reproduces
from properties.harness.reproducer.script import Script
from properties.harness.reproducer.training import Recipe, options_text
from properties.test_freeze import SCHEDULERS, TRAPS, mlp_of
from strategies import OptimizerSpec, TrainingRun

FILE = "test_freeze.py::"
STATE = (
    "repr([(k, v.tolist() if torch.is_tensor(v) else v) "
    "for k, v in sorted(optimizer.state.get(p, {}).items())])"
)


@reproduces(FILE + "test_frozen_stay")
def frozen_stay(case: Case, script: Script) -> None:
    """Training with frozen parameters, watched after every step."""
    (run,) = case.draws(None)
    recipe = Recipe(script, case, run).setup()
    recipe.before()
    closure = run.optimizer.needs_closure
    if not closure and recipe.frozen:
        script.note("states", f"states = {{name: {STATE} for name, p in net.named_parameters()}}")
        script.note("versions", "versions = {name: p._version for name, p in net.named_parameters()}")
        if run.optimizer.name != "Adagrad":
            recipe.each(
                recipe.frozen,
                'states[name] == "[]"',
                "frozen {name} has optimizer state before the first step: {states[name]}",
            )
    script.note("places", "places = {name: p.data_ptr() for name, p in net.named_parameters()}")
    script.note("held", "held = dict(net.named_parameters())")
    name = run.optimizer.name
    gets = recipe.gets()
    everything = recipe.ordered(run.network.parameter_names())
    cut_off = tuple(n for n in everything if n not in gets and n not in recipe.frozen)
    with script.block(f"for step in range(1, {run.steps + 1}):"):
        recipe.step()
        where = f"after step {{step}} of {name}"
        recipe.check_stays(recipe.frozen, f"{where} frozen {{name}}")
        recipe.each(recipe.frozen, "p.grad is None", f"{where} frozen {{name}} has a gradient")
        recipe.each(
            recipe.frozen, "not p.requires_grad", f"{where} frozen {{name}} requires grad again"
        )
        if not closure:
            recipe.each(
                recipe.frozen,
                f"{STATE} == states[name]",
                f"{where} the optimizer state of frozen {{name}} is another",
            )
            recipe.each(
                recipe.frozen,
                "p._version == versions[name]",
                f"{where} frozen {{name}} was written to (its version counter moved)",
            )
        recipe.each(everything, "p.data_ptr() == places[name]", f"{where} {{name}} has other memory")
        recipe.each(gets, "p.grad is not None", f"{where} {{name}} is live, but got no gradient")
        recipe.each(cut_off, "p.grad is None", f"{where} {{name}} is cut off, but got a gradient")
        recipe.check_stays(cut_off, f"{where} {{name}}, cut off,")
    recipe.each(everything, "p is held[name]", "{name} is another object after training")


@reproduces(FILE + "test_step_without_gradients")
def step_without_gradients(case: Case, script: Script) -> None:
    """A step before any backward."""
    spec, network = case.drawn
    if spec.needs_closure:
        spec = OptimizerSpec("AdamW", (("lr", 0.1),))
    recipe = Recipe(script, case, TrainingRun(network, optimizer=spec, batch=4))
    recipe.network().optimizer()
    recipe.before()
    script.add("optimizer.step()")
    recipe.check_stays(
        recipe.ordered(network.parameter_names()),
        f"a step of {spec.name} without gradients: {{name}}",
    )


@reproduces(FILE + "test_others_gradients_do_not_depend_on_the_mask")
def others_gradients(case: Case, script: Script) -> None:
    """Gradients with and without masks."""
    network, first, second, batch = case.draws(None, (), (), 3)
    recipe = Recipe(script, case, TrainingRun(network, batch=batch, seed=network.seed))
    recipe.network().data().forward()
    recipe.backward()
    script.add(f"whole = {GRADIENTS}")
    recipe.each(
        recipe.ordered(network.parameter_names()),
        "p.grad is not None",
        "{name} is live in the whole net, but got no gradient",
    )
    for mask in dict.fromkeys((first, second)):
        masked = recipe.with_run(frozen=mask)
        with script.block("for name, p in net.named_parameters():"):
            script.add(f"p.requires_grad = name not in {masked.frozen}", "p.grad = None")
        masked.backward()
        gets = masked.gets()
        masked.each(masked.frozen, "p.grad is None", "frozen {name} got a gradient")
        masked.each(
            gets,
            "p.grad is not None and repr(p.grad.tolist()) == repr(whole[name])",
            "{name} has another gradient once others are frozen: {p.grad}, before {whole[name]}",
        )


@reproduces(FILE + "test_all_frozen_refuses_backward")
def all_frozen(case: Case, script: Script) -> None:
    """Backward with everything frozen."""
    network = case["network"]
    run = TrainingRun(network, frozen=network.parameter_names(), batch=4, seed=case["seed"])
    recipe = Recipe(script, case, run).setup(optimizer=False)
    recipe.before()
    script.add(f"loss = {recipe.loss}")
    script.check("not loss.requires_grad", "the loss requires grad though everything is frozen")
    script.check("loss.grad_fn is None", "the loss has grad_fn {loss.grad_fn} though all is frozen")
    script.raises("RuntimeError", "loss.backward()", "backward with all frozen", "require grad")
    recipe.check_stays(recipe.frozen, "all frozen: {name}")


def _setting(case: Case, flag: object) -> str:
    """The statement that sets requires_grad of ``tensor`` as drawn."""
    if case["how"] == "attribute":
        return f"tensor.requires_grad = {flag}"
    return f"tensor.requires_grad_({flag})"


@reproduces(FILE + "test_non_leaf_cannot_be_frozen")
def non_leaf(case: Case, script: Script) -> None:
    """requires_grad = False on a non-leaf."""
    source_of(case, script, "tensor")
    script.note("node", "node = tensor.grad_fn")
    script.note("values", "values = repr(tensor.tolist())")
    setting = _setting(case, False)
    with script.block(f"with torch.{case['mode']}():"):
        script.raises("RuntimeError", setting, f"{setting} of a non-leaf", "leaf")
    script.check("tensor.requires_grad", "the refused non-leaf no longer requires grad")
    script.check("tensor.grad_fn is node", "the refused non-leaf has another grad_fn")
    script.check("repr(tensor.tolist()) == values", "the refused non-leaf has other values")


FACTS = ("is_leaf", "grad_fn", "_version", "grad", *GEOMETRY, "data_ptr()")


@reproduces(FILE + "test_flag_is_set_and_undone")
def flag(case: Case, script: Script) -> None:
    """requires_grad of a leaf, on and off."""
    source_of(case, script, "tensor")
    emit_attached(case, script, "tensor")
    for fact in FACTS:
        script.note(f"old_{fact.strip('_()')}", f"old_{fact.strip('_()')} = tensor.{fact}")
    script.note("values", "values = repr(tensor.tolist())")
    first = requires_grad(case)
    for wanted in (not first, first, not first, False):
        setting = _setting(case, wanted)
        inside: ContextManager[None] = contextlib.nullcontext()
        if case["mode"] != "enable_grad":
            inside = script.block(f"with torch.{case['mode']}():")
        with inside:
            script.add(setting)
        script.check(
            f"tensor.requires_grad is {wanted}",
            f"after {setting} requires_grad is {{tensor.requires_grad}}",
        )
        for fact in FACTS:
            name = fact.strip("_()")
            same = "is" if fact in ("grad", "grad_fn") else "=="
            script.check(
                f"tensor.{fact} {same} old_{name}",
                f"{setting} changed {name} from {{old_{name}}} to {{tensor.{fact}}}",
            )
    script.check("repr(tensor.tolist()) == values", "setting requires_grad changed values")


@reproduces(FILE + "test_only_floating_can_require_grad")
def only_floating(case: Case, script: Script) -> None:
    """What makes tensors that require grad, by dtype."""
    made = {
        "torch.empty": "torch.empty(3, dtype=dtype, device=device, requires_grad=True)",
        "torch.tensor": "torch.tensor([1], dtype=dtype, device=device, requires_grad=True)",
        "Parameter": "nn.Parameter(torch.empty(3, dtype=dtype, device=device))",
    }
    for name, text in made.items():
        if case.dtype.is_floating_point or case.dtype.is_complex:
            script.check(f"{text}.requires_grad", f"{name} of {case.dtype} did not take requires_grad")
        else:
            script.raises("RuntimeError", text, f"{name} of {case.dtype} that requires grad")
    script.add("tensor = torch.empty(3, dtype=dtype, device=device)")
    script.check(
        "not nn.Parameter(tensor, requires_grad=False).requires_grad",
        f"a Parameter of {case.dtype} made frozen requires grad",
    )
    for kind in (
        "nn.Parameter(tensor, requires_grad=False)",
        "torch.empty((), dtype=dtype, device=device)",
    ):
        for on, off in (
            ("one.requires_grad = True", "one.requires_grad = False"),
            ("one.requires_grad_(True)", "one.requires_grad_(False)"),
        ):
            script.add(f"one = {kind}")
            if case.dtype.is_floating_point or case.dtype.is_complex:
                script.add(on)
                script.check("one.requires_grad", f"{case.dtype} did not take {on}")
            else:
                script.raises("RuntimeError", on, f"{on} of {case.dtype}", "floating")
            script.add(off)
            script.check("not one.requires_grad", f"{off} of {case.dtype} does nothing")


@reproduces(FILE + "test_frozen_midway_with_cleared_gradients")
def frozen_midway(case: Case, script: Script) -> None:
    """Frozen after some steps."""
    (run,) = case.draws(None)
    if run.optimizer.needs_closure:
        run = dataclasses.replace(run, optimizer=OptimizerSpec("SGD", (("lr", 0.1), ("momentum", 0.9))))
    mask = run.frozen or run.unfrozen()[:1]
    run = dataclasses.replace(run, frozen=(), clearing="none", listed="all")
    recipe = Recipe(script, case, run).setup()
    recipe.steps()
    script.add("net.zero_grad(set_to_none=True)")
    later = recipe.with_run(frozen=tuple(mask))
    later.freeze()
    later.before()
    with script.block("for step in range(2):"):
        later.step()
        later.check_stays(later.frozen, f"frozen midway under {run.optimizer.name}: {{name}}")
        later.each(later.frozen, "p.grad is None", "{name}: a gradient after freezing")


def _drives(recipe: Recipe, options: Any) -> str:
    if "weight_decay" in dict(options):
        return "p"
    return 'optimizer.state[p]["momentum_buffer"]' if "momentum" in dict(options) else "p.grad"


@reproduces(FILE + "test_traps_move_frozen")
def traps(case: Case, script: Script) -> None:
    """What moves a frozen parameter."""
    network, trap, mask = case.draws(None, TRAPS[0], ())
    name, options, kind = trap
    mask = mask or network.parameter_names()[:1]
    spec = OptimizerSpec("SGD", options)
    run = TrainingRun(network, optimizer=spec, batch=4, seed=network.seed)
    recipe = Recipe(script, case, run).setup()
    recipe.step()
    recipe.clear()
    recipe.backward()
    if kind == "zeros":
        recipe.apply()
        with script.block("for p in net.parameters():"):
            script.add("p.grad.zero_()")
    later = recipe.with_run(frozen=tuple(mask))
    later.freeze()
    later.before()
    drive = _drives(later, options)
    script.add(f"moves = [name for name, p in net.named_parameters() if ({drive}.abs() > 1e-4).any()]")
    later.apply()
    later.each(
        later.frozen,
        "name not in moves or repr(p.tolist()) != before[name]",
        f"{name}: frozen {{name}} should move (the optimizer goes by .grad), but stood still",
    )


@reproduces(FILE + "test_lbfgs_moves_frozen_midway")
def lbfgs_moves(case: Case, script: Script) -> None:
    """LBFGS and a parameter frozen midway."""
    network = mlp_of(case["width"], case["seed"])
    spec = OptimizerSpec("LBFGS", (("lr", 0.1), ("max_iter", 2)))
    recipe = Recipe(script, case, TrainingRun(network, optimizer=spec, batch=4, seed=case["seed"]))
    recipe.setup()
    recipe.steps(2)
    script.add("optimizer.zero_grad(set_to_none=True)")
    later = recipe.with_run(frozen=network.parameter_names()[:1])
    later.freeze()
    later.before()
    script.add("optimizer.step(closure)")
    later.each(
        later.frozen,
        "repr(p.tolist()) != before[name]",
        "LBFGS left {name} alone after it was frozen midway: torch mended the known trap",
    )


@reproduces(FILE + "test_unfreezing_resumes")
def unfreezing(case: Case, script: Script) -> None:
    """Frozen, then unfrozen: as never frozen."""
    network, mask = case.draws(None, ())
    mask = mask or network.parameter_names()[-1:]
    spec = OptimizerSpec("SGD", (("lr", 0.1),))
    run = TrainingRun(network, frozen=mask, optimizer=spec, batch=4, seed=network.seed)
    recipe = Recipe(script, case, run).setup()
    recipe.step()
    with script.block("for p in net.parameters():"):
        script.add("p.requires_grad_(True)")
    live = recipe.with_run(frozen=())
    live.clear()
    live.backward()
    everything = recipe.ordered(network.parameter_names())
    live.each(everything, "p.grad is not None", "{name}: no gradient after unfreezing")
    script.note("gradients", f"gradients = {GRADIENTS}")
    script.note("thawed", "thawed = [p.tolist() for p in net.parameters()]")
    live.before()
    live.apply()
    live.each(
        recipe.frozen,
        "not (p.grad.abs() > 0.05).any() or repr(p.tolist()) != before[name]",
        "unfrozen {name} did not move",
    )
    live.network()
    with script.block("with torch.no_grad():"):
        with script.block("for p, value in zip(net.parameters(), thawed):"):
            script.add("p.copy_(torch.tensor(value, dtype=torch.float64))")
    live.backward()
    live.each(
        everything,
        "repr(p.grad.tolist()) == repr(gradients[name])",
        "{name}: gradient {gradients[name]} after unfreezing, {p.grad.tolist()} in a fresh net",
    )


@reproduces(FILE + "test_state_of_frozen_is_kept")
def state_is_kept(case: Case, script: Script) -> None:
    """Optimizer state while frozen."""
    network, mask, (name, options) = case.draws(None, (), ("SGD", (("lr", 0.1), ("momentum", 0.9))))
    mask = mask or network.parameter_names()[:1]
    run = TrainingRun(network, optimizer=OptimizerSpec(name, options), batch=4, seed=network.seed)
    recipe = Recipe(script, case, dataclasses.replace(run, freezing="method")).setup()
    recipe.step()
    script.add("optimizer.zero_grad(set_to_none=True)")
    later = recipe.with_run(frozen=tuple(mask))
    later.freeze()
    script.add(f"states = {{name: {STATE} for name, p in net.named_parameters()}}")
    script.check('any(state != "[]" for state in states.values())', f"{name} keeps no state")
    later.steps(2)
    later.each(later.frozen, f"{STATE} == states[name]", f"{name} changed the state of frozen {{name}}")


@reproduces(FILE + "test_clipping_leaves_frozen")
def clipping(case: Case, script: Script) -> None:
    """Clipped gradients."""
    run, by_norm = case.draws(None, True)
    recipe = Recipe(script, case, run).setup()
    recipe.before()
    recipe.backward()
    kind = "norm" if by_norm else "value"
    script.add(f"nn.utils.clip_grad_{kind}_(net.parameters(), 1e-3)")
    everything = recipe.ordered(run.network.parameter_names())
    recipe.check_stays(everything, "clipping: {name}")
    gets = recipe.gets()
    others = tuple(n for n in everything if n not in gets)
    recipe.each(gets, "p.grad is not None", "clipping lost the gradient of {name}")
    recipe.each(
        gets,
        "p.grad.abs().max() <= 1.1e-3",
        "the clipped gradient of {name} reaches {p.grad.abs().max()}",
    )
    recipe.each(others, "p.grad is None", "clipping gave {name} a gradient")
    if not run.optimizer.needs_closure:
        recipe.apply()
    recipe.check_stays(recipe.frozen, "after clipping frozen {name}")


@reproduces(FILE + "test_accumulation_leaves_frozen")
def accumulation(case: Case, script: Script) -> None:
    """Two backwards."""
    (run,) = case.draws(None)
    if any(layer.norm == "batch" for layer in run.network.layers):
        run = dataclasses.replace(run, batch=max(run.batch, 4))
    recipe = Recipe(script, case, run).setup(optimizer=False)
    recipe.backward()
    script.add(f"once = {GRADIENTS}")
    script.add(
        "single = {name: torch.tensor(g, dtype=dtype, device=device) "
        "for name, g in once.items() if g is not None}"
    )
    script.add("total = dict(single)")
    with script.block("for times in (2, 3):"):
        recipe.backward()
        script.add("total = {name: g + single[name] for name, g in total.items()}")
        with script.block("for name, p in net.named_parameters():"):
            script.check(
                "name in total or p.grad is None", "{name} got a gradient at backward number {times}"
            )
            script.check(
                "name not in total or repr(p.grad.tolist()) == repr(total[name].tolist())",
                "{name}: {times} backwards gave {p.grad.tolist()}, not {total[name].tolist()}",
            )


@reproduces(FILE + "test_schedulers_leave_frozen")
def schedulers(case: Case, script: Script) -> None:
    """Training under a scheduler."""
    run, (name, options, factor) = case.draws(None, SCHEDULERS[0])
    recipe = Recipe(script, case, run).setup()
    if not isinstance(dict(run.optimizer.options).get("lr", 0.1), float):
        return
    recipe.before()
    text = "".join(f", {option}={value!r}" for option, value in options.items())
    with script.block("for place, group in enumerate(optimizer.param_groups):"):
        script.add('group["lr"] /= place + 1')
    script.note("rates", 'rates = [group["lr"] for group in optimizer.param_groups]')
    script.add(f"scheduler = torch.optim.lr_scheduler.{name}(optimizer{text})")
    factors = [factor(step) for step in range(1, run.steps + 1)]
    with script.block(f"for factor in {factors}:"):
        recipe.step()
        recipe.before("trained")
        script.add("scheduler.step()")
        recipe.check_stays(
            recipe.ordered(run.network.parameter_names()), f"{name}.step(): {{name}}", "trained"
        )
        with script.block("for rate, group in zip(rates, optimizer.param_groups):"):
            script.check(
                'abs(group["lr"] - rate * factor) <= 1e-9 * rate',
                f"{name}: lr {{group['lr']}}, not {{rate}} times {{factor}}",
            )
    recipe.check_stays(recipe.frozen, "frozen {name}")


@reproduces(FILE + "test_added_group_leaves_frozen")
def added_group(case: Case, script: Script) -> None:
    """Parameters added in a second group."""
    network, mask, split = case.draws(None, (), 1)
    spec = OptimizerSpec("SGD", (("lr", 0.1), ("weight_decay", 0.1)))
    run = TrainingRun(network, frozen=mask, optimizer=spec, batch=4, seed=network.seed)
    recipe = Recipe(script, case, run).setup(optimizer=False)
    recipe.before()
    script.add("parameters = list(net.parameters())")
    script.add(f"optimizer = torch.optim.SGD(parameters[:{split}]{options_text(spec)})")
    script.add(f'optimizer.add_param_group({{"params": parameters[{split}:]}})')
    recipe.step()
    recipe.check_stays(recipe.frozen, "frozen {name}")
    live = tuple(n for n in recipe.ordered(network.parameter_names()) if n not in recipe.frozen)
    recipe.each(
        live,
        "not (p.abs() > 0.1).any() or repr(p.tolist()) != before[name]",
        "live {name} did not move, with weight decay and a gradient",
    )


@reproduces(FILE + "test_loading_state_leaves_frozen")
def loading_state(case: Case, script: Script) -> None:
    """Training straight on, and with the optimizer saved and loaded."""
    (run,) = case.draws(None)
    recipe = Recipe(script, case, run)
    recipe.data()
    recipe.forward()
    with script.block("def train(reload):"):
        recipe.network().freeze()
        recipe.before()
        recipe.optimizer()
        recipe.step()
        with script.block("if reload:"):
            script.add("saved = optimizer.state_dict()")
            recipe.optimizer()
            script.add("optimizer.load_state_dict(saved)")
            script.note("flags", "flags = [p.requires_grad for p in net.parameters()]")
            script.add("net.load_state_dict(dict(net.state_dict()))")
            script.check(
                "[p.requires_grad for p in net.parameters()] == flags",
                "load_state_dict changed requires_grad",
            )
        recipe.steps()
        recipe.check_stays(recipe.frozen, "frozen {name}")
        script.add("return net")
    script.add("straight, loaded = train(False), train(True)")
    with script.block("for (name, p), q in zip(straight.named_parameters(), loaded.parameters()):"):
        script.check(
            "repr(p.tolist()) == repr(q.tolist())",
            "{name} ends otherwise when the optimizer is saved and loaded half-way",
        )


@reproduces(FILE + "test_gradient_scaling_leaves_frozen")
def gradient_scaling(case: Case, script: Script) -> None:
    """A scaled loss, by hand and by GradScaler."""
    network = case["network"]
    (mask,) = case.draws(())
    run = TrainingRun(network, frozen=mask, batch=4, seed=network.seed)
    if not run.gets_gradient():
        run = dataclasses.replace(run, frozen=())
    recipe = Recipe(script, case, run).setup()
    recipe.before()
    recipe.backward()
    script.add(f"plain = {GRADIENTS}")
    with script.block("for p in net.parameters():"):
        script.add("p.grad = None")
    script.add(f"({recipe.loss} * 1024).backward()")
    recipe.each(recipe.frozen, "p.grad is None", "frozen {name} got a gradient")
    live = recipe.gets()
    recipe.each(live, "p.grad is not None", "live {name} got no gradient")
    with script.block("for name, p in net.named_parameters():"):
        script.note(
            "wanted",
            "wanted = p.grad if p.grad is None else "
            "torch.tensor(plain[name], dtype=dtype, device=device)",
        )
        script.check(
            "p.grad is None or ((p.grad / 1024 - wanted).abs() <= 1e-5 * (1e-3 + wanted.abs())).all()",
            "the gradient of {name} through a scaled loss is {p.grad.tolist()}, without {plain[name]}",
        )
    if getattr(getattr(torch, "amp", None), "GradScaler", None) is None or "mps" in case.device:
        return
    with script.block("for p in net.parameters():"):
        script.add("p.grad = None")
    script.add(f'scaler = torch.amp.GradScaler("{case.device.partition(":")[0]}", init_scale=1024.0)')
    script.add(f"scaler.scale({recipe.loss}).backward()")
    script.add("scaler.step(optimizer)", "scaler.update()")
    recipe.check_stays(recipe.frozen, "under GradScaler frozen {name}")
    script.note("scaled", "scaled = net")
    recipe.network().freeze().optimizer()
    recipe.backward()
    recipe.apply()
    with script.block("for (name, p), q in zip(scaled.named_parameters(), net.parameters()):"):
        script.check(
            f"name in {recipe.frozen} or ((p - q).abs() <= 1e-9 + 1e-6 * q.abs()).all()",
            "{name} is {p.tolist()} under GradScaler, {q.tolist()} without",
        )


@reproduces(FILE + "test_zero_grad_clears_all")
def zero_grad(case: Case, script: Script) -> None:
    """A backward, freezing, zero_grad."""
    run, set_to_none, by = case.draws(None, True, "optimizer")
    recipe = Recipe(script, case, dataclasses.replace(run, frozen=(), listed="all")).setup()
    recipe.before()
    recipe.backward()
    later = recipe.with_run(frozen=run.frozen)
    later.freeze()
    script.add(f"{by}.zero_grad(set_to_none={set_to_none})")
    condition = "p.grad is None" if set_to_none else "p.grad is not None and not p.grad.any()"
    with script.block("for p in [p for group in optimizer.param_groups for p in group['params']]:"):
        script.check(condition, "after zero_grad a gradient is {p.grad}")
    with script.block("for name, p in net.named_parameters():"):
        script.check("repr(p.tolist()) == before[name]", "zero_grad changed {name}")
        script.check(
            f"p.requires_grad == (name not in {later.frozen})", "zero_grad changed the flag of {name}"
        )
