"""An optimizer's state, groups and options are its own, and survive saving in every way."""

import copy
import io
import pickle
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest
import torch
import torch.optim.swa_utils

from frostproof.properties.harness.core.checks import (
    check,
    check_equal,
    check_same_bits,
    count_cases,
    snapshot,
)
from frostproof.properties.harness.core.law import law
from frostproof.properties.harness.core.layout import storage_address
from frostproof.properties.harness.running.attempts import attempt
from frostproof.strategies import OptimizerSpec, optimizer_names
from frostproof.strategies.capabilities import NotOffered
from frostproof.strategies.optimizer_traits import traits_of

OWNERSHIP = "torch.optim documentation: state_dict, load_state_dict, add_param_group"
# What takes dense parameters of any shape, and no closure.
ORDINARY = [
    name
    for name in optimizer_names()
    if not any((traits_of(name).closure, traits_of(name).sparse, traits_of(name).matrices))
]
OPTIONS: Dict[str, Dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "dampening": 0.5},
    "RMSprop": {"momentum": 0.9},
}


def small_net() -> torch.nn.Sequential:
    """Two layers of known values, float32: 2 to 2 to 2."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    with torch.no_grad():
        for number, parameter in enumerate(net.parameters()):
            parameter.copy_((torch.arange(parameter.numel()) % 3 - 0.7 + number / 4).view_as(parameter))
    return net


def built(name: str, parameters: Any, **options: Any) -> torch.optim.Optimizer:
    """The optimizer with options that make it keep state."""
    given = {"lr": 0.1, **OPTIONS.get(name, {}), **options}
    return OptimizerSpec(name, tuple(sorted(given.items()))).build(parameters)


def train(net: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int = 1) -> None:
    """So many steps on one batch."""
    inputs = torch.tensor([[1.0, -0.5], [0.5, 2.0]])
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        net(inputs).pow(2).sum().backward()
        optimizer.step()


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested dictionaries, lists and tuples."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from tensors_in(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from tensors_in(each)


@law("S1", OWNERSHIP, "float32")
def test_loaded_state_is_not_shared(device: str, dtype: torch.dtype) -> None:
    """S1: an optimizer that has loaded another's state_dict shares no memory with it."""
    for name in ORDINARY:
        first, second = small_net(), small_net()
        one, two = built(name, first.parameters()), built(name, second.parameters())
        train(first, one)
        two.load_state_dict(one.state_dict())
        kept = {storage_address(each) for each in tensors_in(dict(one.state)) if each.numel()}
        for each in tensors_in(dict(two.state)):
            check(
                storage_address(each) not in kept,
                f"{name}: a loaded state is in the memory of the state it was loaded from",
            )
        count_cases(1)


@law("S1", OWNERSHIP, "float32")
def test_group_dictionaries_stay_the_callers(device: str, dtype: torch.dtype) -> None:
    """S1: two optimizers built from one list of groups each have their own rate."""
    for name in ORDINARY:
        net = small_net()
        groups = [{"params": list(net[0].parameters())}, {"params": list(net[1].parameters())}]
        one, two = built(name, groups, lr=0.1), built(name, groups, lr=0.01)
        found = [[float(group["lr"]) for group in each.param_groups] for each in (one, two)]
        check_equal(found, [[0.1, 0.1], [0.01, 0.01]], f"{name}: the rates of two optimizers")
        count_cases(1)


@law("S1", OWNERSHIP, "float32")
def test_tensor_rates_are_each_groups_own(device: str, dtype: torch.dtype) -> None:
    """S1: a rate that is given as a tensor is scheduled for each group on its own."""
    net = small_net()
    groups = [{"params": list(layer.parameters())} for layer in net]
    given = torch.tensor(0.5)
    try:
        optimizer = built("Adam", groups, lr=given)
    except (TypeError, ValueError):
        raise NotOffered("this torch takes no tensor for a rate") from None
    rules: List[Callable[[int], float]] = [lambda epoch: 1.0, lambda epoch: 0.5**epoch]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rules)
    train(net, optimizer)
    scheduler.step()
    check_equal([float(each["lr"]) for each in optimizer.param_groups], [0.5, 0.25], "the rates")
    check_equal(float(given), 0.5, "the tensor that was given")


