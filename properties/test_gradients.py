"""Gradients against a backward pass written by hand in float64."""

import contextlib
import dataclasses
from typing import Any, Tuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from frostproof.properties.harness.core.checks import (
    check,
    check_close,
    check_equal,
    check_within,
    count_cases,
    fail,
)
from frostproof.properties.harness.core.law import FLOATING, PRECISE, law
from frostproof.properties.harness.reference import oracle
from frostproof.properties.harness.running.trainer import Trainer
from frostproof.strategies import (
    MLP,
    Layer,
    TrainingRun,
    freeze_masks,
    mlps,
    training_runs,
)
from frostproof.strategies.networks import ACTIVATION_MODULES, WIDE


def expected_of(trainer: Trainer) -> oracle.Expected:
    """What the oracle expects of the trainer's next forward and backward."""
    run = trainer.run
    return oracle.expect(
        run.network,
        trainer.named,
        trainer.inputs,
        trainer.targets,
        frozen=frozenset(run.frozen),
        cuts=run.cuts.positions,
        cut_by=run.cuts.by,
    )


def check_gradients(trainer: Trainer, expected: oracle.Expected, dtype: torch.dtype) -> None:
    """Each parameter's gradient is the oracle's, within rounding; None where none must be."""
    __tracebackhide__ = True
    for name, parameter in trainer.named.items():
        if name in expected.gradients:
            check_gradient(parameter, expected, name, dtype)
        else:
            check(parameter.grad is None, f"{name} must get no gradient, but has one")


def check_gradient(
    tensor: torch.Tensor, expected: oracle.Expected, name: str, dtype: torch.dtype
) -> None:
    """One gradient is the oracle's, within rounding."""
    __tracebackhide__ = True
    if tensor.grad is None:
        fail(f"{name} must get a gradient, but has none")
    allowed = oracle.gradient_tolerance(dtype, expected, name)
    if allowed is None:
        return
    check_within(tensor.grad, expected.gradients[name], allowed, f"gradient of {name}")


