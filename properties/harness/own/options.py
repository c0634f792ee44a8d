"""The options --model, --recipe and --optimizer: what they load, and which laws they choose."""

import importlib.util
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Tuple

import pytest

from frostproof.properties.harness.core.law_files import collect_own
from frostproof.properties.harness.core.options import OWN, value
from frostproof.properties.harness.own.factory import load
from frostproof.properties.harness.own.recipe import Recipe
from frostproof.properties.harness.own.recipe import build as build_recipe

if TYPE_CHECKING:  # both draw, and Hypothesis takes its time to import
    from frostproof.properties.harness.own.model import OwnModel
    from frostproof.strategies import OptimizerSpec

FILES = {kind: f"test_{kind}.py" for kind in OWN}
# the fixture through which the laws get what the user brought
FIXTURES = {"model": "own_model", "recipe": "examination", "optimizer": "own_optimizer"}


@dataclass
class Own:
    """What the user brought, by the text of its option."""

    model: Dict[str, "OwnModel"] = field(default_factory=dict)
    recipe: Dict[str, Recipe] = field(default_factory=dict)
    optimizer: Dict[str, "OptimizerSpec"] = field(default_factory=dict)

    def notes(self) -> List[str]:
        """What the user should know of it."""
        noted: List[Tuple[str, List[str]]] = [(text, model.notes) for text, model in self.model.items()]
        noted += [(text, recipe.notes) for text, recipe in self.recipe.items()]
        several = len(noted) > 1
        return [f"{text}: {note}" if several else note for text, notes in noted for note in notes]

    def of(self, kind: str, request: Any) -> Any:
        """What a law's fixture gives it: the only thing of its kind, or the one that is its turn."""
        brought = getattr(self, kind)
        return brought[getattr(request, "param", next(iter(brought)))]

    def parametrize(self, metafunc: pytest.Metafunc, kind: str) -> None:
        """A law of the user's code runs on everything of its kind that the user brought."""
        fixture, texts = FIXTURES[kind], list(getattr(self, kind))
        if fixture in metafunc.fixturenames and len(texts) > 1:
            names = [text.replace("\\", "/").rpartition("/")[2] for text in texts]
            metafunc.parametrize(fixture, texts, ids=names, indirect=True)


def asked(config: pytest.Config) -> List[str]:
    """Which of model, recipe and optimizer are given."""
    return [kind for kind in FILES if value(config, kind)]


def plugins(config: pytest.Config) -> List[str]:
    """``-p NAME`` for each plugin that the user named, as words of a command."""
    given = config.getoption("plugins", None) or []
    kept = [
        name
        for name in given
        if name != "frostproof.plugin" and importlib.util.find_spec(name.split(".")[0])
    ]
    return [word for name in dict.fromkeys(kept) for word in ("-p", name)]


def command(config: pytest.Config) -> List[str]:
    """The options as they were given, for the command that repeats the run."""
    words = [f"--{kind}={text}" for kind in asked(config) for text in value(config, kind)]
    if value(config, "steps") != 6:
        words.append(f"--steps={value(config, 'steps')}")
    return words


def configure(config: Any, laws: Path, devices: List[str]) -> Own:
    """Load what is asked for, and let the run be of its laws alone.

    laws: their folder; devices: that ``--device`` names, none by default. A model and a
    recipe are live things: their laws run in one process.
    """
    own = Own()
    kinds = asked(config)
    if not kinds:
        return own
    if value(config, "steps") < 1:
        raise pytest.UsageError(f"--steps {value(config, 'steps')}: at least 1")
    here = Path(config.invocation_params.dir)
    collect_own(config, laws, [FILES[kind] for kind in kinds])
    # the user's warnings are no errors
    for options in (config.known_args_namespace, config.option):
        options.pythonwarnings = [*(options.pythonwarnings or ()), "default"]
    if "model" in kinds or "recipe" in kinds:
        config.option.dist, config.option.tx = "no", []
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        for kind in kinds:
            for text in value(config, kind):
                _load(own, kind, text, here, devices)
    return own


def _load(own: Own, kind: str, text: str, here: Path, devices: List[str]) -> None:
    option = f"--{kind}"
    if text in getattr(own, kind):
        return
    factory = load(option, text, here)
    if kind == "recipe":
        if devices:
            raise pytest.UsageError(
                f"--device {', '.join(devices)} does not move a recipe, which makes its tensors: "
                f"choose the device in the factory of --recipe {text}, and leave --device out"
            )
        own.recipe[text] = build_recipe(option, text, factory)
    elif kind == "optimizer":
        from frostproof.properties.harness.own.optimizer import build as build_optimizer

        own.optimizer[text] = build_optimizer(option, text, factory)
    else:
        from frostproof.properties.harness.own.model import build as build_model

        if len(devices) > 1:
            raise pytest.UsageError(f"--model runs on one device, not on {', '.join(devices)}")
        own.model[text] = build_model(option, text, factory, devices[0] if devices else None)
