"""The vocabulary of random programs: one record for each statement.

A record says how its statement prints in plain torch and what kind it is; which shapes it
takes, and what it makes of them, is asked of torch itself, once for each combination.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Dict, Optional, Tuple

import torch

# (shape, dtype's name) of one variable: what decides whether a statement can be written.
Facts = Tuple[Tuple[int, ...], str]


@dataclass(frozen=True)
class Operation:
    """One statement of the vocabulary.

    name: its key; kind: one of STATEMENT_KINDS; source: Python with ``{0}``, ``{1}``, ``{2}`` for the
    operands and ``{a}`` for the argument; arguments: the snippets that ``{a}`` may be, the
    simplest first; results: how many new variables it makes (0: it is executed for what it
    does); writes: the operands whose memory or metadata it changes; untried: it cannot be
    tried on plain tensors, and its results are like its last operand; whole: it prints itself
    with its target, ``{r}``.
    """

    name: str
    kind: str
    source: str
    arguments: Tuple[str, ...] = ("",)
    results: int = 1
    writes: Tuple[int, ...] = ()
    untried: bool = False

    @cached_property
    def arity(self) -> int:
        """How many operands it takes."""
        return sum(f"{{{place}}}" in self.source for place in range(3))


def _each(kind: str, *lines: Tuple[str, str], **facts: object) -> Tuple[Operation, ...]:
    return tuple(Operation(name, kind, source, **facts) for name, source in lines)  # type: ignore[arg-type]


ARITHMETIC = (
    *_each(
        "arithmetic",
        ("double", "{0} * 2"),
        ("add", "{0} + {1}"),
        ("multiply", "{0} * {1}"),
        ("subtract", "{0} - {1}"),
        ("increment", "{0} + 1"),
        ("negate", "-{0}"),
        ("square", "{0} * {0}"),
        ("total", "{0}.sum()"),
        ("total_rows", "{0}.sum(0)"),
        ("relu", "torch.relu({0})"),
        ("concatenate", "torch.cat([{0}, {1}])"),
        ("stack", "torch.stack([{0}, {1}])"),
        ("matmul", "{0} @ {1}"),
        ("where", "torch.where({0} == {0}, {0}, {1})"),
        ("like_ones", "torch.ones_like({0})"),
        ("empty_filled", "torch.empty_like({0}).fill_(2.0)"),
    ),
)
SAME = (
    *_each(
        "same",
        ("times_one", "{0} * 1"),
        ("plus_zero", "{0} + 0"),
        ("contiguous", "{0}.contiguous()"),
        ("to_same_dtype", "{0}.to({0}.dtype)"),
        ("to_same_device", "{0}.to({0}.device)"),
        ("reshape_same", "{0}.reshape({0}.shape)"),
        ("expand_as", "{0}.expand_as({0})"),
        ("type_as", "{0}.type_as({0})"),
        ("no_dropout", "torch.nn.functional.dropout({0}, 0.0)"),
        ("conj_of_real", "{0}.conj()"),
        ("resolve_conj", "{0}.resolve_conj()"),
        ("to_double", "{0}.double()"),
        ("asarray", "torch.as_tensor({0})"),
        ("broadcast_self", "torch.broadcast_tensors({0}, {0})[0]"),
        ("assign", "{0}"),
    ),
)
VIEWS = (
    *_each(
        "view",
        ("flat", "{0}.view(-1)"),
        ("view_same", "{0}.view({0}.shape)"),
        ("view_as", "{0}.view_as({0})"),
        ("everything", "{0}[...]"),
        ("t", "{0}.t()"),
        ("reshape_flat", "{0}.reshape(-1)"),
        ("transpose", "{0}.transpose(0, -1)"),
        ("flatten", "{0}.flatten()"),
        ("squeeze", "{0}.squeeze()"),
        ("diagonal", "{0}.diagonal()"),
        ("real", "{0}.real"),
        ("imaginary", "{0}.imag"),
        ("view_as_real", "torch.view_as_real({0})"),
        ("view_as_complex", "torch.view_as_complex({0})"),
        ("conjugate", "torch.conj({0})"),
        ("expand", "{0}.expand(2, *{0}.shape)"),
        ("detached_integers", "{0}.detach().view(torch.int64)"),
        ("ravel", "{0}.ravel()"),
    ),
    Operation("select", "view", "{0}[{a}]", ("0", "-1", "0, 0", ":, 0", "..., 0")),
    Operation("slice", "view", "{0}[{a}]", ("1:", ":1", "::2", "1::2", ":, 1:", ":, ::2", "..., :1")),
    Operation("add_axis", "view", "{0}.unsqueeze({a})", ("0", "-1")),
    Operation("narrow", "view", "{0}.narrow({a})", ("0, 0, 1", "0, 1, 1", "-1, 0, 2")),
    Operation("permute", "view", "{0}.permute({a})", ("1, 0", "0, 1", "0, 2, 1", "2, 0, 1")),
    Operation("unfold", "view", "{0}.unfold({a})", ("0, 1, 1", "0, 2, 1", "-1, 2, 2")),
    Operation(
        "as_strided", "view", "{0}.as_strided({a})", ("(2,), (1,)", "(2,), (1,), 1", "(2, 2), (1, 1)")
    ),
    Operation("one_chunk", "view", "{0}.chunk(2)[{a}]", ("0", "-1")),
    Operation("one_of_unbind", "view", "{0}.unbind()[{a}]", ("0", "-1")),
    Operation("chunk", "views", "{0}.chunk(2)", results=2),
    Operation("split", "views", "{0}.split(1)", results=2),
    Operation("unbind", "views", "{0}.unbind()", results=2),
)
DETACH = (
    *_each(
        "detach",
        ("detach", "{0}.detach()"),
        ("data", "{0}.data"),
        ("detach_view", "{0}.detach().view(-1)"),
        ("detach_clone", "{0}.detach().clone()"),
        ("stop_gradient", "({0} * 2).detach()"),
    ),
    Operation("detach_", "detach", "{0}.detach_()", results=0, writes=(0,), untried=True),
)
CLONE = (
    *_each(
        "clone",
        ("clone", "{0}.clone()"),
        ("clone_contiguous", "{0}.clone(memory_format=torch.contiguous_format)"),
        ("clone_detach", "{0}.clone().detach()"),
    ),
)
WRITES = (
    *_each(
        "write",
        ("mul_", "{0}.mul_(2)"),
        ("add_", "{0}.add_(1)"),
        ("zero_", "{0}.zero_()"),
        ("fill_", "{0}.fill_(3)"),
        ("relu_", "{0}.relu_()"),
        ("increment_operator", "{0} += 1"),
        ("foreach_add_", "torch._foreach_add_([{0}], 1)"),
        ("foreach_copy_", "torch._foreach_mul_([{0}], 2)"),
        ("index_fill_", "{0}.index_fill_(0, torch.tensor([0], device={0}.device), 5)"),
        ("masked_fill_", "{0}.masked_fill_({0} == 1, 7)"),
        ("set_masked", "{0}[{0} == 1] = 4"),
        ("set_all", "{0}[...] = 6"),
        ("data_mul_", "{0}.data.mul_(2)"),
        ("detached_add_", "{0}.detach().add_(1)"),
        ("flat_mul_", "{0}.view(-1).mul_(2)"),
        results=0,
        writes=(0,),
    ),
    Operation("set_item", "write", "{0}[{a}] = 5", ("0", "-1", "1:", "::2", "..., 0"), 0, (0,)),
    *_each(
        "write",
        ("add_other_", "{0}.add_({1})"),
        ("mul_other_", "{0}.mul_({1})"),
        ("copy_", "{0}.copy_({1})"),
        ("set_all_other", "{0}[...] = {1}"),
        ("add_operator", "{0} += {1}"),
        ("multiply_operator", "{0} *= {1}"),
        ("index_put_", "{0}.index_put_((torch.tensor([0], device={0}.device),), {1})"),
        ("index_add_", "{0}.index_add_(0, torch.tensor([0], device={0}.device), {1}[:1])"),
        ("data_copy_", "{0}.data.copy_({1})"),
        ("mul_out", "torch.mul({1}, 2, out={0})"),
        ("add_out", "torch.add({1}, 1, out={0})"),
        ("foreach_both_", "torch._foreach_add_([{0}, {1}], 1)"),
        results=0,
        writes=(0,),
    ),
    Operation("set_item_other", "write", "{0}[{a}] = {1}", ("0", "1:", "..., 0"), 0, (0,)),
)
METADATA = (
    *_each(
        "metadata",
        ("t_", "{0}.t_()"),
        ("unsqueeze_", "{0}.unsqueeze_(0)"),
        ("squeeze_", "{0}.squeeze_()"),
        ("transpose_", "{0}.transpose_(0, -1)"),
        results=0,
        writes=(0,),
    ),
    Operation("set_data", "metadata", "{0}.data = {1}.detach()", results=0, writes=(0,)),
    Operation("set_data_clone", "metadata", "{0}.data = {0}.detach() * 2", results=0, writes=(0,)),
)
FLAGS = (
    *_each(
        "flag",
        ("requires_grad_", "{0}.requires_grad_()"),
        ("freeze", "{0}.requires_grad_(False)"),
        ("set_requires_grad", "{0}.requires_grad = True"),
        results=0,
        writes=(0,),
        untried=True,
    ),
)
_CONDITIONS = (
    ("if_requires_grad", "{0}.requires_grad"),
    ("if_leaf", "{0}.is_leaf"),
    ("if_no_grad_fn", "{0}.grad_fn is None"),
    ("if_grad_enabled", "torch.is_grad_enabled()"),
    ("if_contiguous", "{0}.is_contiguous()"),
    ("if_view", "{0}._is_view()"),
    ("if_new_version", "{0}._version > 0"),
    ("if_no_grad", "{0}.grad is None"),
    ("if_inference", "{0}.is_inference()"),
    ("if_parameter", "isinstance({0}, torch.nn.Parameter)"),
    ("if_retains", "{0}.retains_grad"),
    ("if_offset", "{0}.storage_offset() > 0"),
)
BRANCHES = (
    *_each(
        "branch",
        *((name, f"{{0}} * 3 if {condition} else {{0}} + 5") for name, condition in _CONDITIONS),
        ("times_version", "{0} * {0}._version"),
        ("if_same", "{0} * 3 if {0} is {1} else {0} + 5"),
    ),
)
HOOKS = (
    *_each(
        "hook",
        ("register_hook", "{0}.register_hook(note('hook'))"),
        ("scaling_hook", "{0}.register_hook(lambda gradient: gradient * 2)"),
        ("retain_grad", "{0}.retain_grad()"),
        ("accumulate_hook", "{0}.register_post_accumulate_grad_hook(note('accumulated'))"),
        results=0,
        untried=True,
    ),
)
GRADIENTS = (
    *_each(
        "gradient",
        ("autograd_grad", "torch.autograd.grad({0}.sum(), [{1}], retain_graph=True)[0]"),
        ("autograd_grad_twice", "torch.autograd.grad({0}.sum(), [{1}], create_graph=True)[0]"),
        untried=True,
    ),
    Operation("backward", "gradient", "{0}.sum().backward(retain_graph=True)", results=0, untried=True),
    Operation("read_grad", "gradient", "{0} if {0}.grad is None else {0}.grad", untried=True),
)
KEPT = (
    Operation("keep", "module", "kept.held = {0}", results=0, untried=True),
    Operation("keep_detached", "module", "kept.held = {0}.detach()", results=0, untried=True),
    Operation("keep_in_list", "module", "fired.append({0})", results=0, untried=True),
)
FUNCTIONS = (
    *_each(
        "function",
        ("tripled_gradient", "Tripled.apply({0})"),
        ("same_view", "Same.apply({0})"),
        ("not_differentiable", "Marked.apply({0})"),
        untried=True,
    ),
    Operation("dirty", "function", "Dirty.apply({0})", writes=(0,), untried=True),
)
# What the functions above are: printed before a program that uses them.
PREAMBLE: Dict[str, str] = {
    "Tripled": """\
