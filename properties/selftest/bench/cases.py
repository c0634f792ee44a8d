"""A case in the harness, the same case in bare torch, and the same work in hypothesis-torch."""

import gc
import statistics
import time
from typing import Any, Callable, Dict, List, Tuple

import hypothesis
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from frostproof.properties import test_freeze
from frostproof.properties.harness.machine import accelerators
from frostproof.properties.harness.running.recording import Recorder
from frostproof.properties.harness.session import evidence
from frostproof.strategies import MLP, TrainingRun, mlps, training_runs
from frostproof.strategies.networks import ACTIVATION_MODULES, Layer

DTYPE = torch.float32


class Place:
    """Where the cases run."""

    device = "cpu"


QUIET: Dict[str, Any] = {
    "database": None,
    "deadline": None,
    "phases": [Phase.generate],
    "suppress_health_check": list(HealthCheck),
}


def bare(run: TrainingRun) -> None:
    """The work of law F1 on one run, in plain torch: build, freeze, train, compare each step."""
    description = run.network
    torch.default_generator.manual_seed(description.seed)
    layers: List[torch.nn.Module] = []
    width = description.inputs
    for layer in description.layers:
        layers.append(torch.nn.Linear(width, layer.width, bias=layer.bias))
        if layer.activation != "identity":
            layers.append(ACTIVATION_MODULES[layer.activation]())
        width = layer.width
    network = torch.nn.Sequential(*layers).to(Place.device)
    parameters = list(network.parameters())
    frozen = [p for p, name in zip(parameters, description.parameter_names()) if name in run.frozen]
    inputs = (torch.rand(run.batch, description.inputs) * 3 - 1.5).to(Place.device)
    targets = (torch.rand(run.batch, width) * 3 - 1.5).to(Place.device)
    spec = run.optimizer
    train(
        frozen,
        lambda: getattr(torch.optim, spec.name)(parameters, **dict(spec.options)),
        lambda: torch.nn.functional.mse_loss(network(inputs), targets),
        run.steps,
        run.clearing == "none",
    )


def train(
    frozen: List[torch.nn.Parameter],
    build: Callable[[], torch.optim.Optimizer],
    loss_of: Callable[[], torch.Tensor],
    steps: int,
    set_to_none: bool,
) -> None:
    """Freeze, build the optimizer, train, and compare after each step, as users do."""
    for parameter in frozen:
        parameter.requires_grad = False
    before = [parameter.detach().clone() for parameter in frozen]
    optimizer = build()
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=set_to_none)
        loss = loss_of()
        if loss.requires_grad:
            loss.backward()
        optimizer.step()
        for parameter, old in zip(frozen, before):
            if not torch.equal(parameter, old) or parameter.grad is not None:
                raise AssertionError("a frozen parameter moved")


def bare_all(runs: List[TrainingRun]) -> None:
    """``bare``, one run after another."""
    for run in runs:
        bare(run)


def runs_of(networks: st.SearchStrategy[MLP]) -> st.SearchStrategy[TrainingRun]:
    """One to three steps of the common optimizers on a kind of nets."""
    return training_runs(
        networks=networks,
        names=("SGD", "Adam", "AdamW"),
        cuts=False,
        max_steps=3,
        device=Place.device,
        dtype=DTYPE,
    )


def plain(**options: Any) -> st.SearchStrategy[MLP]:
    """Nets that nn.Sequential can hold."""
    return mlps(norms=False, skips=False, tied=False, **options)


def of_width(width: int, depth: int = 3) -> st.SearchStrategy[MLP]:
    """Nets of one width, with the weights' seed left to chance."""
    layers = (Layer(width, activation="relu"),) * depth
    return st.integers(0, 1023).map(lambda seed: MLP(width, layers, seed=seed))