@law("F3", "closed form: backward written by hand", PRECISE)
@given(data=st.data())
def test_gradients_match_the_oracle(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F3: every gradient, and the loss, are those of an independent float64 reference."""
    run: TrainingRun = data.draw(training_runs(device=device, dtype=dtype, learns=True))
    trainer = Trainer(run, device, dtype)
    expected = expected_of(trainer)
    unit = float(torch.finfo(dtype).eps) * 1000 * expected.condition
    loss = trainer.loss()
    check_close(loss, torch.tensor(expected.loss, dtype=torch.float64), "loss", rtol=unit, atol=unit)
    trainer.backward()
    check_gradients(trainer, expected, dtype)


def wide_run(widths: Tuple[int, int], batch: int, seed: int) -> TrainingRun:
    """Two layers of these widths."""
    layers = (Layer(widths[0], activation="relu"), Layer(widths[1]))
    return TrainingRun(MLP(2, layers, seed=seed), batch=batch, seed=seed)


@law("F3", "closed form: backward written by hand", PRECISE)
@given(
    widths=st.tuples(st.sampled_from((1, *WIDE, 600, 1030)), st.sampled_from((1, *WIDE))),
    batch=st.sampled_from((1, 2, 5, 8, 16, 33)),
    seed=st.integers(0, 255),
)
def test_gradients_of_wide_nets(
    device: str, dtype: torch.dtype, widths: Tuple[int, int], batch: int, seed: int
) -> None:
    """F3: at sizes where kernels change their ways gradients are those of the reference too."""
    trainer = Trainer(wide_run(widths, batch, seed), device, dtype)
    expected = expected_of(trainer)
    trainer.backward()
    check_gradients(trainer, expected, dtype)


STEADY = ("identity", "relu", "leaky_relu", "softplus")


@law("F3", "closed form: backward written by hand", FLOATING)
@given(network=mlps(max_depth=3, max_width=8, norms=False), batch=st.integers(1, 8))
def test_gradients_of_small_nets(device: str, dtype: torch.dtype, network: MLP, batch: int) -> None:
    """F3: gradients are those of the reference in low precision too, as far as it can tell."""
    # the slopes of the others cancel: in low precision nothing is left to compare
    layers = tuple(
        layer if layer.activation in STEADY else dataclasses.replace(layer, activation="softplus")
        for layer in network.layers
    )
    network = dataclasses.replace(network, layers=layers)
    trainer = Trainer(TrainingRun(network, batch=batch, seed=network.seed), device, dtype)
    expected = expected_of(trainer)
    trainer.backward()
    check_gradients(trainer, expected, dtype)


@law("F3", "the formulas in the torch.nn documentation", FLOATING)
@pytest.mark.parametrize("name", ACTIVATION_MODULES)
def test_slopes_of_activations(device: str, dtype: torch.dtype, name: str) -> None:
    """F3: each activation's value and slope, from -40 to 40, are those of its formula."""
    points = activation_points(device, dtype)
    exact, slopes = oracle.activate(name, oracle.as_float64(points))
    unit = 32 * float(torch.finfo(dtype).eps)
    for step in (1, 2, 401):  # all, every second, and two elements: kernels go by size and stride
        taken = points[::step].requires_grad_()
        value = ACTIVATION_MODULES[name]()(taken)
        (found,) = torch.autograd.grad(value.sum(), taken)
        check_close(value, exact[::step], f"{name} of {len(taken)} numbers", unit, unit)
        check_close(found, slopes[::step], f"slope of {name} at {len(taken)} numbers", unit, unit)
        count_cases(len(taken))


def activation_points(device: str, dtype: torch.dtype) -> torch.Tensor:
    """Numbers from -40 to 40, densest around zero, and zero itself: (801,)."""
    even = torch.arange(-400, 401, dtype=torch.float64) / 400
    return (40 * even * even.abs()).to(device=device, dtype=dtype)


# Rounding of a norm, in units of its dtype's eps and its magnitude: seen at most 3.3, 2.2, 1.1, 1.4.
NORM_ROUNDINGS = {"output": 14, "input": 9, "weight": 5, "bias": 6}


@law("F3", "the formulas in the torch.nn.LayerNorm and BatchNorm1d documentation", FLOATING)
@given(
    kind=st.sampled_from(("layer", "batch")),
    rows=st.integers(3, 9),
    width=st.integers(3, 40),
    seed=st.integers(0, 1023),
)
def test_norms_alone(
    device: str, dtype: torch.dtype, kind: str, rows: int, width: int, seed: int
) -> None:
    """F3: a norm's output and its three gradients are those of its formula, in every precision."""
    norm, value, upstream = norm_case(kind, rows, width, seed, device, dtype)
    output = norm(value)
    output.backward(upstream)
    exact = [oracle.as_float64(t) for t in (value, upstream, norm.weight, norm.bias)]
    found = {"output": output, "input": value.grad, "weight": norm.weight.grad, "bias": norm.bias.grad}
    for what, (expected, size) in oracle.normalize(kind, *exact).items():
        ours = found[what]
        if ours is None:
            fail(f"{kind} norm: no gradient of {what}")
        unit = NORM_ROUNDINGS[what] * float(torch.finfo(dtype).eps)
        allowed = unit * (size + size.max() / 10)
        check_within(ours, expected, allowed, f"{kind} norm of {rows} rows: {what}")


def norm_case(
    kind: str, rows: int, width: int, seed: int, device: str, dtype: torch.dtype
) -> Tuple[Any, torch.Tensor, torch.Tensor]:
    """A norm with a drawn weight and bias, an input that requires grad, a gradient to feed back."""
    generator = torch.Generator()
    generator.manual_seed(seed)
    drawn = torch.rand(2 * rows + 2, width, generator=generator, dtype=torch.float64)
    drawn = drawn.to(device=device, dtype=dtype)
    norm = {"layer": torch.nn.LayerNorm, "batch": torch.nn.BatchNorm1d}[kind](width)
    norm = norm.to(device=device, dtype=dtype)
    with torch.no_grad():
        norm.weight.copy_(drawn[-1] / 2 + 1)
        norm.bias.copy_(drawn[-2])
    return norm, (drawn[:rows] * 4 - 2).requires_grad_(), drawn[rows : 2 * rows] * 2 - 1


@dataclasses.dataclass(frozen=True)
class LinearCase:
    """A linear layer, an input (*leading, inputs) and what of "input", "weight", "bias" is frozen."""

    leading: Tuple[int, ...]
    inputs: int
    outputs: int
    frozen: Tuple[str, ...]
    seed: int

    def build(
        self, device: str, dtype: torch.dtype
    ) -> Tuple[torch.nn.Linear, torch.Tensor, torch.Tensor]:
        """Layer, input, and a gradient to feed back: whole numbers from -2 to 2.

        No sum of their products exceeds 162, so that every one is exact, in bfloat16 too.
        """
        generator = torch.Generator()
        generator.manual_seed(self.seed)

        def numbers(*shape: int) -> torch.Tensor:
            return torch.randint(-2, 3, shape, generator=generator).to(device=device, dtype=dtype)

        layer = torch.nn.Linear(self.inputs, self.outputs).to(device=device, dtype=dtype)
        with torch.no_grad():
            layer.weight.copy_(numbers(self.outputs, self.inputs))
            layer.bias.copy_(numbers(self.outputs))
        return layer, numbers(*self.leading, self.inputs), numbers(*self.leading, self.outputs)


LINEAR_CASES = st.builds(
    LinearCase,
    leading=st.lists(st.integers(1, 3), max_size=3).map(tuple),
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 40),
    frozen=st.sets(st.sampled_from(("input", "weight", "bias"))).map(
        lambda names: tuple(sorted(names))
    ),
    seed=st.integers(0, 1023),
)


