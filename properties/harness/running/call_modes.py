"""Other ways of running a net than calling it: which of them this torch has, each as a trainer."""

import copy
import sys
from typing import Any, Callable, Dict, Optional, Tuple, Type

import torch
import torch.utils.checkpoint

from frostproof.properties.harness.defects.known import version_tuple
from frostproof.properties.harness.running.trainer import Trainer
from frostproof.strategies import Cuts, TrainingRun
from frostproof.strategies.capabilities import NotOffered, checkpoint_options


class Eager(Trainer):
    """The plain call; other ways replace ``output``."""

    def __init__(self, run: TrainingRun, device: str, dtype: torch.dtype) -> None:
        super().__init__(run, device, dtype)

    def call(self, inputs: torch.Tensor) -> torch.Tensor:
        """The net's output for inputs (batch, inputs), with the run's cuts."""
        cuts = self.run.cuts
        result: torch.Tensor = self.network(inputs, cuts=cuts.positions, cut_by=cuts.by)
        return result

    def bystanders(self) -> Dict[str, torch.nn.Parameter]:
        """Parameters that this way must leave alone, by name."""
        return {}


class Checkpoint(Eager):
    """Activations are dropped after forward, and computed again in backward."""

    def output(self) -> torch.Tensor:
        made: torch.Tensor = torch.utils.checkpoint.checkpoint(
            self.call, self.inputs, use_reentrant=False
        )
        return made


def functional_call() -> Optional[Callable[..., Any]]:
    """``functional_call(module, values, inputs, options)`` of this torch; None where it has none."""
    where = getattr(torch, "func", None) or getattr(torch.nn.utils, "stateless", None)
    return getattr(where, "functional_call", None)


def called_with(module: Any, values: Any, inputs: torch.Tensor, cuts: Cuts) -> torch.Tensor:
    """A net's output with other parameters and buffers, by the keys of its state_dict."""
    call = functional_call()
    assert call is not None
    options = [{"cuts": cuts.positions, "cut_by": cuts.by}] if cuts.positions else []
    made: torch.Tensor = call(module, values, (inputs,), *options)
    return made


class FunctionalCall(Eager):
    """A module is run with the values of a copy of it; the copy is what trains."""

    def __init__(self, run: TrainingRun, device: str, dtype: torch.dtype) -> None:
        super().__init__(run, device, dtype)
        self.module = self.network
        self.network = copy.deepcopy(self.module)
        self.named = dict(self.network.named_parameters())
        self.optimizer = self.build_optimizer()

    def run_with(self, values: Dict[str, torch.Tensor]) -> torch.Tensor:
        """The module's output with these parameters and buffers, by the keys of its state_dict."""
        return called_with(self.module, values, self.inputs, self.run.cuts)

    def output(self) -> torch.Tensor:
        return self.run_with(self.network.state_dict(keep_vars=True))

    def bystanders(self) -> Dict[str, torch.nn.Parameter]:
        return dict(self.module.named_parameters())

    def gradients(self) -> Dict[str, torch.Tensor]:
        """What ``torch.func.grad`` of the loss gives for each unfrozen parameter, by name."""
        held = self.network.state_dict(keep_vars=True)
        names = {id(parameter): name for name, parameter in self.named.items()}
        owner = {key: names[id(value)] for key, value in held.items() if id(value) in names}
        buffers = {key: value for key, value in held.items() if key not in owner}

        def loss_of(live: Dict[str, Any], rest: Dict[str, Any]) -> torch.Tensor:
            values = {key: live.get(name, self.named[name]) for key, name in owner.items()}
            output = self.run_with({**values, **rest})
            return torch.nn.functional.mse_loss(output, self.targets)

        live = {name: self.named[name] for name in self.run.unfrozen()}
        with torch.no_grad():  # grad works inside it; its results are not to require grad
            found: Dict[str, torch.Tensor] = torch.func.grad(loss_of)(live, buffers)
        return found


def forget_compiled() -> None:
    """Forget what torch.compile has made, so that no limit of recompilations is met."""
    compiler = getattr(torch, "compiler", None) or getattr(torch, "_dynamo", None)  # since 2.1, 2.0
    getattr(compiler, "reset", lambda: None)()


class Compile(Eager):
    """Traced by torch.compile, and run as traced."""

    def __init__(self, run: TrainingRun, device: str, dtype: torch.dtype) -> None:
        super().__init__(run, device, dtype)
        forget_compiled()
        self.compiled = torch.compile(self.network, backend="eager", dynamic=False)

    def output(self) -> torch.Tensor:
        cuts = self.run.cuts
        made: torch.Tensor = self.compiled(self.inputs, cuts=cuts.positions, cut_by=cuts.by)
        return made


# The newest Python that torch.compile takes, from the torch that is named on; others it refuses
# when called. From torch's own messages; measured with 2.13 on 3.11 only.
COMPILES: Dict[Tuple[int, int], Tuple[int, int]] = {
    (2, 0): (3, 10),
    (2, 1): (3, 11),
    (2, 4): (3, 12),
    (2, 6): (3, 13),
    (2, 10): (3, 14),
}


def can_transform() -> bool:
    """Whether this torch has torch.func.grad."""
    return hasattr(getattr(torch, "func", None), "grad")


def can_compile() -> bool:
    """Whether torch.compile of this torch takes this Python."""
    if not hasattr(torch, "compile"):
        return False
    now = version_tuple(str(torch.__version__))
    newest = max((since for since in COMPILES if since <= now), default=None)
    return newest is not None and sys.version_info[:2] <= COMPILES[newest]


def ways() -> Dict[str, Type[Eager]]:
    """The ways to call a net, by name; "again" is the plain call a second time."""
    return {"again": Eager, "checkpoint": Checkpoint, "functional_call": FunctionalCall}


def way_of(name: str) -> Type[Eager]:
    """One of the ways; raises ``NotOffered`` where this torch lacks it."""
    if name == "checkpoint" and checkpoint_options(reentrant=False) is None:
        raise NotOffered("checkpoint(use_reentrant=False): this torch has no such option")
    if name == "functional_call" and functional_call() is None:
        raise NotOffered("functional_call: this torch has none")
    return ways()[name]


def compiles() -> str:
    """What is said where this torch and Python compile no net; else ""."""
    return "" if can_compile() else "torch.compile: not with this torch and Python"
