"""Lightning: ``Trainer(..., callbacks=[FrostproofCallback()])``, of lightning or pytorch_lightning."""

import sys
from importlib import import_module
from typing import Any, Optional

from frostproof.watching import Watching


def _callback() -> Any:
    """The base class, of the package that the user has imported."""
    names = ["lightning.pytorch", "pytorch_lightning"]
    names.sort(key=lambda name: name not in sys.modules)
    for name in names:
        try:
            return import_module(f"{name}.callbacks").Callback
        except ImportError:
            continue
    raise ImportError("frostproof.lightning needs lightning or pytorch_lightning")


Callback: Any = _callback()


class FrostproofCallback(Callback):  # type: ignore[misc]
    """Watches the LightningModule in fit, and raises AssertionError with what it found, and why.

    keep, trains, frozen: as of ``frostproof.watch``. every: judge after so many optimizer steps
    too, not only at the end of training.
    """

    def __init__(
        self, *, keep: Any = None, trains: Any = None, frozen: Any = None, every: Optional[int] = None
    ) -> None:
        super().__init__()
        self._declared = {"keep": keep, "trains": trains, "frozen": frozen}
        self._every = every
        self._judged = 0
        self.watching: Optional[Watching] = None

    def _begin(self, module: Any) -> None:
        self.watching = Watching(module, **self._declared).start()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to look on: the optimizers are built, nothing has stepped."""
        self._judged = trainer.global_step
        self._begin(pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        """Judge what was seen since the last time."""
        if self._every and trainer.global_step - self._judged >= self._every and self.watching:
            self._judged = trainer.global_step
            self.watching.finish()
            self._begin(pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Judge."""
        watching, self.watching = self.watching, None
        if watching is not None and not (self._every and self._judged == trainer.global_step):
            watching.finish()
        elif watching is not None:
            watching.examination.stop()  # the last judgement was of the last step

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """What was raised says more."""
        watching, self.watching = self.watching, None
        if watching is not None:
            watching.examination.stop()
