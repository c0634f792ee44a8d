"""Programs for the source article's worked examples."""

from typing import Tuple

from frostproof.properties.harness.reproducer.case import Case
from frostproof.properties.harness.reproducer.registry import reproduces
from frostproof.properties.harness.reproducer.script import Script

FILE = "test_article.py::"


def _graph(script: Script) -> None:
    script.add(
        "x = torch.tensor(1.0, device=device, dtype=dtype)",
        "a = torch.tensor(1.0, device=device, dtype=dtype, requires_grad=True)",
        "b = nn.Parameter(torch.tensor(2.0, device=device, dtype=dtype))",
        "y = a**2 * x + b * x",
        "z = y**2 + 2 * y",
    )


def _step(script: Script, leaves: str, result: str) -> None:
    script.add(f"optimizer = torch.optim.SGD([{leaves}], lr=0.01)", f"{result}.backward()")
    script.add("optimizer.step()")


def _value(script: Script, name: str, value: float) -> None:
    script.check(
        f"abs({name}.item() - {value}) <= {1e-6 * abs(value):.3g}",
        f"{name} is {{{name}.item()}}, expected {value}",
    )


@reproduces(FILE + "test_detached_values_follow")
def detached_follow(case: Case, script: Script) -> None:
    """A1."""
    _graph(script)
    script.add("ta, tb = a.detach(), b.detach()")
    _step(script, "a, b", "z")
    for name, value in (("a", 0.84), ("ta", 0.84), ("b", 1.92), ("tb", 1.92)):
        _value(script, name, value)
    script.check('"grad_fn" not in repr(ta)', "a detached tensor prints a grad_fn: {ta}")
    script.check('"requires_grad" not in repr(tb)', "a detached tensor requires grad: {tb}")


@reproduces(FILE + "test_cloned_values_stay")
def cloned_stay(case: Case, script: Script) -> None:
    """A2."""
    _graph(script)
    script.add("ta, tb = a.clone(), b.clone()")
    _step(script, "a, b", "z")
    for name, value in (("a", 0.84), ("ta", 1.0), ("b", 1.92), ("tb", 2.0)):
        _value(script, name, value)
    for name in ("ta", "tb"):
        script.check(f'"grad_fn=<CloneBackward" in repr({name})', f"a clone prints as {{{name}}}")


@reproduces(FILE + "test_backward_through_a_clone")
def through_a_clone(case: Case, script: Script) -> None:
    """A3."""
    _graph(script)
    _step(script, "a, b", "z.clone()")
    for name, value in (("a", 0.84), ("b", 1.92), ("a.grad", 16.0), ("b.grad", 8.0)):
        _value(script, name, value)


@reproduces(FILE + "test_lambda_examples")
def lambda_examples(case: Case, script: Script) -> None:
    """A4."""
    script.add("numbers = [2, 18, 9, 22, 17, 24, 8, 12, 27]")
    script.add("kept = filter(lambda n: n % 3 == 0, numbers)")
    script.add("mapped = map(lambda n: n * 2 + 10, numbers)")
    script.check(
        "iter(kept) is kept and iter(mapped) is mapped", "filter and map are not their own iterators"
    )
    script.check("list(kept) == [18, 9, 24, 12, 27]", "filter did not keep the multiples of 3")
    script.check("list(mapped) == [14, 46, 28, 54, 44, 58, 26, 34, 64]", "map gave other numbers")
    script.add("total = reduce(lambda left, right: left + right, numbers)")
    script.check("total == 139", "reduce gave {total}, not 139")
    script.check("(list(kept), list(mapped)) == ([], [])", "filter or map gave items twice")


def _trained(script: Script, cut: bool, frozen: str = "") -> None:
    script.add(
        "generator = torch.Generator().manual_seed(5)",
        "layer1, layer2 = nn.Linear(10, 5), nn.Linear(5, 3)",
        "net = nn.Sequential(layer1, layer2).to(device, dtype)",
    )
    with script.block("with torch.no_grad():"):
        with script.block("for p in net.parameters():"):
            script.add("p.copy_(torch.rand(p.shape, generator=generator) * 0.6 - 0.2)")
    if frozen:
        script.add(f"{frozen}.requires_grad = False")
    script.add(
        "before = {name: repr(p.tolist()) for name, p in net.named_parameters()}",
        "x = torch.randn(8, 10, generator=generator).to(device, dtype)",
        "target = torch.zeros(8, 3, device=device, dtype=dtype)",
        "optimizer = torch.optim.SGD(net.parameters(), lr=0.01)",
    )
    with script.block("for step in range(100):"):
        hidden = "layer1(x).detach()" if cut else "layer1(x)"
        script.add(
            f"loss = nn.functional.mse_loss(torch.relu(layer2({hidden})), target)",
            "optimizer.zero_grad()",
            "loss.backward()",
            "optimizer.step()",
        )


def _check_unmoved(script: Script, unmoved: Tuple[str, ...]) -> None:
    with script.block("for name, p in net.named_parameters():"):
        if unmoved:
            script.check(f"name not in {unmoved} or repr(p.tolist()) == before[name]", "{name} moved")
        script.check(f"name in {unmoved} or repr(p.tolist()) != before[name]", "{name} was not trained")


@reproduces(FILE + "test_detach_between_layers")
def between_layers(case: Case, script: Script) -> None:
    """A5."""
    _trained(script, case["cut"])
    _check_unmoved(script, ("0.weight", "0.bias") if case["cut"] else ())


@reproduces(FILE + "test_freeze_one_weight")
def one_weight(case: Case, script: Script) -> None:
    """A6."""
    _trained(script, False, "layer1.weight")
    _check_unmoved(script, ("0.weight",))


@reproduces(FILE + "test_requires_grad_false")
def requires_grad_false(case: Case, script: Script) -> None:
    """A7."""
    script.add("constant = torch.tensor(3.0, device=device, dtype=dtype)")
    script.raises("RuntimeError", "(constant * 2).backward()", "backward without requires_grad", "grad")
    script.add(
        "early = torch.tensor(2.0, device=device, dtype=dtype, requires_grad=True)",
        "late = torch.tensor(5.0, device=device, dtype=dtype, requires_grad=True)",
        "leaf = torch.tensor(7.0, device=device, dtype=dtype)",
        "middle = (early * 3).detach()",
    )
    _step(script, "early, late, leaf", "(middle * late * leaf)")
    script.check("early.grad is None", "before the cut arrived the gradient {early.grad}")
    script.check("leaf.grad is None", "a leaf that does not require grad got {leaf.grad}")
    script.check("early.item() == 2 and leaf.item() == 7", "early {early.item()}, leaf {leaf.item()}")
    _value(script, "late", 5.0 - 0.01 * 42.0)
