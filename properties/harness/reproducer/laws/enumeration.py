"""Programs for the enumeration of every mask and cut."""

import re
from ast import literal_eval

from frostproof.properties.harness.reproducer.case import Case
from frostproof.properties.harness.reproducer.laws.cut import GRADIENTS
from frostproof.properties.harness.reproducer.laws.optimizers import emit_gradient_checks
from frostproof.properties.harness.reproducer.registry import reproduces
from frostproof.properties.harness.reproducer.script import Script
from frostproof.properties.harness.reproducer.training import Recipe, options_text
from frostproof.properties.harness.running.trainer import Trainer
from frostproof.properties.test_enumeration import SPECS, network_of
from frostproof.strategies import Cuts, TrainingRun

TEST = "test_enumeration.py::test_every_mask_and_cut"


def described_run(case: Case) -> TrainingRun:
    """The mask and the cut that the broken law's sentence names; none where it names none."""
    text = str(case.seen)
    cut = re.search(r"cut (?:at )?(\d+)", text)
    frozen = re.search(r"frozen (\[[^\]]*\])", text)
    depth = case["depth"]
    return TrainingRun(
        network_of(depth),
        frozen=tuple(literal_eval(frozen.group(1))) if frozen else (),
        cuts=Cuts((int(cut.group(1)),) if cut else ()),
        batch=3,
        seed=depth,
    )


@reproduces(TEST)
def masked(case: Case, script: Script) -> None:
    """Gradients and two steps of the masked net, against the same net with nothing frozen."""
    run = described_run(case)
    recipe = Recipe(script, case, run)
    recipe.network().data().forward()
    live = recipe.with_run(frozen=())
    live.backward()
    script.add(f"whole = {GRADIENTS}")
    with script.block("for name, p in net.named_parameters():"):
        script.add("p.grad = None")
    recipe.freeze()
    gets = recipe.gets()
    others = tuple(n for n in recipe.ordered(run.network.parameter_names()) if n not in gets)
    if gets:
        recipe.backward()
    else:
        script.raises(
            "RuntimeError", f"{recipe.loss}.backward()", "backward with nothing to reach", "grad"
        )
    recipe.each(others, "p.grad is None", "{name} must get no gradient, but has one")
    recipe.each(
        gets,
        "p.grad is not None and repr(p.grad.tolist()) == repr(whole[name])",
        "{name} has another gradient than with nothing frozen",
    )
    if not gets:
        return
    recipe.before()
    for spec in SPECS:
        script.note("versions", "versions = {name: p._version for name, p in net.named_parameters()}")
        script.add(f"optimizer = torch.optim.{spec.name}(net.parameters(){options_text(spec)})")
        script.add("optimizer.step()", "optimizer.step()")
        recipe.check_stays(others, f"two steps of {spec.name}: {{name}}")
        recipe.each(
            recipe.frozen,
            "p._version == versions[name]",
            f"{spec.name} wrote to frozen {{name}} (its version counter moved)",
        )


@reproduces(TEST)
def reference(case: Case, script: Script) -> None:
    """The gradients against the reference."""
    run = described_run(case)
    recipe = Recipe(script, case, run).setup(optimizer=False)
    if run.gets_gradient():
        recipe.backward()
        emit_gradient_checks(script, recipe, Trainer(run, case.device, case.dtype))
