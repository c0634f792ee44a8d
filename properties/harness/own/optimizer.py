"""A user's own optimizer as the laws build it: one more name beside those of torch.optim."""

import random
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import pytest
import torch

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.own.factory import call, said
from frostproof.strategies import OptimizerSpec
from frostproof.strategies.optimizer_traits import OptimizerTraits
from frostproof.strategies.optimizers import OWN, OwnOptimizer

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

NEEDED = ("step", "param_groups", "state", "state_dict", "load_state_dict")
LATEST = 60  # steps in which an optimizer must have moved something
TRIED = ((3, 2), (2, 2))  # shapes of the parameters
ROOM = 2**31  # bytes that one step over a small net may ask for


@dataclass(frozen=True)
class Capabilities:
    """What was found out about an optimizer, once.

    takes: "parameters", "named" (pairs of name and parameter) or "module". graph: it wants
    backward(create_graph=True). refuses: dtypes that it cannot train, and what it raised.
    warm_up: steps until it moves something, in float64 where it can. random: other random
    numbers give other bits. single: it moves a row of one value, which gradients that are
    centralized or compared within a row leave at nothing.
    """

    takes: str = "parameters"
    graph: bool = False
    refuses: Mapping[torch.dtype, str] = field(default_factory=dict)
    warm_up: int = 1
    random: bool = False
    single: bool = True


CAPABILITIES: Dict[str, Capabilities] = {}


class TooLarge(Exception):
    """An optimizer's step asked for more than ROOM bytes."""


def reseed(seed: int) -> None:
    """The same random numbers for two runs that are compared, from torch, numpy and Python."""
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)


@contextmanager
def bounded() -> Iterator[None]:
    """No more than ROOM bytes more than now. Raises TooLarge; does nothing where that cannot be had."""
    try:
        with open("/proc/self/statm") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    except (OSError, AttributeError):
        yield
        return
    most = size + ROOM if soft == resource.RLIM_INFINITY else min(soft, size + ROOM)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        yield
    except MemoryError as problem:
        raise TooLarge(str(problem)) from None
    except RuntimeError as problem:
        if "allocate memory" in str(problem):
            raise TooLarge(str(problem).split("\n")[0]) from None
        raise
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class _Holder(torch.nn.Module):
    """A module of given parameters, for optimizers that are built from one."""

    def __init__(self, parameters: Sequence[Any]) -> None:
        super().__init__()
        for index, parameter in enumerate(parameters):
            kind = "weight" if parameter.dim() > 1 else "bias"
            self.add_module(f"layer{index}", layer := torch.nn.Module())
            layer.register_parameter(kind, parameter)


def _as_taken(takes: str, parameters: Sequence[Any]) -> Any:
    if takes == "module":
        return _Holder(parameters)
    return list(_Holder(parameters).named_parameters()) if takes == "named" else list(parameters)


def differentiate(loss: torch.Tensor, graph: bool) -> None:
    """Backward as the optimizer wants it."""
    loss.backward(create_graph=graph)  # type: ignore[no-untyped-call]


class _Trial:
    """A factory tried on small parameters with an ordinary loss."""

    def __init__(self, factory: Callable[[Any], Any], takes: str = "parameters") -> None:
        self.factory = factory
        self.takes = takes
        self.closure = self.graph = False

    def parameters(self, dtype: torch.dtype, *shapes: Tuple[int, ...]) -> List[torch.nn.Parameter]:
        generator = torch.Generator().manual_seed(3)
        return [
            torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
            for shape in shapes
        ]

    def run(self, parameters: Sequence[Any], given: Any, steps: int = 1, seed: int = 0) -> int:
        """The first step after which something has moved, 0: none has. Raises what it raises."""
        reseed(seed)
        before = [read_bits(parameter) for parameter in parameters]
        optimizer = self.factory(given)

        def again() -> torch.Tensor:
            with torch.enable_grad():
                parts = [
                    (p * (1 + index)).sin().sum() + (p**2).sum() for index, p in enumerate(parameters)
                ]
                loss = torch.stack(parts).sum()
            for parameter in parameters:
                parameter.grad = None
            differentiate(loss, self.graph)
            return loss

        first = 0
        for step in range(1, steps + 1):
            again()
            with bounded():
                optimizer.step(again) if self.closure else optimizer.step()
            if not first and any(read_bits(p) != was for p, was in zip(parameters, before)):
                first = step
        return first

    def works(self, parameters: Sequence[Any], given: Any) -> Optional[Exception]:
        """What one step raised."""
        try:
            self.run(parameters, given)
        except Exception as problem:
            return problem
        return None

    def ends(self, dtype: torch.dtype, steps: int, seed: int) -> List[bytes]:
        """The bits after some steps."""
        parameters = self.parameters(dtype, *TRIED)
        self.run(parameters, _as_taken(self.takes, parameters), steps, seed)
        return [read_bits(parameter) for parameter in parameters]


