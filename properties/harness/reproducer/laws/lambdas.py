"""Programs for the laws of filter, map and reduce."""

import dataclasses

from frostproof.properties.harness.reproducer.case import Case
from frostproof.properties.harness.reproducer.laws.equivalence import compare, emit_both
from frostproof.properties.harness.reproducer.registry import reproduces
from frostproof.properties.harness.reproducer.script import Script
from frostproof.properties.harness.reproducer.training import Recipe
from frostproof.strategies import OptimizerSpec

FILE = "test_lambda.py::"


@reproduces(FILE + "test_filter_keeps_matches_in_order")
def filter_keeps(case: Case, script: Script) -> None:
    """filter on the drawn numbers."""
    numbers, divisor = case["numbers"], case["divisor"]
    script.add("asked = []")
    script.add(f"kept = filter(lambda n: asked.append(n) or n % {divisor} == 0, {numbers})")
    script.check("asked == []", "filter asked before the first item was taken")
    script.check(f"list(kept) == {[n for n in numbers if n % divisor == 0]}", "filter kept others")
    script.check("list(kept) == []", "filter gave items a second time")


@reproduces(FILE + "test_map_keeps_length_and_order")
def map_keeps(case: Case, script: Script) -> None:
    """map on the drawn numbers."""
    numbers, factor = case["numbers"], case["factor"]
    script.add("asked = []")
    script.add(f"mapped = map(lambda n: asked.append(n) or n * {factor} + 10, {numbers})")
    script.check("asked == []", "map asked before the first item was taken")
    script.check(f"list(mapped) == {[n * factor + 10 for n in numbers]}", "map gave others")
    script.check("list(mapped) == []", "map gave items a second time")


@reproduces(FILE + "test_reduce_is_the_left_fold")
def reduce_is_the_fold(case: Case, script: Script) -> None:
    """reduce on the drawn numbers."""
    total = case["start"]
    for number in case["numbers"]:
        total = total * 3 - number
    script.add(
        f"total = reduce(lambda left, right: left * 3 - right, {case['numbers']}, {case['start']})"
    )
    script.check(f"total == {total}", f"reduce gave {{total}}, the left fold is {total}")


@reproduces(FILE + "test_filtered_optimizer_trains_alike")
def filtered_trains_alike(case: Case, script: Script) -> None:
    """The same training over all parameters and over the filtered ones."""
    (run,) = case.draws(None)
    if run.optimizer.needs_closure:
        run = dataclasses.replace(run, optimizer=OptimizerSpec("Adam", (("lr", 0.01),)))
    recipe = Recipe(script, case, dataclasses.replace(run, listed="all"))
    matrices = " and p.dim() == 2" if run.optimizer.matrices_only else ""
    live = [n for n in run.unfrozen() if not matrices or n.endswith("linear.weight")]
    filtered = f"filter(lambda p: p.requires_grad{matrices}, net.parameters())" if live else None
    emit_both(script, recipe, recipe.with_run(), {}, {"over": filtered})
    compare(script, recipe, "ends otherwise under an optimizer over the filtered parameters")


@reproduces(FILE + "test_exhausted_filter_is_refused")
def exhausted_filter(case: Case, script: Script) -> None:
    """A filter used twice."""
    run = case["run"]
    Recipe(script, case, run).network()
    script.add("trainable = filter(lambda p: p.requires_grad, net.parameters())")
    script.add("count = len(list(trainable))")
    wanted = len(run.network.parameter_names())
    script.check(f"count == {wanted}", f"the filter gave {{count}} parameters, not {wanted}")
    script.raises(
        "ValueError",
        "torch.optim.SGD(trainable, lr=0.1)",
        "an optimizer over an exhausted filter",
        "empty parameter list",
    )


@reproduces(FILE + "test_map_and_reduce_agree_with_loops")
def map_and_reduce(case: Case, script: Script) -> None:
    """Snapshots by map, totals by reduce."""
    run = case["run"]
    Recipe(script, case, run).network()
    script.add("copies = list(map(lambda p: p.detach().clone(), net.parameters()))")
    total = sum(p.numel() for p in run.network.build().parameters())
    script.note(
        "total",
        "total = reduce(lambda left, right: left + right, map(lambda p: p.numel(), net.parameters()))",
    )
    script.check(f"len(copies) == {len(run.network.parameter_names())}", "{len(copies)} snapshots")
    with script.block("for copied, p in zip(copies, net.parameters()):"):
        script.check("repr(copied.tolist()) == repr(p.tolist())", "a snapshot by map has other values")
    script.check(f"total == {total}", f"elements by reduce: {{total}}, not {total}")
