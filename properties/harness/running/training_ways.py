"""Other ways of training than forward, backward, step: each must end with the plain run's bits."""

import copy
import pickle
from multiprocessing.reduction import ForkingPickler
from typing import Any, Dict, List, Type

import torch
import torch.utils.checkpoint

from frostproof.properties.harness.running.call_modes import Eager
from frostproof.properties.harness.running.replicas import data_parallel
from frostproof.strategies import TrainingRun
from frostproof.strategies.capabilities import checkpoint_options


class Offloaded(Eager):
    """Activations are saved by hooks that keep them elsewhere."""

    def output(self) -> torch.Tensor:
        with torch.autograd.graph.save_on_cpu():
            return super().output()


class Copied(Eager):
    """Activations are saved as copies, and copied again when they are asked for."""

    def output(self) -> torch.Tensor:
        with torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone):
            return super().output()


class Reentrant(Eager):
    """The older checkpoint, which wants an input that requires grad."""

    def __init__(self, run: TrainingRun, device: str, dtype: torch.dtype) -> None:
        super().__init__(run, device, dtype)
        self.inputs.requires_grad_(True)

    def output(self) -> torch.Tensor:
        options = checkpoint_options(reentrant=True) or {}
        made: torch.Tensor = torch.utils.checkpoint.checkpoint(self.call, self.inputs, **options)
        return made


class InDataParallel(Eager):
    """The net is called through a ``torch.nn.DataParallel``."""

    def __init__(self, run: TrainingRun, device: str, dtype: torch.dtype) -> None:
        super().__init__(run, device, dtype)
        self.wrapper = data_parallel(self.network, device)

    def output(self) -> torch.Tensor:
        cuts = self.run.cuts
        made: torch.Tensor = self.wrapper(self.inputs, cuts=cuts.positions, cut_by=cuts.by)
        return made


class InBackward(Eager):
    """Each parameter has an optimizer of its own, which steps as soon as its gradient is there."""

    def __init__(self, run: TrainingRun, device: str, dtype: torch.dtype) -> None:
        super().__init__(run, device, dtype)
        self.own: List[torch.optim.Optimizer] = []
        if self.spec.needs_closure:
            return
        for name in self.listed:
            parameter = self.named[name]
            if parameter.requires_grad:
                optimizer = self.spec.build([parameter])
                self.own.append(optimizer)

                def step(_: Any, optimizer: torch.optim.Optimizer = optimizer) -> None:
                    optimizer.step()

                parameter.register_post_accumulate_grad_hook(step)

    def apply(self) -> None:
        if not self.own:
            super().apply()


class Moved(Eager):
    """Before each step net and optimizer give way to others; a subclass says how."""

    def step(self) -> None:
        self.network, self.optimizer = self.moved()
        self.named = dict(self.network.named_parameters())
        super().step()

    def moved(self) -> Any:
        """A net and an optimizer in the same state."""
        raise NotImplementedError


class DeepCopied(Moved):
    """Both are copied."""

    def moved(self) -> Any:
        return copy.deepcopy((self.network, self.optimizer))


class Pickled(Moved):
    """Both are pickled."""

    def moved(self) -> Any:
        return pickle.loads(pickle.dumps((self.network, self.optimizer)))


class Sent(Moved):
    """The net goes through shared memory, as to another process; its optimizer is loaded."""

    def moved(self) -> Any:
        self.network.share_memory()
        self.network = pickle.loads(bytes(ForkingPickler.dumps(self.network)))
        self.named = dict(self.network.named_parameters())
        saved = copy.deepcopy(self.optimizer.state_dict())
        optimizer = self.build_optimizer()
        optimizer.load_state_dict(saved)
        return self.network, optimizer


class Reloaded(Moved):
    """A new net and a new optimizer load the state of these."""

    def moved(self) -> Any:
        values = copy.deepcopy(self.network.state_dict())
        saved = copy.deepcopy(self.optimizer.state_dict())
        self.network = copy.deepcopy(self.network)
        with torch.no_grad():
            for parameter in self.network.parameters():
                parameter.fill_(0.5)
        self.network.load_state_dict(values)
        self.named = dict(self.network.named_parameters())
        optimizer = self.build_optimizer()
        optimizer.load_state_dict(saved)
        return self.network, optimizer


TRAINING_WAYS: Dict[str, Type[Eager]] = {
    "deepcopy": DeepCopied,
    "pickle": Pickled,
    "load": Reloaded,
    "queue": Sent,
    "reentrant checkpoint": Reentrant,
    "save_on_cpu": Offloaded,
    "copying hooks": Copied,
    "in backward": InBackward,
    "DataParallel": InDataParallel,
}
NEEDS = {
    "save_on_cpu": "torch.autograd.graph.save_on_cpu",
    "copying hooks": "torch.autograd.graph.saved_tensors_hooks",
    "in backward": "torch.Tensor.register_post_accumulate_grad_hook",
}
