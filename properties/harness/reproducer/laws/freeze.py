"""Programs for the laws of freezing."""

import contextlib
import dataclasses
import functools
from typing import Any, ContextManager

import torch

from frostproof.properties.harness.reproducer.case import Case
from frostproof.properties.harness.reproducer.laws.cut import GRADIENTS
from frostproof.properties.harness.reproducer.laws.detach import (
    GEOMETRY,
    emit_attached,
    requires_grad,
    source_of,
)
from frostproof.properties.harness.reproducer.registry import reproduces
from frostproof.properties.harness.reproducer.script import Script
from frostproof.properties.harness.reproducer.training import Recipe, options_text
from frostproof.properties.test_freeze_midway import TRAPS, mlp_of
from frostproof.properties.test_training_tools import CLIPPINGS, SCHEDULERS, clipping_tolerance
from frostproof.strategies import OptimizerSpec, TrainingRun
from frostproof.strategies.optimizers import implementations

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
    with recipe.counted_steps() as step:
        recipe.step()
        where = f"after step {step} of {name}"
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


def others_gradients(case: Case, script: Script, place: int, compared: bool) -> None:
    """Gradients with one of the masks; compared with those of the whole net, or only whether."""
    network, first, second, batch = case.draws(None, (), (), 3)
    recipe = Recipe(script, case, TrainingRun(network, batch=batch, seed=network.seed))
    recipe.network().data().forward()
    everything = recipe.ordered(network.parameter_names())
    if compared:
        recipe.backward()
        recipe.each(everything, "p.grad is not None", "{name} is live, but got no gradient")
        script.note("whole", f"whole = {GRADIENTS}")
        with script.block("for p in net.parameters():"):
            script.add("p.grad = None")
    masked = recipe.with_run(frozen=(first, second)[place]).freeze()
    masked.backward()
    gets = masked.gets()
    masked.each(masked.frozen, "p.grad is None", "frozen {name} got a gradient")
    masked.each(gets, "p.grad is not None", "{name} gets no gradient once others are frozen")
    if compared:
        shown = masked.if_small(": {p.grad.tolist()}, before {whole[name]}")
        sentence = f"{{name}} has another gradient once others are frozen{shown}"
        masked.each(gets, "repr(p.grad.tolist()) == repr(whole[name])", sentence)


for compared in (False, True):
    for place in (0, 1):
        reproduces(FILE + "test_others_gradients_do_not_depend_on_the_mask")(
            functools.partial(others_gradients, place=place, compared=compared)
        )


@reproduces(FILE + "test_ways_to_ask_for_gradients")
def ways_to_ask(case: Case, script: Script) -> None:
    """By backward, by autograd.grad, by backward(inputs=), and by the same graph again."""
    (run,) = case.draws(None)
    recipe = Recipe(script, case, run).setup(optimizer=False)
    recipe.backward()
    script.add(
        f"expected = {GRADIENTS}",
        "names = [name for name, g in expected.items() if g is not None]",
        "named = dict(net.named_parameters())",
    )
    with script.block("for p in net.parameters():"):
        script.add("p.grad = None")
    script.add(f"loss = {recipe.loss}")
    script.add("found = torch.autograd.grad(loss, [named[name] for name in names], retain_graph=True)")
    with script.block("for name, g in zip(names, found):"):
        script.check(
            "repr(g.tolist()) == repr(expected[name])",
            "autograd.grad gives {name} {g.tolist()}, backward {expected[name]}",
        )
    with script.block("for name, p in named.items():"):
        script.check("p.grad is None", "autograd.grad left a .grad at {name}")
        with script.block("if name not in names:"):
            script.raises(
                "RuntimeError",
                "torch.autograd.grad(loss, p, retain_graph=True)",
                "autograd.grad of a parameter that is frozen or cut off",
            )
    script.add("some = names[:: 2 if len(names) > 1 else 1]")
    script.add("loss.backward(retain_graph=True, inputs=[named[name] for name in some])")
    with script.block("for name, p in named.items():"):
        script.check(
            "(p.grad is not None) == (name in some)", "after backward(inputs={some}) {name}: {p.grad}"
        )
    script.add("loss.backward()")
    with script.block("for name, p in named.items():"):
        script.check(
            "name in names or p.grad is None", "{name}, frozen or cut off, got a gradient: {p.grad}"
        )
        script.check(
            "name not in names or p.grad is not None", "{name} got no gradient from the kept graph"
        )
        script.add("wanted = torch.tensor(expected[name] or [], dtype=dtype, device=device)")
        script.add("wanted = wanted + wanted if name in some else wanted")
        script.check(
            "name not in names or repr(p.grad.tolist()) == repr(wanted.tolist())",
            "{name}: the same graph again gave {p.grad.tolist()}, not {wanted.tolist()}",
        )


