"""Buffers of frozen modules under watch."""

from typing import TYPE_CHECKING, Dict

import torch

from frostproof.properties.harness.own import anatomy, causes
from frostproof.properties.harness.own.findings import Movement

if TYPE_CHECKING:
    from frostproof.properties.harness.own.examination import Examination


class FrozenBuffers:
    """The buffers of what is frozen at first, and which of their modules were seen in train mode."""

    def __init__(self, seen: "Examination") -> None:
        self.seen = seen
        self.tensors: Dict[str, torch.Tensor] = {}

    def start(self) -> None:
        """Take the first snapshots."""
        self.tensors = anatomy.frozen_buffers(self.seen.module)
        for name, buffer in self.tensors.items():
            self.seen.watch.remember(name, buffer)
        for name, buffer in self.seen.module.named_buffers():
            if name not in self.tensors:
                self.seen.watch.remember_few(f"buffer {name}", buffer)

    def leaders_moved(self, name: str, buffer: torch.Tensor) -> bool:
        """Whether a buffer of what trains has moved since the start."""
        return self.seen.watch.moved(f"buffer {name}", buffer)

    def look(self) -> None:
        """Compare them, as a round of steps has ended."""
        seen = self.seen
        buffers = dict(seen.module.named_buffers())
        moved = [
            name for name, was in self.tensors.items() if seen.watch.moved(name, buffers.get(name, was))
        ]
        for name in moved:
            was, buffer = self.tensors[name], buffers.get(name, self.tensors[name])
            if buffer is not was and anatomy.unsaved(seen.module, name):
                seen.notes.append(f"{name} was made anew in step {seen.steps}: a table, not saved")
            else:
                where = name.rpartition(".")[0]
                counter = f"{where}.num_batches_tracked" if where else "num_batches_tracked"
                owner = anatomy.owner_of(seen.module, name)
                cause = causes.of_buffer(owner, name.rpartition(".")[2], counter in moved)
                beginning = f"buffer of a frozen module ({where or 'the module'}), but"
                movement = Movement("R2", name, cause, beginning)
                movement.add(seen.steps, seen.watch.change(name, buffer))
                seen.movements["R2", name, cause] = movement
            seen.watch.forget(name)
