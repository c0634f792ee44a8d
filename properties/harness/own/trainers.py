"""Frameworks that own the loop: a recipe's factory may return their Trainer.

Known by their classes' names, so that none of them is imported here.
"""

from typing import Any, Optional, Tuple

LIGHTNING = ("lightning.pytorch", "pytorch_lightning")


def _is(thing: Any, packages: Tuple[str, ...]) -> bool:
    return any(
        kind.__name__ == "Trainer"
        and f"{kind.__module__}.".startswith(tuple(f"{p}." for p in packages))
        for kind in type(thing).__mro__
    )


class Training:
    """A whole training as the one call of a recipe's step.

    steps: of the optimizer, after which it stops where the trainer knows how; none: as it comes.
    """

    steps: Optional[int] = None

    def __init__(self, trainer: Any, *fitted: Any) -> None:
        self.trainer = trainer
        self.fitted = fitted

    def __call__(self) -> None:
        raise NotImplementedError


class Transformers(Training):
    """``trainer.train()``, without writing checkpoints."""

    def __call__(self) -> None:
        arguments = self.trainer.args
        if self.steps is not None and not 0 < arguments.max_steps <= self.steps:
            arguments.max_steps = self.steps
        arguments.save_strategy = type(arguments.save_strategy)("no")
        self.trainer.train()


class Lightning(Training):
    """``trainer.fit(module, ...)``."""

    def __call__(self) -> None:
        loop = self.trainer.fit_loop.epoch_loop
        if self.steps is not None and not 0 < loop.max_steps <= self.steps:
            loop.max_steps = self.steps
        self.trainer.fit(*self.fitted)


def as_recipe(result: Any) -> Any:
    """(module, training) or (module, training, keep) of what holds a Trainer; all else as it is.

    Of transformers: trainer or (trainer, keep); of Lightning: (trainer, module) or
    (trainer, module, dataloader or datamodule).
    """
    parts = result if isinstance(result, tuple) else (result,)
    if parts and _is(parts[0], ("transformers",)) and len(parts) <= 2:
        return (parts[0].model, Transformers(parts[0]), *parts[1:])
    if len(parts) in (2, 3) and _is(parts[0], LIGHTNING):
        return parts[1], Lightning(*parts)
    return result
