"""The transforms of torch.func as ways of running, beside what they must be equal to.

They return other things than the function: values and gradients, or a batch. What eager says of
those is written with torch.autograd or a loop, in ``reference``.
"""

from typing import Dict, Tuple

from frostproof.properties.harness.programs.modes import (
    CHEAP,
    COMPILED,
    MODES,
    RUNNING,
    STATE,
    VALUES,
    Mode,
)

_HEAD = """\
import torch


def flat(output):
    if isinstance(output, dict):
        output = tuple(output.values())
    return output if isinstance(output, tuple) else (output,)


def weights(one):
    return torch.arange(1.0, one.numel() + 1).reshape(one.shape).to(one)

"""
_SLOPES = (
    _HEAD
    + """
def reference(f):
    def run(*arguments):
        inputs = [each.detach().clone().requires_grad_() for each in arguments]
        outputs = flat(f(*(each * 1 for each in inputs)))
        live = [each for each in outputs if each.requires_grad]
        slopes = [None] * len(inputs)
        if live:
            seeds = [weights(each) for each in live]
            slopes = torch.autograd.grad(live, inputs, seeds, allow_unused=True)
        slopes = [torch.zeros_like(i) if s is None else s for i, s in zip(inputs, slopes)]
        return (*(each.detach() for each in outputs), *slopes)

    return run
"""
)
_TANGENTS = (
    _HEAD
    + """
def reference(f):
    def run(*arguments):
        inputs = [each.detach().clone().requires_grad_() for each in arguments]
        outputs = flat(f(*(each * 1 for each in inputs)))
        tangents = []
        for one in outputs:
            moved = []
            for number in one.reshape(-1) if one.requires_grad else ():
                slopes = torch.autograd.grad(number, inputs, retain_graph=True, allow_unused=True)
                pairs = zip(inputs, slopes)
                moved.append(sum((s * weights(i)).sum() for i, s in pairs if s is not None))
            zeros = torch.zeros(one.shape, dtype=one.dtype, device=one.device)
            tangents.append(torch.stack(moved).reshape(one.shape) if moved else zeros)
        return (*(each.detach() for each in outputs), *tangents)

    return run
"""
)
_WAY = """

def way(f):
    def whole(*arguments):
        return flat(f(*(each * 1 for each in arguments)))

    def run(*arguments):
        inputs = [each.detach().clone() for each in arguments]
{body}

    return run
"""
_BODIES: Dict[str, Tuple[str, str]] = {
    "vjp": (
        """\
        outputs, back = torch.func.vjp(whole, *inputs)
        return (*outputs, *back(tuple(weights(each) for each in outputs)))""",
        _SLOPES,
    ),
    "grad": (
        """\
        def loss(*given):
            outputs = whole(*given)
            return sum((each * weights(each)).sum() for each in outputs), outputs

        slopes, outputs = torch.func.grad(loss, tuple(range(len(inputs))), has_aux=True)(*inputs)
        return (*outputs, *slopes)""",
        _SLOPES,
    ),
    "jvp": (
        """\
        outputs, tangents = torch.func.jvp(whole, tuple(inputs), tuple(weights(i) for i in inputs))
        return (*outputs, *tangents)""",
        _TANGENTS,
    ),
    "linearize": (
        """\
        outputs, push = torch.func.linearize(whole, *inputs)
        return (*outputs, *push(*(weights(each) for each in inputs)))""",
        _TANGENTS,
    ),
}
# inside a transform a tensor's flags, hooks and counters are those of its wrapper; ``.data`` and
# no_grad leave forward mode alone, or are documented to act on one level only
_WITHOUT = (
    *RUNNING,
    *STATE,
    "detached_integers",
    "view_as_complex",
    "detach_",
    "data",
    "data_mul_",
    "data_copy_",
    "set_data",
)
_ALIASES = ("same", "view_of", "detached_of", "neighbour", "metadata", "set_data_clone")


def _transform(name: str) -> Mode:
    body, reference = _BODIES[name]
    forward = name in ("jvp", "linearize")
    return Mode(
        f"func-{name}",
        _HEAD + _WAY.format(body=body).lstrip("\n").join(("\n", "")),
        (f"torch.func.{name}",),
        COMPILED if name == "linearize" else CHEAP,
        promises=VALUES - {"input value"},
        scenes=("first",),
        without=(*_WITHOUT, *_ALIASES, "complex128", *(("block",) if forward else ())),
        reference=reference,
    )


_VMAP = (
    _HEAD
    + """
def batches(each):
    one = each.detach()
    return torch.stack([one, one * 2, one - 3][:{size}]).requires_grad_()


def way(f):
    def run(*arguments):
        inputs = [batches(each) for each in arguments]
        outputs = flat(torch.vmap(f)(*(each * 1 for each in inputs)))
        live = [each for each in outputs if each.requires_grad]
        slopes = [None] * len(inputs)
        if live:
            seeds = [weights(each) for each in live]
            slopes = torch.autograd.grad(live, inputs, seeds, allow_unused=True)
        slopes = [torch.zeros_like(i) if s is None else s for i, s in zip(inputs, slopes)]
        return (*(each.detach() for each in outputs), *slopes)

    return run
"""
)
_LOOP = (
    _VMAP.replace("def way(f)", "def reference(f)").replace(
        "flat(torch.vmap(f)(*(each * 1 for each in inputs)))",
        "loop(f, [each * 1 for each in inputs])",
    )
    + """

def loop(f, inputs):
    size = len(inputs[0]) if inputs else 0
    each = [flat(f(*(one[place] for one in inputs))) for place in range(size)]
    return tuple(torch.stack(many) for many in zip(*each))
"""
)


def _vmap(size: int) -> Mode:
    return Mode(
        f"func-vmap-{size}",
        _VMAP.replace("{size}", str(size)),
        ("torch.vmap", "torch.func.vmap"),
        promises=VALUES - {"input value"},
        scenes=("first",),
        without=(*_WITHOUT, *_ALIASES, "views", "clone_contiguous", "complex128"),
        reference=_LOOP.replace("{size}", str(size)),
    )


# backward itself is compiled, and the function is run as it is
COMPILED_AUTOGRAD = Mode(
    "compiled-autograd",
    _HEAD
    + """
def compiler(graph):
    return torch.compile(graph, backend="aot_eager")


def way(f):
    def run(*arguments):
        inputs = [each.detach().clone().requires_grad_() for each in arguments]
        outputs = flat(f(*(each * 1 for each in inputs)))
        live = [each for each in outputs if each.requires_grad]
        if live:
            with torch._dynamo.compiled_autograd._enable(compiler):
                torch.autograd.backward(live, [weights(each) for each in live])
        slopes = [torch.zeros_like(i) if i.grad is None else i.grad for i in inputs]
        return (*(each.detach() for each in outputs), *slopes)

    return run
""",
    ("torch._dynamo.compiled_autograd._enable",),
    COMPILED,
    promises=VALUES - {"input value"} | {"mode"},
    scenes=("first",),
    without=(*RUNNING, *STATE, *_ALIASES),
    compiles=True,
    reference=_SLOPES,
)
TRANSFORMS = (*(_transform(name) for name in _BODIES), _vmap(1), _vmap(3), COMPILED_AUTOGRAD)
MODES.update({mode.name: mode for mode in TRANSFORMS})