class Tripled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return value * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 3
""",
    "Same": """\
class Same(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return value.view_as(value)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 3
""",
    "Marked": """\
class Marked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        made = value * 2
        ctx.mark_non_differentiable(made)
        return made

    @staticmethod
    def backward(ctx, gradient):
        return gradient
""",
    "Dirty": """\
class Dirty(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        ctx.mark_dirty(value)
        return value.mul_(2)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 3
""",
    "fired": "fired = []\n",
    "note(": """\
def note(what):
    def hook(_):
        fired.append(what)

    return hook
""",
    "kept": "kept = torch.nn.Module()\n",
}
# Blocks: what runs inside them is their body. Two names: the second block is inside the first.
BLOCKS: Dict[str, str] = {
    "no_grad": "torch.no_grad()",
    "enable_grad": "torch.enable_grad()",
    "inference_mode": "torch.inference_mode()",
    "set_grad_off": "torch.set_grad_enabled(False)",
    "set_grad_on": "torch.set_grad_enabled(True)",
    "inference_off": "torch.inference_mode(False)",
}
LEAKS = (Operation("leak_no_grad", "mode", "torch.set_grad_enabled(False)", results=0, untried=True),)

VOCABULARY: Dict[str, Operation] = {
    operation.name: operation
    for group in (
        ARITHMETIC,
        SAME,
        VIEWS,
        DETACH,
        CLONE,
        WRITES,
        METADATA,
        FLAGS,
        BRANCHES,
        HOOKS,
        GRADIENTS,
        KEPT,
        FUNCTIONS,
        LEAKS,
    )
    for operation in group
}
# How often each kind is drawn, out of their sum; the simplest first.
WEIGHTS: Dict[str, int] = {
    "arithmetic": 8,
    "view": 12,
    "write": 14,
    "detach": 8,
    "same": 5,
    "clone": 3,
    "views": 2,
    "metadata": 2,
    "flag": 3,
    "branch": 3,
    "hook": 2,
    "gradient": 2,
    "module": 1,
    "function": 2,
    "mode": 1,
}
# The same in dense programs: more is written, less is cut off.
DENSE_WEIGHTS: Dict[str, int] = {
    **WEIGHTS,
    **{"arithmetic": 10, "view": 13, "write": 18, "detach": 4, "same": 4, "clone": 2},
    **{"views": 3, "flag": 2, "branch": 2},
}
STATEMENT_KINDS = tuple(WEIGHTS)
BY_KIND: Dict[str, Tuple[Operation, ...]] = {
    kind: tuple(operation for operation in VOCABULARY.values() if operation.kind == kind)
    for kind in STATEMENT_KINDS
}
# Of several ways to do one thing, the ones that people write most, and how often.
COMMON: Dict[str, int] = {
    name: 1
    for name in (
        *("double", "add", "multiply", "square", "total", "relu", "concatenate", "stack"),
        *("times_one", "contiguous", "flat", "everything", "t", "squeeze", "expand", "select", "slice"),
        *("one_chunk", "chunk", "unbind", "detach", "data", "clone", "mul_", "add_", "zero_", "fill_"),
        *("relu_", "set_item"),
    )
}
# what carries the history of one tensor into another
COMMON.update(copy_=4, set_item_other=3, index_put_=2, add_other_=1, mul_other_=1)


@cache
def outcome(
    name: str, argument: str, operands: Tuple[Facts, ...]
) -> Optional[Tuple[Tuple[Facts, ...], Tuple[Facts, ...]]]:
    """(facts of the results, facts of the operands afterwards); None where torch refuses it.

    Tried on plain tensors of ones without gradients, so it says what shapes and dtypes allow,
    and this torch has, and nothing of what autograd may refuse.
    """
    operation = VOCABULARY[name]
    if operation.untried:
        return operands[-1:] * operation.results, operands
    names = ["x", "y", "z"][: len(operands)]
    values = {
        each: torch.ones(shape, dtype=getattr(torch, dtype))
        for each, (shape, dtype) in zip(names, operands)
    }
    source = operation.source.format(*names, a=argument)
    left = ", ".join(f"r{place}" for place in range(operation.results))
    try:
        with torch.no_grad():
            exec(f"{left} = {source}" if left else source, {"torch": torch}, values)
        made = tuple(_facts(values[f"r{place}"]) for place in range(operation.results))
        return made, tuple(_facts(values[each]) for each in names)
    except Exception:  # whatever torch says: the statement cannot be written here
        return None


def _facts(tensor: torch.Tensor) -> Facts:
    return tuple(tensor.shape), str(tensor.dtype).rpartition(".")[2]
