"""The assertions of the laws. Each is counted, so that a law that checked nothing fails.

``check`` is the only place where a law is judged; the others are its common forms.
"""

from typing import Any, Callable, Dict, Iterable, Mapping, NoReturn, Optional

import torch

from frostproof.properties.harness.core.bits import (
    dense_on_cpu,
    describe_difference,
    has_bits,
    read_bits,
)


class LawBroken(AssertionError):
    """A law does not hold: the sentence names what was expected and what came.

    The same as data: relation: "holds", "equal", "same bits", "moved", "same gradient", "close" or
    "raises"; subject: what it is about, in words; actual and expected: the two that do not agree
    (a tensor, a snapshot of one, a plain value), None where the relation has none. program: makes
    the program, where the law's cases are programs or calls that print themselves.
    """

    def __init__(
        self,
        sentence: str,
        relation: str = "holds",
        subject: str = "",
        actual: Any = None,
        expected: Any = None,
        program: Optional[Callable[[], str]] = None,
    ) -> None:
        super().__init__(sentence)
        self.program = program
        self.relation, self.subject = relation, subject or sentence
        self.actual, self.expected = actual, expected


class Tally:
    """How many assertions have been made in this process."""

    assertions = 0
    cases = 0  # that a law enumerated by itself


def count_cases(number: int) -> None:
    """Count cases that a law has enumerated without Hypothesis."""
    Tally.cases += number


def check(condition: bool, sentence: str) -> None:
    """Count one assertion; raise ``LawBroken(sentence)`` where it is false."""
    __tracebackhide__ = True
    Tally.assertions += 1
    if not condition:
        raise LawBroken(sentence)


def fail(sentence: str, program: Optional[Callable[[], str]] = None) -> NoReturn:
    """Raise ``LawBroken``: something happened that the law forbids. program: see there."""
    __tracebackhide__ = True
    Tally.assertions += 1
    raise LawBroken(sentence, program=program)


def disagree(sentence: str, relation: str, subject: str, actual: Any, expected: Any) -> NoReturn:
    """Raise ``LawBroken`` with its facts."""
    __tracebackhide__ = True
    Tally.assertions += 1
    raise LawBroken(sentence, relation, subject, actual, expected)


def check_equal(actual: Any, expected: Any, what: str) -> None:
    """``actual == expected`` for plain Python values."""
    __tracebackhide__ = True
    if actual == expected:
        check(True, what)
    else:
        sentence = f"{what}: expected {expected!r}, got {actual!r}"
        disagree(sentence, "equal", what, actual, expected)


def check_same_bits(actual: torch.Tensor, expected: Any, what: str) -> None:
    """Two tensors (or a tensor and its earlier ``read_bits``) hold the same bits."""
    __tracebackhide__ = True
    was = expected if isinstance(expected, bytes) else read_bits(expected)
    if has_bits(actual, was):
        check(True, what)
    else:
        sentence = f"{what}: {describe_difference(was, read_bits(actual), actual)}"
        disagree(sentence, "same bits", what, actual, expected)


def check_same_gradient(parameter: torch.Tensor, expected: Optional[bytes], what: str) -> None:
    """A parameter's gradient has the bits of an earlier ``read_bits``; None is only None."""
    __tracebackhide__ = True
    gradient = parameter.grad
    if expected is None:
        if gradient is None:
            check(True, what)
        else:
            sentence = f"{what}: there is a gradient, expected no gradient"
            disagree(sentence, "same gradient", what, parameter, expected)
    elif gradient is None:
        sentence = f"{what}: there is no gradient, expected a gradient"
        disagree(sentence, "same gradient", what, parameter, expected)
    else:
        check_same_bits(gradient, expected, what)


def check_moved(actual: torch.Tensor, before: bytes, what: str) -> None:
    """A tensor's bits differ from its earlier ``read_bits``."""
    __tracebackhide__ = True
    if not has_bits(actual, before):
        check(True, what)
    else:
        sentence = f"{what}: expected to change, but every bit is the same"
        disagree(sentence, "moved", what, actual, before)


def check_close(
    actual: torch.Tensor, expected: torch.Tensor, what: str, rtol: float, atol: float
) -> None:
    """``|actual - expected| <= atol + rtol * |expected|`` elementwise, compared in float64 on CPU."""
    __tracebackhide__ = True
    check_within(actual, expected, tolerance(expected, rtol, atol), what)


def tolerance(expected: torch.Tensor, rtol: float, atol: float) -> torch.Tensor:
    """``atol + rtol * |expected|``, elementwise in float64 on CPU."""
    with torch.no_grad():
        return atol + rtol * dense_on_cpu(expected).to(torch.float64).abs()


def check_within(
    actual: torch.Tensor, expected: torch.Tensor, allowed: torch.Tensor, what: str, why: str = ""
) -> None:
    """``|actual - expected| <= allowed`` elementwise, compared in float64 on CPU.

    allowed: of their shape, or one that expands to it; why: what else to say where it is not so.
    """
    __tracebackhide__ = True
    check_equal(tuple(actual.shape), tuple(expected.shape), f"{what}: shape")
    with torch.no_grad():
        one, two = (dense_on_cpu(tensor).to(torch.float64) for tensor in (actual, expected))
        gap = (one - two).abs()
        bad = ~(gap <= allowed)  # NaN is not close
        if not bool(bad.any()):
            check(True, what)
            return
        allowed = allowed.expand(tuple(gap.shape))
        where = tuple(int(index) for index in bad.nonzero()[0])
        sentence = (
            f"{what}: element {where} is {float(one[where])!r}, expected {float(two[where])!r} "
            f"(off by {float(gap[where]):.3g}, allowed {float(allowed[where]):.3g}; "
            f"{int(bad.sum())} of {bad.numel()} elements are off){why}"
        )
    disagree(sentence, "close", what, actual, expected)


def check_raises(error: Any, action: Any, what: str, matching: str = "") -> None:
    """``action()`` raises ``error`` with ``matching`` (any case) in its message."""
    __tracebackhide__ = True
    kinds = error if isinstance(error, tuple) else (error,)
    names = " or ".join(kind.__name__ for kind in kinds)
    try:
        action()
    except error as raised:
        message = str(raised)
        if matching.lower() in message.lower():
            check(True, what)
            return
        sentence = f"{what}: raised {type(raised).__name__}, but its message lacks {matching!r}: "
        disagree(sentence + message, "raises", what, message, matching)
    disagree(f"{what}: expected {names}, but nothing was raised", "raises", what, None, names)


def snapshot(tensors: Mapping[str, torch.Tensor]) -> Dict[str, bytes]:
    """``read_bits`` of each tensor, by name."""
    return {name: read_bits(tensor) for name, tensor in tensors.items()}


def check_unchanged(
    tensors: Mapping[str, torch.Tensor],
    before: Mapping[str, bytes],
    what: str,
    names: Optional[Iterable[str]] = None,
) -> None:
    """The named tensors (default: all) still hold the bits of their snapshot."""
    __tracebackhide__ = True
    for name in before if names is None else names:
        check_same_bits(tensors[name], before[name], f"{what} {name}")
