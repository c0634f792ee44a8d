"""What is to be kept, under watch: tensors, arrays and modules that must not change."""

from typing import TYPE_CHECKING, Any, Dict, Mapping, Set, Tuple

import torch

from frostproof.properties.harness.own import anatomy, causes
from frostproof.properties.harness.own.optimizer_watch import Hand, hand_of
from frostproof.properties.harness.own.recipe import flattened, modules_in
from frostproof.properties.harness.own.watch import magnitude

if TYPE_CHECKING:
    from frostproof.properties.harness.own.examination import Examination

OF_BATCHNORM = ("running_mean", "running_var", "num_batches_tracked")


class Kept:
    """What is kept, and which optimizer's hand moved what lies in a live parameter.

    tensors: by name, as they were last seen. replaced: names of those that the user's code
    replaced by something newer. live: of those that lie in a parameter's memory, its name.
    """

    def __init__(self, seen: "Examination", keep: Mapping[Any, Any]) -> None:
        self.seen = seen
        self.keep = keep
        self.tensors: Dict[str, torch.Tensor] = {}
        self.replaced: Set[str] = set()
        self.live: Dict[str, str] = {}
        self.lost: Set[str] = set()  # live parameters with which something kept has moved
        self._kinds: Dict[str, str] = {}
        self._hands: Dict[str, Hand] = {}

    def look_for_new(self) -> None:
        """Watch what is to be kept, and what came into it since."""
        seen = self.seen
        by_id = {id(parameter): name for name, parameter in seen.parameters.items()}
        by_storage: Dict[int, str] = {}
        for name, parameter in seen.parameters.items():
            by_storage.setdefault(anatomy.storage_of(parameter), name)
        for name, tensor in flattened("", self.keep):
            if name not in self.tensors:
                self._take(name, tensor)
                live = by_id.get(id(tensor)) or by_storage.get(anatomy.storage_of(tensor))
                if live is not None and anatomy.overlaps(tensor, seen.parameters[live]):
                    self.live[name] = live
                if id(tensor) not in by_id:
                    seen.hook(name, tensor, kept=True)

    def _take(self, name: str, tensor: torch.Tensor) -> None:
        self.tensors[name] = tensor
        self.live.pop(name, None)
        self.seen.watch.remember(f"keep {name}", tensor)

    def before_step(self, names: Mapping[str, torch.Tensor]) -> None:
        """Look at the gradients that an optimizer will find where something kept lies."""
        self._kinds = {}
        for name, live in self.live.items():
            if live in names and not self.seen.watch.moved(f"keep {name}", self.tensors[name]):
                self._kinds[name] = _gradient_kind(self.tensors[name], names[live])

    def after_step(self, optimizer: Any, names: Mapping[str, torch.Tensor]) -> None:
        """Note what the optimizer has moved: it may be put back before the next look."""
        for name, kind in self._kinds.items():
            if name not in self._hands and self.live.get(name) in names:
                if self.seen.watch.moved(f"keep {name}", self.tensors[name]):
                    self._hands[name] = hand_of(optimizer, names[self.live[name]], kind)

    def look(self) -> None:
        """Compare all of it, as a round of steps has ended."""
        seen = self.seen
        now = dict(flattened("", self.keep))
        owned = {id(t) for m in modules_in(self.keep) for _, t in flattened("", m)}
        for name, was in list(self.tensors.items()):
            key = f"keep {name}"
            if name not in now:
                seen.find("R4", name, f"to be kept, but gone after step {seen.steps}")
                del self.tensors[name]
                self.live.pop(name, None)
                continue
            tensor = now[name]
            if not seen.watch.moved(key, tensor):
                continue
            if tensor is not was and id(tensor) not in owned and not anatomy.overlaps(tensor, was):
                # the user's code keeps something newer, as it does with the best weights so far
                self.replaced.add(name)
                self._take(name, tensor)
                continue
            change = seen.watch.change(key, tensor)
            by = "" if change is None else f", by {change:.3g} at most"
            live, cause = self._cause_of_loss(name, tensor, was)
            with_it = f", with {live}" if live else ""
            seen.find("R4", name, f"is to be kept, but moved in step {seen.steps}{by}{with_it}", cause)
            seen.watch.forget(key)
            self.lost.add(self.live.get(name, ""))
        self._hands.clear()
        self.look_for_new()

    def _cause_of_loss(self, name: str, tensor: torch.Tensor, was: torch.Tensor) -> Tuple[str, str]:
        """The live tensor with which something kept moved ("": none), and the cause in words."""
        seen = self.seen
        if tensor is not was and not anatomy.overlaps(tensor, was):
            return "", causes.REPLACED
        hand = self._hands.get(name)
        live = {**seen.parameters, **dict(seen.module.named_buffers())}
        for other, parameter in live.items():
            if parameter is tensor:
                if hand is None or self._keeps_all_that_trains():
                    return other, causes.KEPT_ITSELF
                return "", causes.of_live_parameter(hand)
            if anatomy.overlaps(tensor, parameter):
                if hand is not None and tensor.numel() < parameter.numel():
                    return other, causes.of_rows(hand)
                return other, causes.KEPT_SHARED
        if id(tensor) in seen.hands.holds:
            return "", f"{seen.hands.holds[id(tensor)]} trains it: leave it out of the optimizer"
        owner = seen.hands.owner_of_state(tensor)
        if owner is not None:
            return f"the state of {owner}", causes.KEPT_SHARED
        if name.rpartition(".")[2] in OF_BATCHNORM:
            return "", causes.OF_BATCHNORM
        return "", causes.KEPT_WRITTEN

    def _keeps_all_that_trains(self) -> bool:
        """Whether the live network is kept whole: then a copy was meant."""
        kept = {id(tensor) for tensor in self.tensors.values()}
        return all(id(p) in kept for n, p in self.seen.parameters.items() if n in self.seen.trainable)


def _gradient_kind(kept: torch.Tensor, parameter: torch.Tensor) -> str:
    """Of the gradient of that part of a parameter in which something kept lies."""
    gradient = parameter.grad
    if gradient is None:
        return "none"
    if kept.numel() < parameter.numel() and gradient.layout is torch.strided:
        if gradient.stride() == parameter.stride() and kept.dtype is parameter.dtype:
            offset = kept.storage_offset() - parameter.storage_offset() + gradient.storage_offset()
            with torch.no_grad():
                try:
                    gradient = gradient.as_strided(kept.size(), kept.stride(), offset)
                except RuntimeError:
                    pass  # does not lie within it
    return "zero" if magnitude(gradient) == 0 else "nonzero"