def _built(option: str, text: str, factory: Callable[[Any], Any]) -> "Tuple[Any, str]":
    """An optimizer, and what its factory takes; its refusal of plain parameters is what is told."""
    matrix = [torch.nn.Parameter(torch.ones(2, 2))]
    try:
        return call(option, text, factory, matrix), "parameters"
    except pytest.UsageError as refusal:
        for takes in ("named", "module"):
            try:
                return factory(_as_taken(takes, matrix)), takes
            except Exception:
                continue
        raise pytest.UsageError(
            f"{refusal}; it was called with a list of parameters (and tried with named ones, and with "
            "a module): let it add what else the optimizer wants, such as groups or a count"
        ) from None


def build(option: str, text: str, factory: Callable[[Any], Any]) -> OptimizerSpec:
    """Try the factory on small parameters, register it under its own name, and name it.

    Raises pytest.UsageError where it fails or does not give an optimizer.
    """
    optimizer, takes = _built(option, text, factory)
    missing = [name for name in NEEDED if not hasattr(optimizer, name)]
    if missing:
        raise pytest.UsageError(
            f"{option} {text}: the factory must return an optimizer, but {type(optimizer).__name__} "
            f"has no {', '.join(missing)}"
        )
    trial = _Trial(factory, takes)
    matrix = trial.parameters(torch.float32, (2, 2))
    refusals = []
    for trial.closure, trial.graph in ((False, False), (True, False), (False, True), (True, True)):
        problem = trial.works(matrix, _as_taken(takes, matrix))
        if problem is None:
            break
        refusals.append(problem)
    else:
        raise pytest.UsageError(
            f"{option} {text}: one step over a 2x2 parameter raised {said(refusals[0])}; it was tried "
            "as the laws train: backward(), then step(), with and without a closure"
        )
    both = trial.parameters(torch.float32, (2, 2), (2,))
    matrices = trial.works(both, _as_taken(takes, both)) is not None
    two = trial.parameters(torch.float32, (2, 2), (2, 2))
    several = [{"params": [each]} for each in two]
    groups = takes == "parameters" and trial.works(two, several) is None
    CAPABILITIES[text] = _capabilities(option, text, trial)

    def make(params: Any) -> Any:
        given = list(params)
        return factory(_as_taken(takes, given) if takes != "parameters" else given)

    traits = OptimizerTraits(closure=trial.closure, matrices=matrices)
    OWN[text] = OwnOptimizer(make, traits, groups=groups)
    return OptimizerSpec(text)


def _capabilities(option: str, text: str, trial: _Trial) -> Capabilities:
    first: Dict[torch.dtype, int] = {}
    refuses: Dict[torch.dtype, str] = {}
    for dtype in (torch.float64, torch.float32):
        parameters = trial.parameters(dtype, *TRIED)
        try:
            first[dtype] = trial.run(parameters, _as_taken(trial.takes, parameters), LATEST)
        except Exception as problem:
            shapes = " and ".join("x".join(map(str, shape)) for shape in TRIED)
            refuses[dtype] = (
                f"{LATEST} steps over {shapes} parameters of {dtype} raised {said(problem)}"
            )
    if not first:
        raise pytest.UsageError(f"{option} {text}: {refuses[torch.float32]}")
    finest = next(iter(first))
    if not first[finest]:
        raise pytest.UsageError(
            f"{option} {text}: {LATEST} steps over small {finest} parameters moved nothing: nothing "
            "can be said of what it would move; give it options (a rate, a warm-up) with which it moves"
        )
    steps = first[finest] + 2
    same, again, other = (trial.ends(finest, steps, seed) for seed in (1, 1, 2))
    if same != again:
        raise pytest.UsageError(
            f"{option} {text}: two runs from the same state and seeds give different bits: nothing can "
            "be compared; take random numbers from torch's, numpy's or Python's global generator"
        )
    thin = trial.parameters(finest, (2, 1), (3, 2))
    before = read_bits(thin[0])
    try:
        trial.run(thin, _as_taken(trial.takes, thin), steps)
    except Exception as problem:
        raise pytest.UsageError(
            f"{option} {text}: {steps} steps over a 2x1 parameter raised {said(problem)}"
        ) from None
    return Capabilities(
        takes=trial.takes,
        graph=trial.graph,
        refuses=refuses,
        warm_up=first[finest],
        random=same != other,
        single=read_bits(thin[0]) != before,
    )
