"""Modules and optimizers between devices: moved, split over two, saved on one and loaded on another."""

import copy
import dataclasses
import io
import warnings
from typing import Any, Dict, List, Tuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.core.checks import (
    check,
    check_close,
    check_equal,
    check_same_bits,
    check_same_gradient,
    snapshot,
)
from frostproof.properties.harness.core.law import PRECISE, cells, law, part
from frostproof.properties.harness.reference import oracle
from frostproof.properties.harness.reference.update_rules import referenced
from frostproof.properties.harness.running.trainer import Trainer
from frostproof.properties.test_across import check_near, on_cpu
from frostproof.properties.test_device_copies import check_place, routes
from frostproof.properties.test_gradients import expected_of
from frostproof.properties.test_layers import apply, leaves_of, tolerance_of, waves
from frostproof.strategies import (
    Cuts,
    OptimizerSpec,
    TrainingRun,
    layer_cases,
    mlps,
    optimizer_names,
    training_runs,
)
from frostproof.strategies.layer_kinds import EVERY_KIND, NEEDS
from frostproof.strategies.optimizer_traits import traits_of
from frostproof.strategies.optimizers import has_option


def through_a_file(state: Any, end: str) -> Any:
    """A state_dict that was saved to a file, and loaded for a device."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of weights_only, on torch 2.4
        return torch.load(file, map_location=end)


@law("X1", "PyTorch documentation, Numerical accuracy", PRECISE, beside_cpu=True)
@part(6, least=8)
@pytest.mark.parametrize("kind", cells(EVERY_KIND, NEEDS))
@given(data=st.data())
def test_layers_agree(device: str, dtype: torch.dtype, kind: str, data: st.DataObject) -> None:
    """X1: a layer or function of any kind gives the CPU's output and gradients on another device."""
    case = data.draw(layer_cases(kind, device))
    tolerance = 2 * tolerance_of(device, dtype)
    sides = []
    for place in ("cpu", device):
        layer, x = case.build(place, dtype)
        output = apply(case, layer, x)
        if output.requires_grad:
            output.backward(waves(output.shape).to(place, dtype))
        sides.append((output, leaves_of(layer, x)))
    (here, ours), (there, theirs) = sides
    check_place(there, device, f"output of {kind}")
    check_equal(there.requires_grad, here.requires_grad, "whether the output requires grad")
    check_close(there, here, f"output of {kind}", tolerance, tolerance)
    for name, leaf in theirs.items():
        one, two = ours[name].grad, leaf.grad
        check((one is None) == (two is None), f"{name} has a gradient on one device only")
        if one is not None and two is not None:
            check_equal(two.device, leaf.device, f"device of the gradient of {name}")
            size = max(1.0, float(oracle.as_float64(one).abs().max()) if one.numel() else 1.0)
            check_close(two, one, f"gradient of {name}", tolerance, tolerance * size)


