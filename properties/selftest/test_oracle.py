"""The oracle against finite differences of its own forward, and against torch in float64."""

import dataclasses
import random
from typing import Dict, Iterator, List, Tuple

import pytest
import torch

from frostproof.properties.harness.reference import oracle
from frostproof.strategies import MLP, Cuts, Layer, TrainingRun
from frostproof.strategies.networks import ACTIVATIONS, NORMS

STEP = 1e-5  # of a central difference: its error is about 1e-10 of the third derivative
SEEDS = range(70_000, 70_012)  # the strategies' end at 65,535


def random_network(seed: int) -> MLP:
    """A net of two to five layers; widths, norms, skips and ties of its own making."""
    source = random.Random(seed)
    reach = [source.randint(1, 11)]
    layers: List[Layer] = []
    for index in range(source.randint(2, 5)):
        width = source.choice((reach[-1], source.randint(2, 11)))
        skip = source.choice([0, 0, *(k for k in range(1, index + 2) if reach[-k] == width)])
        tied = index > 0 and width == reach[-1] == reach[-2] and source.random() < 0.6
        activation, norm = source.choice(ACTIVATIONS), source.choice((*NORMS, "none"))
        layers.append(Layer(width, source.random() < 0.7, activation, norm, skip, tied))
        reach.append(width)
    return MLP(reach[0], tuple(layers), nested=source.random() < 0.5, seed=seed)


def random_run(seed: int) -> TrainingRun:
    """A random net with a random mask and up to two cuts."""
    source = random.Random(seed)
    network = random_network(seed)
    frozen = tuple(name for name in network.parameter_names() if source.random() < 0.3)
    places = source.sample(range(network.depth), source.randint(0, min(2, network.depth)))
    cuts = Cuts(tuple(sorted(places)), source.choice(("detach", "detach", "no_grad")))
    return TrainingRun(network, frozen, cuts, batch=source.randint(4, 7), seed=seed)


def every_activation_and_norm() -> Iterator[MLP]:
    """Two layers for each activation and norm."""
    for place, activation in enumerate(ACTIVATIONS):
        for norm in NORMS:
            yield MLP(3, (Layer(4, activation=activation, norm=norm), Layer(2)), seed=80_000 + place)


def expected_of(run: TrainingRun, values: Dict[str, torch.Tensor]) -> oracle.Expected:
    inputs, targets = run.data(dtype=torch.float64)
    cuts = run.cuts
    return oracle.expect(
        run.network,
        values,
        inputs,
        targets,
        frozen=frozenset(run.frozen),
        cuts=cuts.positions,
        cut_by=cuts.by,
    )


def values_of(network: MLP) -> Dict[str, torch.Tensor]:
    return {name: value.data for name, value in network.build(dtype=torch.float64).named_parameters()}


def differences(run: TrainingRun, name: str, count: int) -> Iterator[Tuple[int, float]]:
    """(element, central difference of the loss in it) for some elements of a parameter."""
    values = values_of(run.network)
    size = values[name].numel()
    for element in random.Random(f"{run.seed} {name}").sample(range(size), min(size, count)):
        losses = []
        for sign in (1, -1):
            moved = {**values, name: values[name] + 0}
            moved[name].view(-1)[element] += sign * STEP
            losses.append(expected_of(run, moved).loss)
        yield element, (losses[0] - losses[1]) / (2 * STEP)


def check_differences(network: MLP, seed: int) -> None:
    run = TrainingRun(network, batch=5, seed=seed)
    expected = expected_of(run, values_of(network))
    assert expected.margin > 1e-4, "a kink lies within a difference's step: choose another seed"
    assert set(expected.gradients) - {oracle.INPUTS} == set(network.parameter_names())
    for name in network.parameter_names():
        scale = float(expected.gradients[name].abs().max()) + 1e-3
        for element, slope in differences(run, name, 4):
            exact = float(expected.gradients[name].flatten()[element])
            assert abs(slope - exact) < 1e-5 * scale * max(1.0, expected.condition), (name, element)


@pytest.mark.parametrize("seed", SEEDS)
def test_gradients_are_slopes_of_the_loss(seed: int) -> None:
    check_differences(random_network(seed), seed)


@pytest.mark.parametrize(
    "network",
    list(every_activation_and_norm()),
    ids=lambda net: f"{net.layers[0].activation}-{net.layers[0].norm}",
)
def test_each_activation_and_norm_has_its_slope(network: MLP) -> None:
    check_differences(network, network.seed)


@pytest.mark.parametrize("seed", range(90_000, 90_040))
def test_torch_agrees(seed: int) -> None:
    """Output, loss and gradients, under masks and cuts; None exactly where the oracle has nothing."""
    run = random_run(seed)
    network = run.network.build(dtype=torch.float64)
    named = dict(network.named_parameters())
    for name in run.frozen:
        named[name].requires_grad_(False)
    expected = expected_of(run, values_of(run.network))
    inputs, targets = run.data(dtype=torch.float64)
    output = network(inputs, cuts=run.cuts.positions, cut_by=run.cuts.by)
    loss = torch.nn.functional.mse_loss(output, targets)
    room = 1e-11 * expected.condition
    assert torch.allclose(output, expected.output, rtol=room, atol=room)
    assert abs(loss.item() - expected.loss) < room * (1 + expected.loss)
    gets = set(expected.gradients) - {oracle.INPUTS}
    assert loss.requires_grad == bool(gets)
    if gets:
        loss.backward()
    for name, parameter in named.items():
        if name not in gets:
            assert parameter.grad is None, name
            continue
        assert parameter.grad is not None, name
        scale = float(expected.magnitudes[name].max())
        gap = float((parameter.grad - expected.gradients[name]).abs().max())
        assert gap <= room * scale, name
        allowed = oracle.gradient_tolerance(torch.float64, expected, name)
        assert allowed is None or float(allowed.max()) <= 1e-11 * expected.condition * scale + 1e-300


def test_the_tolerance_sees_a_billionth() -> None:
    """On an ordinary net in float64 the allowed error is below a relative 1e-9."""
    network = MLP(5, (Layer(7, activation="tanh"), Layer(3)), seed=70_100)
    expected = expected_of(TrainingRun(network, batch=6, seed=1), values_of(network))
    for name in network.parameter_names():
        allowed = oracle.gradient_tolerance(torch.float64, expected, name)
        assert allowed is not None
        assert float(allowed.max()) < 1e-9 * float(expected.gradients[name].abs().max()), name


def test_a_wrong_activation_is_seen() -> None:
    """What is compared here would tell leaky_relu's slope from relu's."""
    network = MLP(3, (Layer(4, activation="leaky_relu"), Layer(2)), seed=70_200)
    other = dataclasses.replace(network, layers=(Layer(4, activation="relu"), Layer(2)))
    one = expected_of(TrainingRun(network, batch=5), values_of(network))
    two = expected_of(TrainingRun(other, batch=5), values_of(network))
    assert abs(one.loss - two.loss) > 1e-6