class _Narrowed:
    """Stands in for a law's ``data``: gives runs of one kind, whatever is asked for."""

    def __init__(
        self, data: Any, runs: st.SearchStrategy[TrainingRun], seen: List[TrainingRun]
    ) -> None:
        self.data, self.runs, self.seen = data, runs, seen

    def draw(self, strategy: Any, label: Any = None) -> TrainingRun:
        run: TrainingRun = self.data.draw(self.runs)
        self.seen.extend(test_freeze.ways(run))
        return run


def seconds(work: Callable[[], Any]) -> float:
    """Of one call, without the garbage collector's pauses."""
    gc.collect()
    gc.disable()
    try:
        started = time.perf_counter()
        work()
        accelerators.synchronize(Place.device)
        return time.perf_counter() - started
    finally:
        gc.enable()


def in_harness(runs: st.SearchStrategy[TrainingRun], seed: int, examples: int) -> List[TrainingRun]:
    """Law F1 as pytest runs it, over runs of one kind; returns the runs that it tried."""
    law = test_freeze.test_frozen_stay.hypothesis.inner_test  # type: ignore[attr-defined]
    seen: List[TrainingRun] = []

    def narrowed(data: Any) -> None:
        law(device=Place.device, dtype=DTYPE, data=_Narrowed(data, runs, seen))

    counted = evidence.counted(narrowed, evidence.Count(), Recorder())

    @hypothesis.seed(seed)
    @settings(max_examples=examples, **QUIET)
    @given(data=st.data())
    def test(data: Any) -> None:
        counted(data=data)

    test()
    return seen


def in_peer(seed: int, examples: int) -> int:
    """The same work on hypothesis-torch's linear networks; returns the number of cases.

    Raises ImportError where it is not installed.
    """
    import hypothesis_torch

    cases = 0
    sizes = st.integers(1, 40)
    networks = hypothesis_torch.linear_network_strategy(
        input_shape=st.tuples(sizes),
        output_shape=st.tuples(sizes),
        activation_layer=st.sampled_from([torch.nn.ReLU(), torch.nn.Tanh(), torch.nn.GELU()]),
        hidden_layer_size=sizes,
        num_hidden_layers=st.integers(0, 3),
        device=torch.device("cpu"),
    )

    @hypothesis.seed(seed)
    @settings(max_examples=examples, **QUIET)
    @given(network=networks, mask=st.integers(0, 255), steps=st.integers(1, 3), batch=st.integers(1, 8))
    def test(network: torch.nn.Sequential, mask: int, steps: int, batch: int) -> None:
        nonlocal cases
        cases += 1
        parameters = list(network.parameters())
        frozen = [parameter for place, parameter in enumerate(parameters) if mask >> place & 1]
        inputs = torch.rand(batch, parameters[0].shape[1])
        train(
            frozen,
            lambda: torch.optim.Adam(parameters, lr=0.01),
            lambda: network(inputs).square().mean(),
            steps,
            True,
        )

    test()
    return cases


def compare(runs: st.SearchStrategy[TrainingRun], examples: int, rounds: int) -> Dict[str, Any]:
    """Microseconds a case in the harness and bare, the same cases in turns; medians of the rounds."""
    in_harness(runs, 0, 20)  # imports
    pairs: List[Tuple[float, float]] = []
    for seed in range(1, rounds + 1):
        seen: List[TrainingRun] = []
        harness = seconds(lambda seed=seed, seen=seen: seen.extend(in_harness(runs, seed, examples)))  # type: ignore[misc]
        plain = seconds(lambda seen=seen: bare_all(seen))  # type: ignore[misc]
        pairs.append((harness / len(seen), plain / len(seen)))
    return summary(pairs)


def summary(pairs: List[Tuple[float, float]]) -> Dict[str, Any]:
    """Medians of (seconds in the harness, seconds bare) a case, in microseconds, and their ratio."""
    ratios = [harness / plain for harness, plain in pairs]
    return {
        "harness_us": round(statistics.median(harness for harness, _ in pairs) * 1e6, 1),
        "bare_us": round(statistics.median(plain for _, plain in pairs) * 1e6, 1),
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
    }