@law("X5", "torch.nn.Module.to documentation", PRECISE, beside_cpu=True)
@given(data=st.data())
def test_a_moved_net_keeps_all(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """X5: net.to(device) keeps values, flags, gradients, ties and hooks, and the net trains on."""
    start, end = data.draw(st.sampled_from(routes(device)))
    run: TrainingRun = data.draw(training_runs(device="cpu", dtype=dtype, learns=True))
    trainer, fired = Trainer(on_cpu(run), start, dtype), []  # type: ignore[var-annotated]
    trainer.backward()
    for name, parameter in trainer.named.items():
        if parameter.requires_grad:
            parameter.register_hook(lambda gradient, name=name: fired.append(name))
    bits, gradients = trainer.bits(), trainer.gradient_bits()
    buffers = snapshot(dict(trainer.network.named_buffers()))
    trainer.network.to(end)
    named, what = dict(trainer.network.named_parameters()), f"after a move from {start} to {end}"
    check_equal(list(named), list(bits), f"{what}: parameters, a tied one once")
    for name, parameter in named.items():
        check_place(parameter, end, f"{name} {what}")
        check_same_bits(parameter, bits[name], f"{name} {what}")
        check_equal(parameter.requires_grad, name not in run.frozen, f"requires_grad of {name} {what}")
        check_same_gradient(parameter, gradients[name], f"gradient of {name} {what}")
        if parameter.grad is not None:
            check_equal(parameter.grad.device, parameter.device, f"gradient of {name} {what}: device")
    for name, buffer in trainer.network.named_buffers():
        check_place(buffer, end, f"{name} {what}")
        check_same_bits(buffer, buffers[name], f"{name} {what}")
    trainer.named, trainer.inputs, trainer.targets = named, *run.data(end, dtype)
    for parameter in named.values():
        parameter.grad = None
    trainer.backward()
    live = [name for name in named if named[name].grad is not None]
    check_equal(set(live), set(run.gets_gradient()), f"{what}: what gets a gradient")
    check_equal(sorted(fired), sorted(live), f"{what}: the hooks that fired")


class Split(Trainer):
    """The layers before ``place`` on one device, the others on a second."""

    def __init__(self, run: TrainingRun, dtype: torch.dtype, place: int, ends: Tuple[str, str]) -> None:
        self.place, self.ends = place, ends
        super().__init__(run, ends[0], dtype)
        for block in list(self.network.blocks())[place:]:
            block.to(ends[1])
        self.named = dict(self.network.named_parameters())
        self.optimizer = self.build_optimizer()
        self.targets = self.targets.to(ends[1])

    def output(self) -> torch.Tensor:
        value = self.inputs
        for place, block in enumerate(self.network.blocks()):
            value = block(value.to(self.ends[1]) if place == self.place else value)
        return value


@law("X5 F1 F2", "PyTorch tutorial, Model parallelism", PRECISE, beside_cpu=True)
@given(data=st.data())
def test_a_net_split_over_two_devices(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """X5: split over two devices, a net's frozen stay, and the rest gets the gradients of the whole."""
    network = data.draw(mlps(min_depth=2, max_depth=4, skips=False, tied=False))
    run: TrainingRun = data.draw(
        training_runs(
            networks=st.just(network), names=referenced(1e-3), cuts=False, dtype=dtype, learns=True
        )
    )
    run = dataclasses.replace(on_cpu(run), cuts=Cuts(), clearing="none")
    ends = data.draw(st.sampled_from(routes(device)))
    place = data.draw(st.integers(1, network.depth - 1))
    whole, split = Trainer(run, "cpu", dtype), Split(run, dtype, place, ends)
    expected, what = expected_of(whole), f"split at {place} over {' and '.join(ends)}"
    whole.backward()
    split.backward()
    reached = set()
    for name, parameter in split.named.items():
        ours, theirs = whole.named[name].grad, parameter.grad
        check((ours is None) == (theirs is None), f"{what}: gradient of {name} on one side only")
        if ours is not None and theirs is not None:
            reached.add(name)
            check_equal(theirs.device, parameter.device, f"{what}: device of the gradient of {name}")
            tolerance = oracle.gradient_tolerance(dtype, expected, name)
            if tolerance is not None:
                check_near(ours, theirs, tolerance, f"{what}: gradient of {name}", device)
    check_equal(reached, set(run.gets_gradient()), f"{what}: what gets a gradient")
    split.apply()
    stray = {name for name, bits in split.bits().items() if bits != split.before[name]} - reached
    check(not stray, f"{what}: {sorted(stray)} moved, frozen or cut off")


def state_of(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> Dict[str, Any]:
    """What an optimizer keeps for a parameter; looking makes no state."""
    return dict(optimizer.state[parameter]) if parameter in optimizer.state else {}


@law(
    "X6",
    "torch.nn.Module and torch.optim.Optimizer.load_state_dict documentation",
    PRECISE,
    beside_cpu=True,
)
@given(data=st.data())
def test_a_run_goes_on_elsewhere(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """X6: states of one device load on another: same bits and flags, beside the parameters."""
    start, end = data.draw(st.sampled_from(routes(device)))
    run: TrainingRun = data.draw(
        training_runs(networks=mlps(max_depth=3), names=referenced(1e-3), dtype=dtype, learns=True)
    )
    run = on_cpu(run)
    first, second = Trainer(run, start, dtype).train(), Trainer(run, end, dtype)
    # ASGD's step count stays where it was unless map_location moves it (a law of its own, below):
    # two devices of a kind then refuse its foreach implementation (measured on 2.13)
    files = data.draw(st.booleans()) or "cpu" not in (start, end)
    states: List[Any] = [first.network.state_dict(), first.optimizer.state_dict()]
    kept, what = first.bits(), f"a run of {start}, loaded on {end}"
    carried = [through_a_file(one, end) if files else copy.deepcopy(one) for one in states]
    second.network.load_state_dict(carried[0])
    second.optimizer.load_state_dict(carried[1])
    for name, parameter in second.named.items():
        check_place(parameter, end, f"{what}: {name}")
        check_same_bits(parameter, kept[name], f"{what}: {name}")
        check_equal(parameter.requires_grad, name not in run.frozen, f"{what}: requires_grad of {name}")
        ours = state_of(first.optimizer, first.named[name])
        theirs = state_of(second.optimizer, parameter)
        check_equal(sorted(theirs), sorted(ours), f"{what}: the state of {name}")
        for key, value in theirs.items():
            if isinstance(value, torch.Tensor):
                # loading turns NAdam's mu_product into the parameter's dtype
                same = value.to(ours[key].dtype) if not value.dim() else value
                check_same_bits(same, read_bits(ours[key]), f"{what}: {key} of {name}")
                if value.dim():  # a step is counted on the CPU
                    check_equal(value.device, parameter.device, f"{what}: device of {key} of {name}")
    second.step()
    check_equal(first.bits(), kept, f"{what}: the first, after a step of the second")
    for name in run.frozen:
        check_same_bits(second.named[name], kept[name], f"{what}: frozen {name} after a step")


@law("X6", "torch.optim.Optimizer.load_state_dict documentation", "float32", beside_cpu=True)
@pytest.mark.parametrize("name", [name for name in optimizer_names() if not traits_of(name).sparse])
def test_loaded_state_lies_beside_its_parameter(device: str, dtype: torch.dtype, name: str) -> None:
    """X6: the state of one device, loaded on the CPU without a file, lies on the CPU."""
    optimizers, momentum = [], (("momentum", 0.9),) if has_option(name, "momentum", 0.9) else ()
    for place in (device, "cpu"):
        parameter = torch.nn.Parameter(torch.ones(2, 2, dtype=dtype, device=place))
        parameter.grad = torch.ones_like(parameter)
        optimizers.append(OptimizerSpec(name, (("lr", 0.1), *momentum)).build([parameter]))
    optimizers[0].step(lambda: 1.0)
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    for key, value in state_of(optimizers[1], parameter).items():
        if isinstance(value, torch.Tensor):
            check_equal(str(value.device), "cpu", f"{name}: the device of {key}, loaded on the CPU")
