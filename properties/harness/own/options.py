"""The options --model, --recipe and --optimizer: what they load, and which laws they choose."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Optional

import pytest

from frostproof.properties.harness.own.factory import load
from frostproof.properties.harness.own.model import OwnModel
from frostproof.properties.harness.own.model import build as build_model
from frostproof.properties.harness.own.optimizer import build as build_optimizer
from frostproof.properties.harness.own.recipe import Recipe
from frostproof.properties.harness.own.recipe import build as build_recipe
from frostproof.strategies import OptimizerSpec

FILES = {"model": "test_model.py", "recipe": "test_recipe.py", "optimizer": "test_optimizer.py"}


@dataclass
class Own:
    """What the user brought."""

    model: Optional[OwnModel] = None
    recipe: Optional[Recipe] = None
    optimizer: Optional[OptimizerSpec] = None


def add(group: Any) -> None:
    """Declare the options."""
    group.addoption(
        "--model",
        metavar="FILE.py:FACTORY",
        help="verify your own model: factory() returns (module, inputs) or (module, inputs, loss)",
    )
    group.addoption(
        "--recipe",
        metavar="FILE.py:FACTORY",
        help="verify your own training: factory() returns (module, step) or (module, step, keep)",
    )
    group.addoption(
        "--optimizer",
        metavar="FILE.py:FACTORY",
        help="verify your own optimizer: factory(params) returns it",
    )
    group.addoption(
        "--steps",
        type=int,
        default=6,
        metavar="N",
        help="how many steps of a recipe to run (default 6)",
    )


def asked(config: pytest.Config) -> List[str]:
    """Which of model, recipe and optimizer are given."""
    return [kind for kind in FILES if config.getoption(f"--{kind}")]


def command(config: pytest.Config) -> List[str]:
    """The options as they were given, for the command that repeats the run."""
    words = [f"--{kind}={config.getoption(f'--{kind}')}" for kind in asked(config)]
    if config.getoption("--steps") != 6:
        words.append(f"--steps={config.getoption('--steps')}")
    return words


def configure(config: Any, folder: Path, devices: List[str]) -> Own:
    """Load what is asked for, and let the run be of its laws alone.

    folder: of the laws; devices: that ``--device`` names, none by default. A model and a
    recipe are live things: their laws run in one process.
    """
    own = Own()
    kinds = asked(config)
    if not kinds:
        return own
    if config.getoption("--steps") < 1:
        raise pytest.UsageError(f"--steps {config.getoption('--steps')}: at least 1")
    here = Path(config.invocation_params.dir)
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = [str(folder / FILES[kind]) for kind in kinds]
    # the user's warnings are no errors
    for options in (config.known_args_namespace, config.option):
        options.pythonwarnings = [*(options.pythonwarnings or ()), "default"]
    if "model" in kinds or "recipe" in kinds:
        config.option.dist, config.option.tx = "no", []
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        _load(own, kinds, config, here, devices)
    return own


def _load(own: Own, kinds: List[str], config: Any, here: Path, devices: List[str]) -> None:
    for kind in kinds:
        option, text = f"--{kind}", config.getoption(f"--{kind}")
        factory = load(option, text, here)
        if kind == "recipe":
            if devices:
                raise pytest.UsageError(
                    f"--device {', '.join(devices)} does not move a recipe, which makes its tensors: "
                    f"choose the device in the factory of --recipe {text}, and leave --device out"
                )
            own.recipe = build_recipe(option, text, factory)
        elif kind == "optimizer":
            own.optimizer = build_optimizer(option, text, factory)
        else:
            if len(devices) > 1:
                raise pytest.UsageError(f"--model runs on one device, not on {', '.join(devices)}")
            own.model = build_model(option, text, factory, devices[0] if devices else None)
