"""The mark that makes a test a law: its catalogue id, its source and its dtypes.

``device`` and ``dtype`` are ordinary arguments of the test; conftest.py fills
them in from the command line, and puts them in the test's id.
"""

from typing import TYPE_CHECKING, Any, Callable, Tuple, Union

import pytest

if TYPE_CHECKING:
    from hypothesis import settings

# Named groups of dtypes. Which of a group run by default is decided in axes.py.
ANY = "any"  # every dtype that torch has
FLOATING = "floating"  # dtypes that can train: float64, float32, bfloat16, float16
PRECISE = "precise"  # float64, float32: where values are compared with an independent reference
COMPLEX = "complex"
DIFFERENTIABLE = "differentiable"  # FLOATING and COMPLEX: what may require grad
EXACT = "float64"  # only where rounding would hide the answer


def law(
    ident: str,
    source: str,
    dtypes: str = FLOATING,
    *,
    beside_cpu: bool = False,
    needs: "Union[str, Callable[[], str]]" = "",
) -> Callable[[Any], Any]:
    """Mark a test as law ``ident`` of the catalogue, taken from ``source``.

    A test that holds several laws at once names all of them: ``"F1 F2 K1"``, the main one first.
    beside_cpu: it compares a device with the CPU, and is collected for other devices only.
    needs: the public name of torch without which it is not offered, or a function that says what
    is not offered; asked where the law runs.
    """
    return pytest.mark.law(ident, source=source, dtypes=dtypes, beside_cpu=beside_cpu, needs=needs)


def part(share: int, least: int) -> "settings":
    """The profile's settings with a share of its examples: these laws cost more than others."""
    from hypothesis import settings

    profile = settings.default or settings()
    return settings(max_examples=max(least, profile.max_examples // share))


def law_of(item: pytest.Item) -> Tuple[str, str]:
    """The (ids, source) of a collected test; ("", "") where it is not a law."""
    mark = item.get_closest_marker("law")
    return (mark.args[0], mark.kwargs["source"]) if mark else ("", "")