@law("F3 F2", "the formula in the torch.nn.Linear documentation", FLOATING)
@given(case=LINEAR_CASES)
def test_linear_of_every_rank(device: str, dtype: torch.dtype, case: LinearCase) -> None:
    """F3: a linear layer's output and gradients are exact on small whole numbers, of every rank."""
    check_linear(case, device, dtype)


@law(
    "F3 F2",
    "the formula in the torch.nn.Linear documentation; torch.amp documentation",
    needs="torch.autocast",
)
@pytest.mark.parametrize("evaluated", [False, True], ids=["trained", "evaluated-first"])
@given(case=LINEAR_CASES)
def test_linear_under_autocast(device: str, evaluated: bool, case: LinearCase) -> None:
    """F3: autocast to bfloat16 gives exact gradients of small whole numbers."""
    check_linear(case, device, torch.float32, autocast=True, evaluated=evaluated)


def check_linear(
    case: LinearCase,
    device: str,
    dtype: torch.dtype,
    autocast: bool = False,
    evaluated: bool = False,
) -> None:
    """Output and gradients by the formula; no gradient of what is frozen."""
    __tracebackhide__ = True
    layer, value, upstream = case.build(device, dtype)
    leaves = {"input": value, "weight": layer.weight, "bias": layer.bias}
    for name, leaf in leaves.items():
        leaf.requires_grad_(name not in case.frozen)
    kind = torch.device(device).type
    with torch.autocast(kind, dtype=torch.bfloat16) if autocast else contextlib.nullcontext():
        if evaluated:  # what autocast keeps of this must not be taken for what trains
            with torch.no_grad():
                layer(value)
        output = layer(value)
    rows, slopes, weight, bias = (
        oracle.as_float64(t).reshape(-1, t.shape[-1])
        for t in (value, upstream, layer.weight, layer.bias)
    )
    exact = oracle.product(rows, weight.t()) + bias
    check_close(output.reshape(exact.shape), exact, "the output", rtol=0, atol=0)
    if len(case.frozen) < len(leaves):
        output.backward(upstream.to(output.dtype))
    gradients = {
        "input": oracle.product(slopes, weight),
        "weight": oracle.product(slopes.t(), rows),
        "bias": slopes.sum(0),
    }
    for name, leaf in leaves.items():
        what = f"the gradient of {name} on an input of {len(case.leading) + 1} dimensions"
        check((leaf.grad is None) == (name in case.frozen), f"{what} exists: {leaf.grad is not None}")
        if leaf.grad is not None:
            check_equal(leaf.grad.dtype, leaf.dtype, f"dtype of {what}")
            exact = gradients[name]
            check_close(leaf.grad.reshape(exact.shape), exact, what, rtol=0, atol=0)


@law("F3 F8", "torch.nn.BatchNorm1d documentation, evaluation", PRECISE)
@given(network=mlps(max_depth=3, max_width=40), batch=st.integers(3, 6))
def test_gradients_in_eval_mode(device: str, dtype: torch.dtype, network: MLP, batch: int) -> None:
    """F3: in eval mode loss and gradients are those of the reference with the kept statistics."""
    network = with_batch_norm(network)
    trainer = Trainer(TrainingRun(network, batch=batch, seed=network.seed), device, dtype)
    trainer.output()  # in train mode: the statistics are no longer those of the start
    trainer.network.eval()
    statistics = {name: b for name, b in trainer.network.named_buffers() if b.is_floating_point()}
    expected = oracle.expect(
        network, trainer.named, trainer.inputs, trainer.targets, statistics=statistics
    )
    unit = float(torch.finfo(dtype).eps) * 1000 * expected.condition
    loss = torch.tensor(expected.loss, dtype=torch.float64)
    check_close(trainer.loss(), loss, "loss in eval mode", unit, unit)
    trainer.backward()
    check_gradients(trainer, expected, dtype)


def with_batch_norm(network: MLP) -> MLP:
    """The net with a BatchNorm in its last layer, and in its first."""
    layers = list(network.layers)
    for place in (0, -1):
        layers[place] = dataclasses.replace(layers[place], norm="batch")
    return dataclasses.replace(network, layers=tuple(layers))


@law("F2", "PyTorch notes, Autograd mechanics", PRECISE)
@given(data=st.data())
def test_input_gradients_pass_the_frozen(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F2: an input that requires grad gets its whole gradient, whatever is frozen on the way."""
    network = data.draw(mlps())
    mask = data.draw(freeze_masks(network))
    run = TrainingRun(network, mask, batch=4, seed=network.seed)
    trainer = Trainer(run, device, dtype)
    trainer.inputs.requires_grad_()
    expected = expected_of(trainer)
    trainer.backward()
    check_gradients(trainer, expected, dtype)
    check_gradient(trainer.inputs, expected, oracle.INPUTS, dtype)
