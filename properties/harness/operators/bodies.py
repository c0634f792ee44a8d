"""What a program does that shows a law of operators broken, after the plain call: by law."""

from typing import Dict

ROUTE = """
{route}
for number, (one, two) in enumerate(zip(outputs, expected)):
    check(f"output {{number}}", one, two)
for number, (one, two) in enumerate(zip(found, slopes)):
    if number not in FROZEN:
        check(f"gradient of x{{number}}", one, two)
"""
AGAIN = """
for scale in (1, 2):
    x, partner = leaves(), {partner}
    for _ in range(2):
        outputs = call(x)
        {beside}
        ends = [outputs[place] * scale if scale > 1 else outputs[place] for place in LEARNS]
        torch.manual_seed(1)
        torch.autograd.backward(ends, [one / scale for one in WEIGHTS])
    for number, (leaf, slope) in enumerate(zip(x, slopes)):
        check(f"gradient of x{{number}} after two passes", leaf.grad, slope and slope + slope)
""".replace("slope and slope + slope", "None if slope is None else slope + slope")
# The gradients by another route, which must be those of the plain one.
ROUTES: Dict[str, str] = {
    "frozen_neighbours": "x = leaves(FROZEN)\noutputs = call(x)\nfound = gradients(outputs, x)",
    "detached": "x = leaves()\n"
    "outputs = call([one.detach() if number in FROZEN else one for number, one in enumerate(x)])\n"
    "found = gradients(outputs, x)",
    "cloned": "x = leaves()\noutputs = call([one.{cloned} for one in x])\n"
    "found = gradients(outputs, x)",
    "layouts": "x = []\nfor one in leaves():\n"
    "    with_gaps = torch.zeros((*one.shape, 2), dtype=one.dtype)\n"
    "    with_gaps[..., 0] = one.detach()\n    x.append(with_gaps[..., 0].requires_grad_())\n"
    "outputs = call(x)\nfound = gradients(outputs, x)",
    "without_grad": "with torch.no_grad():\n    outputs = call(leaves())\nfound = slopes",
    "copying_hooks": "x = leaves()\n"
    "with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().clone(), lambda t: t):\n"
    "    outputs = call(x)\nfound = gradients(outputs, x)",
    "checkpointed": "from torch.utils.checkpoint import checkpoint\n\nx = leaves()\n"
    "outputs = checkpoint(lambda *x: tuple(call(list(x))), *x, use_reentrant=False)\n"
    "found = gradients(outputs, x)",
    "graph_of_gradients": "x = leaves()\noutputs = call(x)\n"
    "found = gradients(outputs, x, create_graph=True)",
    "functional": "live = [one.requires_grad for one in expected]\n"
    "learning = lambda *x: tuple(one for one, each in zip(call(list(x)), live) if each)\n"
    "outputs, pull = torch.func.vjp(learning, *[one.detach() for one in leaves()])\n"
    "torch.manual_seed(1)\nfound = pull(tuple(WEIGHTS))\n"
    "outputs, expected = [], []",
}
BODIES: Dict[str, str] = {
    "accumulation": AGAIN.format(partner="None", beside="pass"),
    "partners": AGAIN.format(
        partner="leaves(FROZEN)",
        beside="outputs = [one + two for one, two in zip(outputs, call(partner))]",
    ),
    "inputs_stay": """
x = leaves()
before = [(one.detach().clone(), one._version) for one in x]
gradients(call(x), x)
for number, (one, (was, version)) in enumerate(zip(x, before)):
    check(f"x{number} after the call", one, was)
    one._version == version or sys.exit(f"x{number} has version {one._version}, not {version}")
""",
    "forward_mode": """
x = [one.detach() for one in leaves()]
tangents = [one.flip(0) if one.dim() else one for one in weights(x)]
learning = lambda *x: tuple(call(list(x))[place] for place in LEARNS)
for chosen in [range(len(x)), *[[number] for number in range(len(x))]]:
    def along(*some):
        given = list(x)
        for number, one in zip(chosen, some):
            given[number] = one
        return learning(*given)

    some = tuple(x[number] for number in chosen)
    outputs, ahead = torch.func.jvp(along, some, tuple(tangents[number] for number in chosen))
    terms = [wide(a) * wide(b) for a, b in zip(ahead, WEIGHTS)]
    back = [wide(slopes[n]) * wide(tangents[n]) for n in chosen if slopes[n] is not None]
    one, two = (float(sum(each.sum() for each in side)) for side in (terms, back))
    size = float(sum(each.abs().sum() for each in terms + back))
    if abs(one - two) > 4 * TOLERANCE * max(size, 1.0):
        sys.exit(f"along a tangent of x{[*chosen]} forward mode says {one}, the gradients {two}")
""",
    "twice": """
def second(frozen):
    x = leaves(frozen)
    first, tangents = gradients(call(x), x, create_graph=True), weights(x)
    live = [number for number in range(len(x)) if number not in FROZEN]
    pairs = [(first[n], tangents[n].flip(0) if tangents[n].dim() else tangents[n]) for n in live]
    pairs = [(one, weight) for one, weight in pairs if one is not None and one.requires_grad]
    if not pairs:
        return [None] * len(live)
    ends, given = zip(*pairs)
    return torch.autograd.grad(ends, [x[n] for n in live], given, allow_unused=True)


for one, two in zip(second(FROZEN), second(())):
    check("second gradient", one, two)
""",
    "without_effect": """
TOLERANCE = 0.0
for number, slope in enumerate(slopes):
    for place in range(x[number].numel() if slope is not None else 0):
        size = float(slope.flatten()[place])
        if abs(size) <= 1e-9 * max(1.0, float(slope.abs().max())):
            continue
        still = True
        for shift in (1e-3, -1e-3, 0.37):
            moved = leaves(range(len(x)))
            with torch.no_grad():
                step = torch.zeros(x[number].numel(), dtype=x[number].dtype)
                step[place] = shift
                moved[number].add_(step.view(x[number].shape))
                still &= not any(differ(one, two) for one, two in zip(call(moved), expected))
        if still:
            sys.exit(f"element {place} of x{number} has no effect, but gradient {size}")
""",
    "sharing": """
def memory(one):
    known = one.layout is torch.strided and one.numel()
    return one.untyped_storage().data_ptr() if known else 0


def places(one):
    whole = torch.arange(one.untyped_storage().nbytes() // one.element_size())
    return {*whole.as_strided(one.shape, one.stride(), one.storage_offset()).flatten().tolist()}


process = lambda output: output
rest = others()
others = lambda: rest
x = leaves()
outputs = call(x)
for place, one in enumerate(outputs):
    for other in [*x, *rest]:
        if memory(one) and memory(one) == memory(other) and one is not other and not one._is_view():
            sys.exit(f"output {place} shares the memory of an input but is no view")
    for other in outputs[:place]:
        if memory(one) and memory(one) == memory(other) and one is not other:
            if places(one) & places(other) and not one._is_view() and not other._is_view():
                sys.exit("two outputs share memory, and none is a view")
""",
    "given_out": """
def where(one):
    steps = [step for step, size in zip(one.stride(), one.shape) if size > 1]
    return one.untyped_storage().data_ptr(), steps


def with_gaps(one):
    wide = torch.zeros((*one.shape, 2), dtype=one.dtype)
    wide[..., 0] = one
    return wide[..., 0]


with torch.no_grad():
    plain = into(leaves())
    full = torch.full_like(plain, 7)
    for name, out in (("out=", full.contiguous()), ("out= with gaps", with_gaps(full))):
        was = where(out)
        made = into(leaves(), out=out)
        check(f"{name}: output", out, plain)
        made is out or sys.exit(f"{name} returns another object")
        where(out) == was or sys.exit(f"{name} moved the memory of what it was given")
x = leaves()
words = ("out=", "differentiation", "requires grad", "derivative for", "does not require grad")
try:
    made = into(x, out=torch.empty_like(plain))
    found = gradients([made], x) if made.requires_grad else None
except RuntimeError as refused:
    if not any(word in str(refused) for word in words):
        sys.exit(f"out= with what requires grad says: {refused}")
else:
    if found is not None and len(LEARNS) == 1:
        for number, (one, two) in enumerate(zip(found, slopes)):
            check(f"gradient of x{number}", one, two)
    elif LEARNS:
        sys.exit("out= with what requires grad cuts the graph without a word")
""",
    "in_place": """
for frozen in ((), (FIRST,)):
    x = leaves(frozen)
    if len(frozen) == len(x):
        continue
    given = list(x)
    target = given[FIRST] = x[FIRST].clone()
    version, was = target._version, target.detach().clone()
    output = change(given)
    output is target or sys.exit("the in-place variant returns another object")
    if target._version == version and not torch.equal(target, was):
        sys.exit("the in-place variant did not bump the version")
    check("output in place", output, expected[0])
    for number, (one, two) in enumerate(zip(gradients(tensors(process(output)), x), slopes)):
        if number not in frozen:
            check(f"gradient of x{number}", one, two)
""",
}
VARIANTS = {"given_out": "into", "in_place": "change"}  # of the operator, that a body calls
