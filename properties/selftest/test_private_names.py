"""Names of torch that are private: each is listed here, and without it nothing falls over."""

import re
from pathlib import Path
from typing import Set

import pytest

from frostproof.properties.selftest import ROOT
from frostproof.properties.selftest.test_capabilities import run

# Each with laws that use it; how it is taken away: by name, or its import fails.
PRIVATE = {
    "torch._neg_view": "test_detach.py::test_shares_storage",
    "torch._dynamo": "test_across.py::test_compiled_nets_train_alike",
    "torch._dynamo.compiled_autograd._enable": "test_programs.py",
    "torch._dynamo.graph_break": "test_programs.py",
    "torch._C": "",  # the name of a backend, by getattr; torch itself needs what is used
    "torch._foreach_": "test_operators.py",
    "torch.testing._internal": "test_operators.py",
    "torch.utils._python_dispatch": "test_programs.py",
}
GONE = {
    "torch._neg_view": "import torch; del torch._neg_view",
    "torch.testing._internal": (
        "import sys; sys.modules['torch.testing._internal.common_methods_invocations'] = None"
    ),
    "torch._dynamo.compiled_autograd._enable": (
        "import torch._dynamo.compiled_autograd as owner; del owner._enable"
    ),
}


def written() -> Set[str]:
    """Every private name of torch in the product, comments and texts of programs included."""
    found: Set[str] = set()
    pattern = re.compile(r"\btorch(?:\.[a-zA-Z]\w*)*\._[a-zA-Z][\w.]*")
    for room in ("properties", "strategies"):
        for path in (ROOT / room).rglob("*.py"):
            if "selftest" not in path.parts:
                found |= set(pattern.findall(path.read_text()))
    return {name.rstrip(".") for name in found}


def test_every_private_name_is_listed() -> None:
    unlisted = [name for name in written() if not name.startswith(tuple(PRIVATE))]
    assert not unlisted
    assert [name for name in PRIVATE if not any(each.startswith(name) for each in written())] == []


@pytest.mark.parametrize("name", sorted(GONE))
def test_without_it_nothing_falls_over(name: str, tmp_path: Path) -> None:
    """The law runs without it, or is not offered, or skipped with a reason."""
    laws = (f"properties/{PRIVATE[name]}", "properties/test_lambda.py")
    result = run(tmp_path, GONE[name], "-n", "2", "--hypothesis-profile=ci", *laws)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr
    assert "INTERNALERROR" not in result.stdout and "broken" not in result.stdout.splitlines()[-1]
