"""accelerate: ``with watch(accelerator, model): ...`` around a loop over what it prepared."""

from typing import Any

from frostproof import watching


class watch(watching.watch):
    """``frostproof.watch`` of a model that ``accelerator.prepare`` may have wrapped.

    The other arguments are those of ``frostproof.watch``.
    """

    def __init__(
        self,
        accelerator: Any,
        model: Any,
        *,
        keep: Any = None,
        trains: Any = None,
        frozen: Any = None,
    ) -> None:
        __tracebackhide__ = True
        module = accelerator.unwrap_model(model)
        super().__init__(module, keep=keep, trains=trains, frozen=frozen, depth=3)
