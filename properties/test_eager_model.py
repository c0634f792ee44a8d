"""Eager torch against a small model of it in plain Python: storages, views, versions, a tape."""

from hypothesis import HealthCheck, event, given, settings

from frostproof.properties.harness.core.checks import check
from frostproof.properties.harness.core.law import law
from frostproof.properties.harness.reference.eager.judge import by_model, by_torch, difference
from frostproof.properties.harness.reference.eager.memory import NotModelled
from frostproof.strategies.programs import Program, programs

MORE = 15  # programs are cheap
# What the model does not describe.
UNMODELLED = frozenset(
    (
        *("hook", "gradient", "module", "function", "metadata", "inference_mode", "complex128"),
        *("real", "imaginary", "view_as_real", "view_as_complex", "detached_integers"),
        *("to_double", "if_retains", "if_no_grad"),
    )
)


def more_examples() -> settings:
    """The profile's settings with MORE times its examples."""
    profile = settings.default or settings()
    return settings(
        max_examples=MORE * profile.max_examples,
        suppress_health_check=[*profile.suppress_health_check, HealthCheck.filter_too_much],
    )


@law("P2", "PyTorch notes, Autograd mechanics; torch.Tensor documentation")
@more_examples()
@given(program=programs(UNMODELLED))
def test_programs_do_what_the_model_says(device: str, program: Program) -> None:
    """P2: values, strides, sharing, flags, versions, gradients and errors are those of the model."""
    try:
        expected = by_model(program)
    except NotModelled as reason:
        event(f"not modelled: {reason}")
        return
    found = difference(expected, by_torch(program, device), program.inputs[0].dtype)
    check(found is None, f"{found}\n{program.source()}")
