"""Eager torch against a small model of it in plain Python: storages, views, versions, a tape."""

from functools import cache

import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from frostproof.properties.harness.core.checks import check, check_equal, fail
from frostproof.properties.harness.core.law import FLOATING, law
from frostproof.properties.harness.programs.model_judge import (
    by_model,
    by_torch,
    counts_at_birth,
    difference,
)
from frostproof.properties.harness.reference.eager.memory import NotModelled
from frostproof.strategies.capabilities import NotOffered
from frostproof.strategies.programs import Program, programs

MORE = 16  # programs are cheap
# What the model does not describe.
UNMODELLED = frozenset(
    (
        *("hook", "gradient", "module", "function", "metadata", "inference_mode", "complex128"),
        *("real", "imaginary", "view_as_real", "view_as_complex", "detached_integers"),
        *("to_double", "if_retains", "if_no_grad"),
    )
)
FOREACH = frozenset(("foreach_add_", "foreach_copy_", "foreach_both_"))


@cache
def described() -> st.SearchStrategy[Program]:
    """Programs of what the model describes and this torch records: foreach since 2.1."""
    if counts_at_birth():
        raise NotOffered("the eager model: it describes torch from 1.13 on")
    result = torch.zeros(1, requires_grad=True) * 1
    before = result.grad_fn
    torch._foreach_add_([result], 1)
    return programs(UNMODELLED if result.grad_fn is not before else UNMODELLED | FOREACH, True)


def more_examples() -> settings:
    """The profile's settings with MORE times its examples."""
    profile = settings.default or settings()
    return settings(
        max_examples=MORE * profile.max_examples,
        suppress_health_check=[*profile.suppress_health_check, HealthCheck.filter_too_much],
    )


@law("P2", "PyTorch notes, Autograd mechanics; torch.Tensor documentation")
@more_examples()
@given(program=st.deferred(lambda: described()))
def test_programs_do_what_the_model_says(device: str, program: Program) -> None:
    """P2: values, strides, sharing, flags, versions, gradients and errors are those of the model."""
    try:
        expected = by_model(program)
    except NotModelled as reason:
        event(f"not modelled: {reason}")
        return
    found = difference(expected, by_torch(program, device), program.inputs[0].dtype)
    check(found is None, f"{found}\n{program.source()}")


@law("P2 F5", "PyTorch notes, In-place operations with autograd", FLOATING)
def test_a_view_joins_the_graph_with_its_base(device: str, dtype: torch.dtype) -> None:
    """P2: a view of what came to require grad is written to as its base is."""
    leaf = torch.ones(2, dtype=dtype, device=device, requires_grad=True)
    base = torch.ones(2, dtype=dtype, device=device)
    view = base[:]
    base.mul_(leaf)
    try:
        view.mul_(2)
    except RuntimeError as problem:
        fail(f"a write to a view of a result is refused: {problem}")
    base.sum().backward()
    check_equal(None if leaf.grad is None else leaf.grad.tolist(), [2.0, 2.0], "the gradient")
