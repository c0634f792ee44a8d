"""Code that was compiled, and is kept on disk, is run only on inputs like those it was compiled for."""

from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest
import torch

from frostproof.properties.harness.core.checks import check_equal, count_cases
from frostproof.properties.harness.core.law import law, thorough
from frostproof.properties.harness.programs.modes import MODES
from frostproof.properties.harness.running.attempts import attempt
from frostproof.properties.harness.running.call_modes import forget_compiled

# What the second input is beside the first, of shape (2,).
SECOND: Dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "apart": lambda first: torch.tensor([5.0, 6.0]),
    "same": lambda first: first,
    "slice": lambda first: first[:],
    "view": lambda first: first.view(2),
    "detach": lambda first: first.detach(),
}


def written(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Writes to its second input, and reads its first."""
    second.mul_(first)
    return first + 1


def values(function: Callable[..., Any], kind: str) -> List[Any]:
    """Of the output and both inputs, after a call."""
    first = torch.tensor([3.0, 4.0])
    second = SECOND[kind](first)
    output = attempt(lambda: function(first, second), f"a call with inputs that are {kind}")
    return [each.tolist() for each in (output, first, second)]


@law(
    "P3",
    "torch.compile documentation: compile-time caching",
    "float32",
    needs=lambda: MODES["compile-inductor"].missing(),
)
@pytest.mark.parametrize("made_for", list(SECOND))
def test_code_on_disk_fits_its_inputs(
    made_for: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P3: what was compiled for inputs that share memory, or do not, is not run on others."""
    if not thorough():
        pytest.skip("inductor takes seconds for a function: in the nightly profile")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    for kind in (made_for, *SECOND):
        forget_compiled()
        found = values(torch.compile(written, dynamic=False), kind)
        what = f"output and inputs that are {kind}, by code on disk for those that are {made_for}"
        check_equal(found, values(written, kind), what)
        count_cases(1)
