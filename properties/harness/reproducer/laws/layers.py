"""Programs for the laws of single layers of torch.nn."""

from frostproof.properties.harness.reproducer.case import Case
from frostproof.properties.harness.reproducer.registry import reproduces
from frostproof.properties.harness.reproducer.script import Script
from frostproof.properties.test_layers import SHIFTS, room_of
from frostproof.strategies import LayerCase
from frostproof.strategies.layer_kinds import KINDS

FILE = "test_layers.py::"


def _emit_layer(script: Script, case: LayerCase) -> None:
    """The layer and its input, with nothing frozen, and how it is applied."""
    kind = KINDS[case.kind]
    script.add(f"layer = {kind.make}.to(device, dtype).train({case.train})")
    script.add(f"generator = torch.Generator().manual_seed({case.seed})")
    with script.block("for p in layer.parameters():"):
        drawn = "torch.rand(p.shape, generator=generator, dtype=torch.float64)"
        script.add(f"p.data.copy_({drawn} * 2 - 1)")
    if kind.tokens:
        script.add(f"x = torch.randint(0, {kind.tokens}, {kind.shape}, generator=generator).to(device)")
    else:
        script.add(f"x = torch.rand({kind.shape}, generator=generator, dtype=torch.float64) * 2 - 1")
        script.add("x = x.to(device, dtype)")
    with script.block("def apply(layer, x):"):
        script.add(f"return {kind.call}")
    with script.block("def waves(y):"):
        script.add("return torch.arange(1, y.numel() + 1).double().mul(2.4).sin().reshape(y.shape)")


@reproduces(FILE + "test_functions_of_every_kind")
@reproduces(FILE + "test_layers_of_every_kind")
def layers_of_every_kind(case: Case, script: Script) -> None:
    """One layer, its output, its gradients and their central differences."""
    (drawn,) = case.draws(LayerCase(case["kind"]))
    kind = KINDS[drawn.kind]
    layer, x = drawn.build("cpu", case.dtype)
    leaves = [name for name, _ in layer.named_parameters()] + ["input"] * x.requires_grad
    live = [name for name in leaves if name not in drawn.frozen]
    _emit_layer(script, drawn)
    copied = "x.cpu()" if kind.tokens else "x.cpu().double()"
    script.note("twin", f"twin, z = copy.deepcopy(layer).cpu().double(), {copied}")
    if drawn.frozen:
        with script.block("for name, p in layer.named_parameters():"):
            script.add(f"p.requires_grad = name not in {list(drawn.frozen)}")
    if x.requires_grad:
        script.add("x.requires_grad = True")
    script.add("leaves = dict(layer.named_parameters(), input=x)")
    script.note("before", "before = {name: repr(leaf.tolist()) for name, leaf in leaves.items()}")
    script.add("y = apply(layer, x)")
    script.check(f"y.requires_grad is {bool(live)}", "requires_grad of the output is {y.requires_grad}")
    if live:
        script.add("y.backward(waves(y).to(device, dtype))")
    with script.block("for name, leaf in leaves.items():"):
        script.check("repr(leaf.tolist()) == before[name]", "forward and backward changed {name}")
        script.check(
            f"(leaf.grad is not None) == (name in {live})", "the gradient of {name} is {leaf.grad}"
        )
    room, near = room_of(case.device, case.dtype), SHIFTS[-1]
    script.note("wanted", "wanted = apply(twin, z)")
    script.check(
        f"((y.double().cpu() - wanted).abs() <= {room} * (1 + wanted.abs())).all()",
        "the output is {y.tolist()}, with nothing frozen {wanted.tolist()}",
    )
    padding = getattr(layer, "padding_idx", None)
    if padding is not None and "weight" in live:
        script.check(f"not layer.weight.grad[{padding}].any()", "the padding has a gradient")
    with script.block("def total(leaf, way, shift):"):
        script.add("leaf.data.add_(way, alpha=shift)", "y = apply(twin, z)")
        script.add("leaf.data.sub_(way, alpha=shift)", "return (y * waves(y)).sum().item()")
    with script.block(f"for name in {live}:"):
        script.note("gradient", "gradient = leaves[name].grad.double().cpu()")
        script.note("way", "way = waves(gradient)")
        if padding is not None:
            script.add(f"way[{padding}] = 0")
        script.note("leaf", "leaf = dict(twin.named_parameters(), input=z)[name]")
        script.note(
            "slope",
            f"slope = (total(leaf, way, {near}) - total(leaf, way, -{near})) / {2 * near}",
        )
        script.check(
            f"abs((gradient * way).sum() - slope) <= {room} * (1 + gradient.abs().sum())",
            "the gradient of {name}, {gradient.tolist()}, is not the slope of the output",
        )


@reproduces(FILE + "test_max_norm_moves_frozen")
def max_norm_moves_frozen(case: Case, script: Script) -> None:
    """An embedding with max_norm, before and after a look-up."""
    rows, frozen = case["rows"], case["frozen"]
    used = [token % rows for token in case["tokens"]]
    script.add(f"layer = nn.Embedding({rows}, 3, max_norm=1.0).to(device, dtype)")
    script.add(f"layer.requires_grad_({not frozen})")
    script.add(f"generator = torch.Generator().manual_seed({case['seed']})")
    script.add(f"values = torch.rand({rows}, 3, generator=generator, dtype=torch.float64) * 2 - 1")
    script.add("with torch.no_grad(): layer.weight.copy_(values)")
    script.note("old", "old = layer.weight.tolist()")
    script.add(f"output = layer(torch.tensor({used}, device=device))")
    script.check(f"output.requires_grad is {not frozen}", "requires_grad is {output.requires_grad}")
    with script.block("for row, (was, now) in enumerate(zip(old, layer.weight.tolist())):"):
        script.note("length", "length = sum(x * x for x in was) ** 0.5")
        script.check(
            f"length <= 1.001 or row not in {used} or all("
            "abs(x - y / length) <= 1e-4 for x, y in zip(now, was))",
            "row {row}, looked up, was {was} of length {length}, and is {now}",
        )
        script.check(
            f"repr(now) == repr(was) or row in {used} and length >= 0.999",
            "row {row}, short or not looked up, was {was} and is {now}",
        )
    with script.block(f"for value, row in zip(output.tolist(), {used}):"):
        script.check(
            "repr(value) == repr(layer.weight[row].tolist())",
            "looking up row {row} gives {value}, but it is {layer.weight[row].tolist()}",
        )
