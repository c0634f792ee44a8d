"""Verifies the installed torch from any folder: ``python -m frostproof [pytest's arguments]``."""

import sys
from pathlib import Path
from typing import List, Optional, Sequence

import pytest

import frostproof.properties


def _path(word: str, top: Path) -> str:
    """A law's file as reports name it, ``properties/test_x.py::test_y``, from any folder."""
    file = word.partition("::")[0]
    inside = file.partition("/")[0] == "properties" and not Path(file).exists()
    return str(top / word) if inside and (top / file).exists() else word


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the laws; pytest's exit code."""
    given: List[str] = list(sys.argv[1:] if arguments is None else arguments)
    top = Path(frostproof.properties.__path__[0]).parent
    own = [
        *("-p", "frostproof.plugin"),
        "--frostproof-laws",
        *("-c", str(Path(__file__).with_name("verify.ini"))),
        f"--rootdir={top}",
        *("-o", f"cache_dir={Path('.frostproof', 'cache').resolve()}"),
    ]
    return int(pytest.main([*own, *(_path(word, top) for word in given)]))


if __name__ == "__main__":
    sys.exit(main())
