"""The strategies: descriptions evaluate back, build the same thing twice, and shrink well."""

from typing import List

import pytest
import torch
from hypothesis import find, given, settings
from hypothesis import strategies as st

from frostproof.properties.harness.core.bits import from_bits, read_bits
from frostproof.properties.harness.running.trainer import Trainer
from frostproof.strategies import (
    MLP,
    Cuts,
    Layer,
    OptimizerSpec,
    TensorSpec,
    TrainingRun,
    all_dtypes,
    detach_positions,
    freeze_masks,
    mlps,
    optimizer_names,
    tensors,
    training_runs,
)

__all__ = ["MLP", "Cuts", "Layer", "OptimizerSpec", "TensorSpec", "TrainingRun"]  # for eval


@given(run=training_runs())
def test_a_run_evaluates_back(run: TrainingRun) -> None:
    assert eval(repr(run)) == run


@given(run=training_runs())
def test_a_run_builds_the_same_twice(run: TrainingRun) -> None:
    one, two = Trainer(run, "cpu", torch.float32), Trainer(run, "cpu", torch.float32)
    assert tuple(one.named) == run.network.parameter_names()
    torch.manual_seed(run.seed)  # the global generator must not matter
    assert one.before == two.before
    assert one.train().bits() == two.train().bits()


@given(run=training_runs())
def test_the_description_knows_who_gets_a_gradient(run: TrainingRun) -> None:
    trainer = Trainer(run, "cpu", torch.float64)
    trainer.backward()
    got = {name for name, parameter in trainer.named.items() if parameter.grad is not None}
    assert got == run.gets_gradient()


@given(spec=tensors(), name=st.sampled_from(all_dtypes()))
def test_a_tensor_evaluates_back_and_builds_the_same(spec: TensorSpec, name: str) -> None:
    assert eval(repr(spec)) == spec
    one, two = (spec.build("cpu", getattr(torch, name)) for _ in range(2))
    assert read_bits(one) == read_bits(two)
    assert read_bits(from_bits(read_bits(one), tuple(one.shape), one.dtype)) == read_bits(one)


def test_a_net_shrinks_to_one_layer_of_width_one() -> None:
    smallest = find(mlps(), lambda network: True, settings=settings(database=None))
    assert smallest == MLP(1, (Layer(1),))


def test_a_run_shrinks_to_plain_sgd() -> None:
    smallest = find(training_runs(), lambda run: True, settings=settings(database=None))
    assert smallest.network == MLP(1, (Layer(1),))
    assert (smallest.frozen, smallest.cuts, smallest.steps, smallest.batch) == ((), Cuts(), 1, 1)
    assert smallest.optimizer.name == "SGD"


@pytest.mark.parametrize("name", optimizer_names())
def test_every_optimizer_is_drawn(name: str) -> None:
    if name == "SparseAdam":
        return
    found = find(
        training_runs(),
        lambda run: run.optimizer.name == name,
        settings=settings(database=None, max_examples=5000),
    )
    assert found.optimizer.name == name


MASK_KINDS = {
    "none": lambda mlp, mask: not mask,
    "all": lambda mlp, mask: mask == mlp.parameter_names(),
    "only weights": lambda mlp, mask: mask and all(name.endswith("weight") for name in mask),
    "only biases": lambda mlp, mask: mask and all(name.endswith("bias") for name in mask),
    "a middle layer": lambda mlp, mask: mask in mlp.parameters_by_layer()[1:-1],
}


@pytest.mark.parametrize("kind", sorted(MASK_KINDS))
def test_masks_reach(kind: str) -> None:
    drawn: List[bool] = []

    @settings(max_examples=600, database=None, derandomize=True)
    @given(data=st.data())
    def draw(data: st.DataObject) -> None:
        network = data.draw(mlps(min_depth=3))
        drawn.append(bool(MASK_KINDS[kind](network, data.draw(freeze_masks(network)))))

    draw()
    assert sum(drawn) >= 5, f"{kind}: {sum(drawn)} of {len(drawn)}"


def test_masks_of_a_users_module() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.Linear(2, 1)))
    find(freeze_masks(module), lambda mask: mask == ("1.0.weight", "1.0.bias"))
    with pytest.raises(ValueError, match="at least one parameter"):
        find(freeze_masks(torch.nn.ReLU()), lambda mask: True)


@given(data=st.data())
def test_cuts_stay_in_range(data: st.DataObject) -> None:
    network = data.draw(mlps())
    cuts = data.draw(detach_positions(network, at_least=1))
    assert cuts.positions and 0 <= min(cuts.positions) and max(cuts.positions) <= network.depth
