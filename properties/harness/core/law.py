"""The mark that makes a test a law: its catalogue id, its source and its dtypes.

``device`` and ``dtype`` are ordinary arguments of the test; conftest.py fills
them in from the command line, and puts them in the test's id.
"""

from typing import TYPE_CHECKING, Any, Callable, Iterable, List, Mapping, Tuple, Union

import pytest

if TYPE_CHECKING:
    from hypothesis import settings

# The dotted public name of torch that something is of, or a function that says what is not offered
# (else ""): asked where a law runs.
Needs = Union[str, Callable[[], str]]

# Named groups of dtypes. Which of a group run by default is decided in axes.py.
ANY = "any"  # every dtype that torch has
FLOATING = "floating"  # dtypes that can train: float64, float32, bfloat16, float16
PRECISE = "precise"  # float64, float32: where values are compared with an independent reference
COMPLEX = "complex"
DIFFERENTIABLE = "differentiable"  # FLOATING and COMPLEX: what may require grad
EXACT = "float64"  # only where rounding would hide the answer
NIGHTLY = 1000  # examples of a profile that has time


def law(
    ident: str,
    source: str,
    dtypes: str = FLOATING,
    *,
    beside_cpu: bool = False,
    needs: Needs = "",
) -> Callable[[Any], Any]:
    """Mark a test as law ``ident`` of the catalogue, taken from ``source``.

    A test that holds several laws at once names all of them: ``"F1 F2 K1"``, the main one first.
    beside_cpu: it compares a device with the CPU, and is collected for other devices only.
    needs: without which it is not offered, see ``Needs``.
    """
    return pytest.mark.law(ident, source=source, dtypes=dtypes, beside_cpu=beside_cpu, needs=needs)


def cells(names: Iterable[str], needs: Mapping[str, Needs]) -> List[Any]:
    """Names for ``pytest.mark.parametrize``: those in ``needs`` are not offered without it."""
    # with_args: a mark that is called with a function alone decorates it
    marks = {name: [pytest.mark.needs.with_args(part)] for name, part in needs.items()}
    return [pytest.param(name, marks=marks.get(name, ())) for name in names]


def part(share: int, least: int) -> "settings":
    """The profile's settings with a share of its examples: these laws cost more than others."""
    from hypothesis import settings

    profile = settings.default or settings()
    return settings(max_examples=max(least, profile.max_examples // share))


def law_of(item: pytest.Item) -> Tuple[str, str]:
    """The (ids, source) of a collected test; ("", "") where it is not a law."""
    mark = item.get_closest_marker("law")
    return (mark.args[0], mark.kwargs["source"]) if mark else ("", "")


def thorough() -> bool:
    """Whether the profile, the nightly one, has time for what compiles, or waits."""
    from hypothesis import settings

    return (settings.default or settings()).max_examples >= NIGHTLY