@law("S3 C5", OWNERSHIP, "float32")
@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copied_lbfgs_steps(device: str, dtype: torch.dtype, way: str) -> None:
    """S3: LBFGS, copied with its net, steps like the original."""
    made = STATE_TRANSFERS[way]
    net = small_net()
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=2)
    attempt(lambda: optimizer.step(loss_of(net, optimizer)), "a step of LBFGS")
    other, fresh = attempt(lambda: made("LBFGS", net, optimizer), f"{way} of LBFGS")
    for each, stepper in ((net, optimizer), (other, fresh)):
        closure = loss_of(each, stepper)
        attempt(lambda: stepper.step(closure), f"a step of LBFGS after {way}")  # noqa: B023
    for (name, one), two in zip(net.named_parameters(), other.parameters()):
        check_same_bits(two, one, f"{name} after a step of the copy")


def loss_of(net: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], torch.Tensor]:
    """What LBFGS calls."""

    def closure() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss: torch.Tensor = net(torch.tensor([[1.0, -0.5]])).pow(2).sum()
        loss.backward()
        return loss

    return closure


SCHEDULERS: Dict[str, Callable[[Any, Any], Any]] = {
    "LambdaLR": lambda kind, optimizer: kind(optimizer, lambda epoch: 0.9**epoch),
    "MultiplicativeLR": lambda kind, optimizer: kind(optimizer, lambda epoch: 0.9),
    "StepLR": lambda kind, optimizer: kind(optimizer, 1),
    "MultiStepLR": lambda kind, optimizer: kind(optimizer, [1, 3]),
    "ConstantLR": lambda kind, optimizer: kind(optimizer),
    "LinearLR": lambda kind, optimizer: kind(optimizer),
    "ExponentialLR": lambda kind, optimizer: kind(optimizer, 0.9),
    "CosineAnnealingLR": lambda kind, optimizer: kind(optimizer, 5),
    "PolynomialLR": lambda kind, optimizer: kind(optimizer),
    "CosineAnnealingWarmRestarts": lambda kind, optimizer: kind(optimizer, 3),
    "CyclicLR": lambda kind, optimizer: kind(optimizer, 0.01, 0.1),
    "OneCycleLR": lambda kind, optimizer: kind(optimizer, 0.1, total_steps=10),
    "SWALR": lambda kind, optimizer: kind(optimizer, 0.05),
}


def scheduler_class(name: str) -> Any:
    """The class of a scheduler; None where this torch has none of that name."""
    found = getattr(torch.optim.lr_scheduler, name, None)
    return found or getattr(torch.optim.swa_utils, name, None)


def rates_of_first(name: str, later: bool) -> List[float]:
    """The first group's rate after each step; ``later``: a group is added after the first."""
    net = small_net()
    optimizer = built("SGD", net[0].parameters())
    scheduler = SCHEDULERS[name](scheduler_class(name), optimizer)
    found = []
    for step in range(4):
        train(net, optimizer)
        scheduler.step()
        found.append(float(optimizer.param_groups[0]["lr"]))
        if later and step == 0:
            optimizer.add_param_group({"params": list(net[1].parameters()), "lr": 0.3})
    return found


@law("S2", OWNERSHIP, "float32")
@pytest.mark.parametrize("name", [n for n in SCHEDULERS if scheduler_class(n)])
def test_schedulers_take_groups_added_later(device: str, dtype: torch.dtype, name: str) -> None:
    """S2: a group that is added once a layer is unfrozen ends no schedule, and leaves the others'."""
    alone = rates_of_first(name, False)
    found = attempt(lambda: rates_of_first(name, True), f"{name}.step after add_param_group")
    check_equal(found, alone, f"{name}: the rates of the group that was there from the start")


def _through_file(value: Any) -> Any:
    stream = io.BytesIO()
    torch.save(value, stream)
    stream.seek(0)
    return torch.load(stream)


def _dcp() -> Any:
    try:
        import torch.distributed.checkpoint.state_dict as functions
    except ImportError as problem:
        raise NotOffered(f"torch.distributed.checkpoint.state_dict: {problem}") from None
    return functions


def by_state_dict(name: str, net: Any, optimizer: Any) -> Tuple[Any, Any]:
    """Net and optimizer made anew from state_dicts."""
    other = copy.deepcopy(net)
    fresh = built(name, other.parameters(), lr=0.7)
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return other, fresh


def by_file(name: str, net: Any, optimizer: Any) -> Tuple[Any, Any]:
    """Net and optimizer made anew from a file."""
    other = copy.deepcopy(net)
    fresh = built(name, other.parameters(), lr=0.7)
    fresh.load_state_dict(_through_file(optimizer.state_dict()))
    return other, fresh


