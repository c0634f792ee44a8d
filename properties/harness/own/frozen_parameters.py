"""Frozen parameters under watch: their flags, their bits, and what moved them."""

from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Set

import torch

from frostproof.properties.harness.own import anatomy, causes
from frostproof.properties.harness.own.findings import Movement
from frostproof.properties.harness.own.optimizer_watch import Hand, gradient_kind, hand_of

if TYPE_CHECKING:
    from frostproof.properties.harness.own.examination import Examination


class LoadNote:
    """Notes that a module's parameters are loaded, and whether from other memory than their own.

    It lies in the module while that is under watch: copied or pickled, it notes nothing.
    """

    def __init__(self, owner: Any = None, path: str = "", foreign: Optional[Set[str]] = None) -> None:
        self.owner, self.path, self.foreign = owner, path, foreign

    def __call__(self, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
        """torch's pre-hook of load_state_dict."""
        for name, parameter in {} if self.owner is None else self.owner._parameters.items():
            source = state.get(f"{prefix}{name}")
            if isinstance(source, torch.Tensor) and self.foreign is not None and parameter is not None:
                if anatomy.storage_of(source) != anatomy.storage_of(parameter):
                    self.foreign.add(f"{self.path}.{name}" if self.path else name)

    def __reduce__(self) -> Any:
        return LoadNote, ()


OFTEN = 2  # turns after which a few values stand for a whole parameter


class FrozenParameters:
    """What is frozen, since when, and what moved in spite of it.

    names: frozen at the last look. since, thawed: the step in which one was frozen or
    unfrozen on the way. turns: how often it was unfrozen. late: frozen when its gradient
    was there already. taken: of those that take turns, moved by such a gradient.
    """

    def __init__(self, seen: "Examination") -> None:
        self.seen = seen
        self.names: Set[str] = set()
        self.since: Dict[str, int] = {}
        self.thawed: Dict[str, int] = {}
        self.turns: Dict[str, int] = {}
        self.late: Set[str] = set()
        self.taken: Set[str] = set()
        self.became: Set[str] = set()
        self.written: Dict[str, List[int]] = {}  # steps in which one was written, and did not change
        self.foreign: Set[str] = set()  # loaded from elsewhere
        self._handles: List[Any] = []
        self.versions: Dict[str, int] = {}
        self._kinds: Dict[str, str] = {}
        self._hands: Dict[str, Hand] = {}  # by name, whose hand moved it since the last look

    def start(self) -> None:
        """Note what is frozen at first."""
        self.names.update(n for n, p in self.seen.parameters.items() if not p.requires_grad)
        self._note_versions()
        for path, owner in self.seen.module.named_modules():
            if any(p is not None and not p.requires_grad for p in owner._parameters.values()):
                note = LoadNote(owner, path, self.foreign)
                self._handles.append(owner._register_load_state_dict_pre_hook(note))

    def stop(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def _note_versions(self) -> None:
        parameters = self.seen.parameters
        self.versions = {name: parameters[name]._version for name in self.names if name in parameters}

    def before_step(self, names: Mapping[str, torch.Tensor]) -> None:
        """Look at all flags, and at the gradients that an optimizer will find."""
        for name, parameter in self.seen.parameters.items():
            self._look_at_flag(name, parameter, parameter)
        self._kinds = {
            name: gradient_kind(parameter)
            for name, parameter in names.items()
            if name in self.names and not self.seen.watch.moved(name, parameter)
        }

    def after_step(self, optimizer: Any, names: Mapping[str, torch.Tensor]) -> None:
        """Note which of them the optimizer has moved: it may be put back before the next look."""
        for name, parameter in names.items():
            if name in self._kinds and name not in self._hands:
                if self.seen.watch.moved(name, parameter):
                    self._hands[name] = hand_of(optimizer, parameter, self._kinds[name])

    def look(self, now: Mapping[str, torch.Tensor]) -> None:
        """Compare all of them, as a round of steps has ended."""
        for name, was in list(self.seen.parameters.items()):
            parameter = now.get(name, was)
            self._look_at_flag(name, was, parameter)
            if name in self.names and name not in now:
                self._look_for(name, was)
            if name in self.names and self.seen.watch.moved(name, parameter):
                self._moved(name, was, parameter)
            elif name in self.names and parameter is was:
                if parameter._version - self.versions.get(name, parameter._version) == 1:
                    self.written.setdefault(name, []).append(self.seen.steps)
        self._hands.clear()
        self._note_versions()

    def _look_at_flag(self, name: str, was: torch.Tensor, parameter: torch.Tensor) -> None:
        flag = parameter.requires_grad
        if name in self.names and (flag or name in self.seen.arrived):
            self._thaw(name, was, parameter)
        elif name not in self.names and not flag:
            self._freeze(name, parameter)

    def _thaw(self, name: str, was: torch.Tensor, parameter: torch.Tensor) -> None:
        """A schedule that unfreezes, or a step that switches the flag itself."""
        seen = self.seen
        if name in self._hands and seen.watch.moved(name, parameter):
            if name in self.late and self._hands[name].gradient == "nonzero":
                self.taken.add(name)
            self._moved(name, was, parameter)
            self._hands.pop(name, None)
        self.turns[name] = self.turns.get(name, 0) + 1
        if not parameter.requires_grad:  # was unfrozen since, and is frozen again
            self.since.setdefault(name, seen.steps)
            self._remember(name, parameter)
            return
        self.names.discard(name)
        if name not in self.since:
            self.thawed[name] = seen.steps
            seen.trainable.add(name)
            if not seen.watch.moved(name, parameter) and seen.can_move(name):
                seen.still.add(name)
        if name not in seen.still:
            seen.watch.forget(name)

    def _remember(self, name: str, parameter: torch.Tensor) -> None:
        watch = self.seen.watch
        if name in self.seen.still and not watch.moved(name, parameter):
            return  # its first bits are these
        self.seen.still.discard(name)
        if self.turns.get(name, 0) >= OFTEN:
            watch.remember_few(name, parameter)
        else:
            watch.remember(name, parameter)

    def _freeze(self, name: str, parameter: torch.Tensor) -> None:
        """A parameter that is frozen on the way is watched from here on."""
        self.since[name] = self.seen.steps
        self.names.add(name)
        if name in self.seen.fresh and parameter.grad is not None:
            self.late.add(name)
        else:
            self.late.discard(name)
        self.seen.arrived.discard(name)  # what comes from here on shows that it was unfrozen
        self._remember(name, parameter)
        self.versions[name] = parameter._version

    # what moved

    def _moved(self, name: str, was: torch.Tensor, parameter: torch.Tensor) -> None:
        seen = self.seen
        change = seen.watch.change(name, parameter)
        hand = self._hands.get(name)
        cause = self._cause(name, was, parameter, change, hand)
        seen.still.discard(name)
        if cause is None:  # as it is meant to, behind a leader
            seen.watch.forget(name)
            return
        since = f" (frozen in step {self.since[name]})" if name in self.since else ""
        if name in self.late:
            since = f" (frozen in step {self.since[name]}, after backward)"
        twin = self._twin(was) if cause == causes.SHARED else None
        key = "R1", name, cause
        movement = seen.movements.setdefault(
            key,
            Movement(
                *("R1", name, cause, f"is frozen{since}, but"),
                end=f", with {twin}, in whose memory it lies" if twin else "",
            ),
        )
        movement.add(seen.steps, change)
        seen.watch.remember_few(name, parameter)

    def _cause(
        self,
        name: str,
        was: torch.Tensor,
        parameter: torch.Tensor,
        change: Optional[float],
        hand: Optional[Hand],
    ) -> Optional[str]:
        """The cause in words; None where it moved as it is meant to, behind a leader."""
        seen = self.seen
        if seen.watch.resized(name, parameter):
            return causes.RESHAPED
        if parameter is not was:
            return causes.REPLACED
        if self._twin(was) is not None:
            return causes.SHARED
        if hand is not None:
            return causes.by_optimizer(hand)
        bits = seen.watch.bits.get(name)
        if bits is not None and seen.followers.follows(name, bits, parameter, seen.leaders()):
            return None
        owner = anatomy.owner_of(seen.module, name)
        silent = parameter._version == self.versions.get(name, 0)
        return causes.by_writing(owner, parameter, change, silent)

    def _twin(self, frozen: torch.Tensor) -> Optional[str]:
        """The name of a trainable parameter that lies in a frozen one's memory."""
        for name, tensor in self.seen.parameters.items():
            if tensor is not frozen and tensor.requires_grad and anatomy.overlaps(tensor, frozen):
                return name
        return None

    def _look_for(self, name: str, was: torch.Tensor) -> None:
        """A name that is listed no more may have become another name of what trains."""
        parameter = anatomy.parameter_at(self.seen.module, name)
        if parameter is None or parameter is was or not parameter.requires_grad or name in self.became:
            return
        others = [n for n, p in self.seen.module.named_parameters() if p is parameter]
        self.became.add(name)
        sentence = f"is frozen, but since step {self.seen.steps} it is {others[0]} itself, which trains"
        self.seen.find("R1", name, sentence, causes.BECAME_ITS_LEADER)
