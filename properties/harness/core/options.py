"""The options of the command line, as data: declared without importing torch or Hypothesis.

Each has a name of its own, ``--frostproof-NAME``, and the short ``--NAME`` where nobody else
has it: a conftest.py or another plugin that declares ``--model`` keeps it.
"""

import argparse
from typing import Any, Dict, List, Sequence

import pytest

FACTORY = "FILE.py:FACTORY"
OWN = ("model", "recipe", "optimizer")  # a user's own code
OPTIONS: Dict[str, Dict[str, Any]] = {
    "recipe": {
        "action": "append",
        "metavar": FACTORY,
        "help": "verify your own training: factory() returns (module, step), (module, step, keep), or "
        "a Trainer; repeatable",
    },
    "model": {
        "action": "append",
        "metavar": FACTORY,
        "help": "verify your own model: factory() returns (module, inputs) or (module, inputs, loss); "
        "repeatable",
    },
    "optimizer": {
        "action": "append",
        "metavar": FACTORY,
        "help": "verify your own optimizer: factory(params) returns it; repeatable",
    },
    "steps": {
        "type": int,
        "default": 6,
        "metavar": "N",
        "help": "how many steps of a recipe to run (default 6)",
    },
    "device": {
        "action": "append",
        "metavar": "DEVICE",
        "help": "auto (default: cpu and every available accelerator), cpu, cuda, cuda:1, mps, ...; "
        "repeatable",
    },
    "dtype": {
        "action": "append",
        "metavar": "DTYPE",
        "help": "run only the laws' tests of this dtype, such as float32; repeatable",
    },
    "reproducers": {
        "metavar": "DIR",
        "help": "where the programs that show a broken law are written (default: .frostproof); "
        "with =, or pytest takes an existing folder for one of tests",
    },
    "known-defects": {
        "action": "append",
        "metavar": "FILE.toml",
        "help": "a table of defects that you know of your torch, beside the project's own (or "
        "FILE.json); repeatable",
    },
    "example-database": {
        "metavar": "WHERE",
        "help": "where failing examples are kept and shared: a directory, redis://HOST:PORT/0, or "
        "github://OWNER/REPO[/ARTIFACT] (read only, with GITHUB_TOKEN); default: .hypothesis/examples",
    },
    "shards": {
        "metavar": "N",
        "help": "split each random law into N tests with their own seeds and 1/N of the examples; "
        "auto: as many as xdist has workers (default: whole)",
    },
    "gpu-workers": {
        "type": int,
        "metavar": "N",
        "help": "how many of xdist's workers use each accelerator (default: as its free memory allows)",
    },
    "law-timeout": {
        "type": float,
        "metavar": "SECONDS",
        "help": "stop a law that stands still, without a new example or assertion, for so long "
        "(default: 600; 0: never)",
    },
    "progress": {
        "type": float,
        "metavar": "SECONDS",
        "help": "how often to tell what is done and what is running (default: 30 in the nightly "
        "profile, else never; 0: never)",
    },
    "report": {
        "metavar": "FILE.html",
        "help": "write a self-contained page of the run: laws by torch, device and dtype, what broke; "
        "with =, or pytest takes an existing file for one of tests",
    },
}
LONG = "--frostproof-"
LAWS = "laws"  # hidden: of ``python -m frostproof``, to run all laws


def _dest(name: str) -> str:
    return f"frostproof_{name.replace('-', '_')}"


def mentioned(arguments: Sequence[str]) -> bool:
    """Whether a command line names one of the options, or asks for help."""
    names = {f"--{name}" for name in OPTIONS} | {"-h", "--help"}
    words = [str(word).partition("=")[0] for word in arguments]
    return any(word in names or word.startswith(LONG) for word in words)


def _taken(parser: pytest.Parser) -> List[str]:
    groups = [getattr(parser, "_anonymous", None), *getattr(parser, "_groups", ())]
    return [name for group in groups if group for option in group.options for name in option.names()]


def wanted(config: pytest.Config) -> bool:
    """Whether a run of laws is asked for."""
    return bool(value(config, LAWS)) or any(value(config, kind) for kind in OWN)


def only_recipes(config: pytest.Config, checkout: bool) -> bool:
    """Whether recipes are asked for, and nothing that draws.

    checkout: tests that are named are laws.
    """
    if checkout and config.args_source is pytest.Config.ArgsSource.ARGS:
        return False
    others = [LAWS, *(kind for kind in OWN if kind != "recipe")]
    return bool(value(config, "recipe")) and not any(value(config, name) for name in others)


def declare(parser: pytest.Parser) -> None:
    """Declare what is not declared yet, beside what others have declared."""
    taken = _taken(parser)
    if LONG + LAWS in taken:
        return
    group = parser.getgroup("frostproof", "frostproof: is what is frozen really frozen?")
    hidden = argparse.SUPPRESS
    group.addoption(LONG + LAWS, dest=_dest(LAWS), action="store_true", help=hidden)
    for name, attributes in OPTIONS.items():
        free = f"--{name}" not in taken
        if free:
            group.addoption(f"--{name}", dest=_dest(name), **attributes)
        shown = {**attributes, "help": hidden} if free else attributes
        group.addoption(LONG + name, dest=_dest(name), **shown)


def value(config: pytest.Config, name: str) -> Any:
    """What was given for an option; its default (an empty list where it is repeatable) otherwise."""
    attributes = OPTIONS.get(name, {})
    given = config.getoption(_dest(name), None)
    if given is None:
        return [] if attributes.get("action") == "append" else attributes.get("default")
    return given