def by_copy(name: str, net: Any, optimizer: Any) -> Tuple[Any, Any]:
    """Net and optimizer copied together."""
    made: Tuple[Any, Any] = copy.deepcopy((net, optimizer))
    return made


def by_pickle(name: str, net: Any, optimizer: Any) -> Tuple[Any, Any]:
    """Net and optimizer pickled together."""
    made: Tuple[Any, Any] = pickle.loads(pickle.dumps((net, optimizer)))
    return made


def by_dcp(name: str, net: Any, optimizer: Any) -> Tuple[Any, Any]:
    """Net and optimizer by torch.distributed.checkpoint's state dicts."""
    saved = copy.deepcopy(_dcp().get_optimizer_state_dict(net, optimizer))
    other = copy.deepcopy(net)
    fresh = built(name, other.parameters(), lr=0.7)
    _dcp().set_optimizer_state_dict(other, fresh, saved)
    return other, fresh


STATE_TRANSFERS: Dict[str, Callable[[str, Any, Any], Tuple[Any, Any]]] = {
    "state_dict": by_state_dict,
    "file": by_file,
    "deepcopy": by_copy,
    "pickle": by_pickle,
    "dcp": by_dcp,
}


@law("S3 F7", OWNERSHIP, "float32")
@pytest.mark.parametrize("frozen", ["from the start", "midway"])
@pytest.mark.parametrize("way", list(STATE_TRANSFERS))
def test_state_survives_saving(device: str, dtype: torch.dtype, way: str, frozen: str) -> None:
    """S3: saved and loaded with a layer frozen, then unfrozen: training goes on to the same bits."""
    for name in ORDINARY:
        net = small_net()
        optimizer = built(name, net.parameters())
        net[0].requires_grad_(frozen == "midway")
        train(net, optimizer, 2)
        net[0].requires_grad_(False)
        optimizer.zero_grad(set_to_none=True)
        what = f"{name} saved and loaded by {way}"
        other, fresh = attempt(lambda: STATE_TRANSFERS[way](name, net, optimizer), what)  # noqa: B023
        train(net, optimizer)
        attempt(lambda: train(other, fresh), f"a step of {what}")  # noqa: B023
        if frozen == "midway":
            net[0].requires_grad_(True)
            other[0].requires_grad_(True)
            train(net, optimizer, 2)
            train(other, fresh, 2)
        expected = snapshot(dict(net.named_parameters()))
        for key, parameter in other.named_parameters():
            check_same_bits(parameter, expected[key], f"{what}: {key} after further training")
        count_cases(1)


@law("S4", "torch.distributed.checkpoint.state_dict documentation", "float32")
@pytest.mark.parametrize("name", ORDINARY)
def test_taking_state_changes_no_training(device: str, dtype: torch.dtype, name: str) -> None:
    """S4: get_optimizer_state_dict before the first step leaves training as it is without it."""
    plain, asked = small_net(), small_net()
    one, two = built(name, plain.parameters()), built(name, asked.parameters())
    _dcp().get_optimizer_state_dict(asked, two)
    train(plain, one, 3)
    train(asked, two, 3)
    expected = snapshot(dict(plain.named_parameters()))
    for key, parameter in asked.named_parameters():
        check_same_bits(parameter, expected[key], f"{key} after three steps of {name}")


@law("S4", "torch.distributed.checkpoint.state_dict documentation", "float32")
def test_taking_state_runs_no_hooks(device: str, dtype: torch.dtype) -> None:
    """S4: get_optimizer_state_dict is no step: the optimizer's step hooks do not run."""
    functions, net, seen = _dcp(), small_net(), []
    optimizer = built("SGD", net.parameters())
    optimizer.register_step_post_hook(lambda *_: seen.append(1))
    functions.get_optimizer_state_dict(net, optimizer)
    check_equal(len(seen), 0, "calls of a step hook while the state was taken")


@law("S4", "torch.distributed.checkpoint.state_dict documentation: ignore_frozen_params", "float32")
@pytest.mark.parametrize("tied", [False, True], ids=["apart", "tied"])
def test_frozen_parameters_are_left_out(device: str, dtype: torch.dtype, tied: bool) -> None:
    """S4: with ignore_frozen_params the model's state dict has what is trainable and no more."""
    net = small_net()
    if tied:
        net[1].weight = net[0].weight
    net.requires_grad_(False)
    net[1].bias.requires_grad_(True)
    options = _dcp().StateDictOptions(ignore_frozen_params=True)
    found = _dcp().get_model_state_dict(net, options=options)
    check_equal(sorted(found), ["1.bias"], "what is in the state dict")
