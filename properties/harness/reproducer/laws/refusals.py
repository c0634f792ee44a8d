"""Programs for the laws of what torch must refuse."""

from frostproof.properties.harness.reproducer.case import Case
from frostproof.properties.harness.reproducer.laws.cut import GRADIENTS
from frostproof.properties.harness.reproducer.registry import reproduces
from frostproof.properties.harness.reproducer.script import Script
from frostproof.properties.harness.reproducer.training import Recipe
from frostproof.properties.test_refusals import HALVES, IN_PLACE

FILE = "test_refusals.py::"


@reproduces(FILE + "test_leaves_refuse_in_place")
def leaves_refuse_in_place(case: Case, script: Script) -> None:
    """Every in-place operation on live and frozen parameters, in both grad modes."""
    for code, value in IN_PLACE.items():
        with script.block(f"for shape in {HALVES}:"):
            for live, mode in ((True, "enable_grad"), (False, "enable_grad"), (True, "no_grad")):
                script.add(
                    "p = torch.full(shape, 0.5, device=device, dtype=dtype)",
                    f"p = nn.Parameter(p, requires_grad={live})",
                )
                with script.block(f"with torch.{mode}():"):
                    if live and mode == "enable_grad":
                        script.raises("RuntimeError", code, f"a live leaf took {code}", "leaf")
                    else:
                        script.add(code)
                left = 0.5 if live and mode == "enable_grad" else value
                script.check(f"(p == {left}).all()", f"{code} on a leaf of halves left {{p.tolist()}}")
                script.check(
                    f"p.requires_grad is {live}", f"after {code} requires_grad is {{p.requires_grad}}"
                )
                script.check("p.grad_fn is None", f"a leaf has a grad_fn after {code}")


@reproduces(FILE + "test_backward_refuses")
def backward_refuses(case: Case, script: Script) -> None:
    """backward of many numbers, from another shape, and a second time."""
    (run,) = case.draws(None)
    recipe = Recipe(script, case, run).setup()
    script.add(f"output = {recipe.output}")
    many = run.batch * run.network.layers[-1].width > 1
    if many:
        script.raises("RuntimeError", "output.backward()", "backward of many numbers", "scalar")
    script.note("wrong", "wrong = torch.ones(output.numel() + 1, device=device, dtype=dtype)")
    script.raises("RuntimeError", "output.backward(wrong)", "backward from another shape", "shape")
    script.check("all(p.grad is None for p in net.parameters())", "a refused backward left gradients")
    script.add(f"loss = {recipe.loss}", "loss.backward()")
    script.note("once", f"once = {GRADIENTS}")
    script.raises("RuntimeError", "loss.backward()", "backward through a used graph", "second time")
    script.check(f"repr({GRADIENTS}) == repr(once)", "a refused backward changed the gradients")
