"""What the hunt makes of a process that ended."""

import json
import random
import types
from pathlib import Path

import pytest

from frostproof.properties.harness.hunting.driver import Hunt, lines
from frostproof.properties.harness.hunting.source import source_of


@pytest.mark.parametrize("mode, kind", [("module-deepcopy", "trouble"), ("no such mode", "find")])
def test_a_case_that_ends_a_worker_ends_a_process_of_its_own(
    mode: str, kind: str, tmp_path: Path
) -> None:
    """What an earlier case left behind, such as a grad mode, is not the later one's doing."""
    hunt = Hunt("programs", [mode], tmp_path, jobs=1, seed=0)
    case = source_of("programs", "cpu").draw(random.Random(0))
    current = tmp_path / "worker-0.current"
    current.write_text(json.dumps({"mode": mode, "case": repr(case)}))
    worker: object = types.SimpleNamespace(number=0, path=current)
    hunt.ended(worker, "ends with code 1")  # type: ignore[arg-type]
    assert [line["kind"] for line in lines(tmp_path)] == [kind]
