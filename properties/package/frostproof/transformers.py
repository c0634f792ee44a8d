"""Hugging Face: ``Trainer(..., callbacks=[FrostproofCallback()])``."""

from typing import Any, Optional

from transformers import TrainerCallback

from frostproof.watching import Watching


class FrostproofCallback(TrainerCallback):  # type: ignore[misc]
    """Watches the Trainer's model, and raises AssertionError with what it found, and why.

    keep, trains, frozen: as of ``frostproof.watch``. every: judge after so many optimizer steps
    too, not only at the end of training.
    """

    def __init__(
        self, *, keep: Any = None, trains: Any = None, frozen: Any = None, every: Optional[int] = None
    ) -> None:
        self._declared = {"keep": keep, "trains": trains, "frozen": frozen}
        self._every = every
        self.watching: Optional[Watching] = None

    def _begin(self, model: Any) -> None:
        self.watching = Watching(model, **self._declared).start()

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **more: Any
    ) -> None:
        """Begin to look on: the optimizer is built, nothing has stepped."""
        if self.watching is not None:  # a training that ended in an error
            self.watching.examination.stop()
        self._begin(model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **more: Any) -> None:
        """Judge what was seen since the last time."""
        if self._every and state.global_step % self._every == 0 and self.watching is not None:
            self.watching.finish()
            self._begin(model)

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Judge."""
        watching, self.watching = self.watching, None
        if watching is not None and not (self._every and not watching.examination.hands.steps):
            watching.finish()
        elif watching is not None:
            watching.examination.stop()  # the last judgement was of the last step