@reproduces(FILE + "test_flags_and_hooks_at_backward")
def flags_and_hooks(case: Case, script: Script) -> None:
    """Flags that change between forward and backward; hooks."""
    network, mask, late = case.draws(None, (), ())
    run = TrainingRun(network, mask, batch=4, seed=network.seed)
    if not run.gets_gradient():
        run = dataclasses.replace(run, frozen=())
    recipe = Recipe(script, case, run).setup(optimizer=False)
    recipe.backward()
    script.add(f"expected = {GRADIENTS}", "seen = {name: [] for name in expected}")
    with script.block("for name, p in net.named_parameters():"):
        script.add("p.grad = None")
        with script.block("if p.requires_grad:"):
            script.add("p.register_hook(lambda g, seen=seen[name]: seen.append(repr(g.tolist())))")
            if hasattr(torch.Tensor, "register_post_accumulate_grad_hook"):
                with script.block("def after(p, seen=seen[name]):"):
                    script.add("p.grad is None or seen.append(repr(p.grad.tolist()))")
                script.add("p.register_post_accumulate_grad_hook(after)")
        with script.block("else:"):
            script.raises(
                "RuntimeError",
                "p.register_hook(lambda g: None)",
                "register_hook on a frozen parameter",
                "grad",
            )
    script.add(f"loss = {recipe.loss}")
    stopped = recipe.with_run(frozen=tuple(late))
    stopped.freeze()
    script.add("loss.backward()")
    frozen = tuple(dict.fromkeys((*recipe.frozen, *stopped.frozen)))
    live = tuple(n for n in recipe.ordered(network.parameter_names()) if n not in frozen)
    recipe.each(frozen, "p.grad is None", "{name} was frozen before backward, but got a gradient")
    recipe.each(
        live,
        "p.grad is not None and repr(p.grad.tolist()) == repr(expected[name])",
        "{name} got {p.grad}, before others were frozen {expected[name]}",
    )
    hooks = 2 if hasattr(torch.Tensor, "register_post_accumulate_grad_hook") else 1
    recipe.each(
        live,
        f"seen[name] == [repr(expected[name])] * {hooks}",
        "the hooks of {name} saw {seen[name]}",
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


@reproduces(FILE + "test_fused_sgd_takes_a_late_gradient")
def late_gradient(case: Case, script: Script) -> None:
    """One parameter from the start, another after a step."""
    fused = ", fused=True" if "fused" in implementations("SGD", case.device, case.dtype) else ""
    script.add(
        "early, late = (nn.Parameter(torch.ones(2, dtype=dtype, device=device)) for _ in range(2))",
        "late.requires_grad = False",
        f"optimizer = torch.optim.SGD([early, late], lr=0.5, momentum=0.5{fused})",
    )
    with script.block("for _ in range(2):"):
        script.add(
            "early.grad = torch.ones_like(early)",
            "late.grad = torch.ones_like(late) if late.requires_grad else None",
            "optimizer.step()",
            "late.requires_grad = True",
        )
    script.check("early.tolist() == [-0.25, -0.25]", "the parameter live from the start: {early}")
    script.check("late.tolist() == [0.5, 0.5]", "the parameter unfrozen after a step: {late}")


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
    run, (kind, largest) = case.draws(None, CLIPPINGS[0])
    recipe = Recipe(script, case, run).setup()
    recipe.before()
    recipe.backward()
    info = torch.finfo(case.dtype)
    named = dict(run.network.build("cpu", case.dtype).named_parameters())
    count = sum(named[name].numel() for name in run.gets_gradient())
    unit, least = clipping_tolerance(case.dtype, count), 2 * float(info.eps * info.tiny)
    script.add(
        "old = {name: p.grad.double().clone() for name, p in net.named_parameters() "
        "if p.grad is not None}"
    )
    if kind == "value":
        script.add(f"nn.utils.clip_grad_value_(net.parameters(), {largest})")
        script.add(f"wanted = {{name: g.clamp(-{largest}, {largest}) for name, g in old.items()}}")
    else:
        script.add(f"norm = torch.cat([g.flatten() for g in old.values()]).norm({kind}).item()")
        script.add(f"found = nn.utils.clip_grad_norm_(net.parameters(), {largest}, norm_type={kind})")
        script.check(
            f"abs(float(found) - norm) <= 1e-6 + {unit:.3g} * norm",
            f"clip_grad_norm_ says that the {kind}-norm is {{float(found)}}, it is {{norm}}",
        )
        script.add(f"factor = min(1, {largest} / (norm + 1e-6))")
        script.add("wanted = {name: g * factor for name, g in old.items()}")
    everything = recipe.ordered(run.network.parameter_names())
    recipe.check_stays(everything, "clipping: {name}")
    gets = recipe.gets()
    others = tuple(n for n in everything if n not in gets)
    recipe.each(gets, "p.grad is not None", "clipping lost the gradient of {name}")
    recipe.each(
        gets,
        "((p.grad.double() - wanted[name]).abs() "
        f"<= {least!r} + {unit:.3g} * wanted[name].abs()).all()",
        "the clipped gradient of {name} is {p.grad.tolist()}, not {wanted[name].tolist()}",
    )
    recipe.each(others, "p.grad is None", "clipping gave {name} a gradient")
    if not run.optimizer.needs_closure:
        recipe.apply()
    recipe.check_stays(recipe.frozen, "after clipping frozen {name}")


@reproduces(FILE + "test_clipping_without_gradients")
def clipping_without_gradients(case: Case, script: Script) -> None:
    """Clipping a net that is frozen as a whole."""
    network = case["network"]
    run = TrainingRun(network, frozen=network.parameter_names(), seed=network.seed)
    recipe = Recipe(script, case, run).setup()
    recipe.before()
    if case["kind"] == "value":
        script.add("nn.utils.clip_grad_value_(net.parameters(), 1.0)")
    else:
        script.add("norm = nn.utils.clip_grad_norm_(net.parameters(), 1.0)")
        script.check("float(norm) == 0", "the norm of no gradients is {norm}")
    recipe.check_stays(recipe.frozen, "clipping moved {name}")
    script.check("all(p.grad is None for p in net.parameters())", "clipping made gradients")


@reproduces(FILE + "test_accumulation_leaves_frozen")
def accumulation(case: Case, script: Script) -> None:
    """Several backwards."""
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
    script.add(
        "places = {name: p.grad.data_ptr() for name, p in net.named_parameters() if p.grad is not None}"
    )
    with script.block("for times in range(2, 6):"):
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
            script.check(
                "name not in total or p.grad.data_ptr() == places[name]",
                "{name}: backward number {times} put the gradient in other memory",
            )


@reproduces(FILE + "test_schedulers_leave_frozen")
def schedulers(case: Case, script: Script) -> None:
    """Training under a scheduler."""
    run, (name, options, factor, given) = case.draws(None, SCHEDULERS[0])
    recipe = Recipe(script, case, run).setup()
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
        script.add(f"scheduler.step({', '.join(map(repr, given))})")
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
    other = dataclasses.replace(run.network, seed=run.network.seed + 1)
    with script.block("def train(reload):"):
        recipe.network().freeze()
        recipe.before()
        recipe.optimizer()
        recipe.step()
        with script.block("if reload:"):
            script.add("saved = copy.deepcopy((net.state_dict(), optimizer.state_dict()))")
            if run.clearing == "keep":
                script.add("kept = [p.grad for p in net.parameters()]")
            Recipe(script, case, dataclasses.replace(run, network=other)).network().freeze()
            recipe.optimizer()
            script.add("net.load_state_dict(saved[0])", "optimizer.load_state_dict(saved[1])")
            script.check(
                f"[p.requires_grad for n, p in net.named_parameters() if n in {recipe.frozen}] "
                f"== {[False] * len(recipe.frozen)}",
                "load_state_dict unfreezes",
            )
            if run.clearing == "keep":
                with script.block("for p, grad in zip(net.parameters(), kept):"):
                    script.add("p.grad = grad")
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
    network, mask, spec = case.draws(None, (), OptimizerSpec("SGD", (("lr", 0.1),)))
    run = TrainingRun(network, frozen=mask, optimizer=spec, batch=4, seed=network.seed)
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
    if network.seed % 2:
        script.add("scaler.unscale_(optimizer)")
        recipe.each(
            live,
            "((p.grad - torch.tensor(plain[name], dtype=dtype, device=device)).abs() "
            "<= 1e-9 + 1e-6 * p.grad.abs()).all()",
            "unscale_ left {name} {p.grad.tolist()}, without scaling it is {plain[name]}",
        )
    script.add("scaler.step(optimizer)", "scaler.update()")
    recipe.check_stays(recipe.frozen, "under GradScaler frozen {name}")
    script.note("stepped", "stepped = [p.tolist() for p in net.parameters()]")
    recipe.clear()
    script.add(f"scaler.scale({recipe.loss}).backward()")
    script.add(
        "last = [p for p in net.parameters() if p.grad is not None][-1]",
        "last.grad.view(-1)[-1] = float('inf')",
        "scale = scaler.get_scale()",
        "scaler.step(optimizer)",
    )
    script.check(
        "repr([p.tolist() for p in net.parameters()]) == repr(stepped)",
        "GradScaler took a step with an infinite gradient",
    )
    script.add("scaler.update()")
    script.check(
        "scaler.get_scale() == scale / 2",
        "after an infinite gradient the scale {scale} became {scaler.get_scale()}",
    )
    recipe.network().freeze().optimizer()
    recipe.backward()
    recipe.apply()
    script.note("scaled", "scaled = [torch.tensor(v, dtype=dtype, device=device) for v in stepped]")
    with script.block("for p, (name, q) in zip(scaled, net.named_parameters()):"):
        script.check(
            f"name in {recipe.frozen} or ((p - q).abs() <= 1e-9 + 1e-6 * q.abs()).all()",
            "{name} is {p.tolist()} under GradScaler, {q.tolist()} without",
        )


@reproduces(FILE + "test_zero_grad_clears_all")
def zero_grad(case: Case, script: Script) -> None:
    """A backward, freezing, zero_grad."""
    run, set_to_none, whole = case.draws(None, True, False)
    recipe = Recipe(script, case, dataclasses.replace(run, frozen=(), listed="all")).setup()
    recipe.before()
    recipe.backward()
    later = recipe.with_run(frozen=run.frozen)
    later.freeze()
    script.add(f"{'net' if whole else 'optimizer'}.zero_grad(set_to_none={set_to_none})")
    condition = "p.grad is None" if set_to_none else "p.grad is not None and not p.grad.any()"
    listed = "[p for group in optimizer.param_groups for p in group['params']]"
    with script.block(f"for p in {'net.parameters()' if whole else listed}:"):
        script.check(condition, "after zero_grad a gradient is {p.grad}")
    with script.block("for name, p in net.named_parameters():"):
        script.check("repr(p.tolist()) == before[name]", "zero_grad changed {name}")
        script.check(
            f"p.requires_grad == (name not in {later.frozen})", "zero_grad changed the flag of {name}"
        )
