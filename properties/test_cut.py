"""Cutting the graph by detach or no_grad: what is before the cut, and what is after it."""

import contextlib
import dataclasses
import threading
from itertools import product
from typing import Any, Callable, Dict, List, Sequence, Tuple

import torch
from hypothesis import event, given
from hypothesis import strategies as st

from frostproof.properties.harness.core.checks import (
    check,
    check_equal,
    check_raises,
    check_same_bits,
    check_same_gradient,
    check_unchanged,
    count_cases,
)
from frostproof.properties.harness.core.law import FLOATING, law
from frostproof.properties.harness.running.trainer import Trainer
from frostproof.strategies import MLP, Cuts, Layer, TrainingRun, detach_positions, mlps, training_runs


def _run(network: MLP, cuts: Cuts, batch: int = 4) -> TrainingRun:
    return TrainingRun(network, cuts=cuts, batch=batch, seed=network.seed)


@law("K1", "the source article; torch.Tensor.detach documentation", FLOATING)
@given(data=st.data())
def test_gradients_stop_at_the_cut(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """K1: before the cut no gradient; after it the uncut net's bits; the output's bits as uncut."""
    network = data.draw(mlps(skips=False, tied=False))
    cuts = data.draw(detach_positions(network, at_least=1, output=False))
    event(f"cut by {cuts.by}")
    cut, whole = (
        Trainer(_run(network, cuts), device, dtype),
        Trainer(_run(network, Cuts()), device, dtype),
    )
    check_same_bits(cut.output(), whole.output(), "the output of the cut net")
    cut.backward()
    whole.backward()
    before = {name for names in network.parameters_by_layer()[: max(cuts.positions)] for name in names}
    expected = whole.gradient_bits()
    for name, gradient in cut.gradient_bits().items():
        if name in before:
            check(gradient is None, f"{name} is before the cut at {cuts}, but got a gradient")
        else:
            check(gradient is not None, f"{name} is after the cut at {cuts}, but got no gradient")
            check_same_gradient(cut.named[name], expected[name], f"gradient of {name}, after {cuts}")


@law("K1 F1", "the source article", FLOATING)
@given(data=st.data())
def test_before_the_cut_stays(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """K1: parameters that a cut blocks keep their bits through training, with no gradient."""
    run: TrainingRun = data.draw(training_runs(device=device, dtype=dtype, learns=True))
    if not run.cuts.positions:
        cuts = data.draw(detach_positions(run.network, at_least=1, output=False))
        run = dataclasses.replace(run, cuts=cuts, frozen=())
    trainer = Trainer(run, device, dtype).train()
    gets = run.gets_gradient()
    check(bool(gets), "the run leaves nothing to train")
    for name, parameter in trainer.named.items():
        if name not in gets:
            check_same_bits(parameter, trainer.before[name], f"{name}, blocked at {run.cuts}")
            check(parameter.grad is None, f"{name} is blocked, but got a gradient")
        else:
            check(parameter.grad is not None, f"{name} is after the cut, but got no gradient")


@law("K2", "torch.Tensor.detach documentation", FLOATING)
@given(data=st.data())
def test_last_cut_governs(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """K2: several cuts give the gradients of the last one alone; a cut at the input freezes none."""
    network = data.draw(mlps(skips=False))
    cuts = data.draw(detach_positions(network, at_least=1, output=False))
    last = Cuts((max(cuts.positions),), cuts.by)
    many, one = (
        Trainer(_run(network, cuts), device, dtype),
        Trainer(_run(network, last), device, dtype),
    )
    many.backward()
    one.backward()
    for name, gradient in one.gradient_bits().items():
        check_same_gradient(many.named[name], gradient, f"gradient of {name} with many cuts")
    first = Trainer(_run(network, Cuts((0,), cuts.by)), device, dtype)
    first.backward()
    for name, gradient in first.gradient_bits().items():
        check(gradient is not None, f"{name} got no gradient though the cut is at the input")


@law("K2", "torch.Tensor.backward documentation", FLOATING)
@given(network=mlps(), by=st.sampled_from(("detach", "no_grad")))
def test_cut_after_the_last_layer(device: str, dtype: torch.dtype, network: MLP, by: str) -> None:
    """K2: cut after the last layer, the loss does not require grad and backward raises."""
    trainer = Trainer(_run(network, Cuts((network.depth,), by)), device, dtype)
    loss = trainer.loss()
    check(not loss.requires_grad, "the loss requires grad though the output is cut")
    check_raises(RuntimeError, loss.backward, "backward behind a cut output", "require grad")
    check_unchanged(trainer.named, trainer.before, "a cut output:")


@law("K3", "PyTorch notes, Autograd mechanics", FLOATING)
@given(
    width=st.integers(1, 40),
    depth=st.integers(2, 5),
    place=st.integers(1, 4),
    seed=st.integers(0, 255),
)
def test_skip_round_the_cut(
    device: str, dtype: torch.dtype, width: int, depth: int, place: int, seed: int
) -> None:
    """K3: with a skip connection round the cut, the parameters that it reaches still train."""
    position = 1 + (place - 1) % (depth - 1)
    layers: List[Layer] = [
        Layer(width, activation="tanh", skip=int(index == position)) for index in range(depth)
    ]
    network = MLP(width, tuple(layers), seed=seed)
    round_it = Trainer(_run(network, Cuts((position,))), device, dtype)
    round_it.backward()
    gradients = round_it.gradient_bits()
    for name in network.parameter_names():
        check(gradients[name] is not None, f"{name} is reached by the skip, but got no gradient")
    layers[position] = dataclasses.replace(layers[position], skip=0)
    blocked = Trainer(_run(MLP(width, tuple(layers), seed=seed), Cuts((position,))), device, dtype)
    blocked.backward()
    for name, gradient in blocked.gradient_bits().items():
        behind = name in {n for names in network.parameters_by_layer()[:position] for n in names}
        got = "no gradient" if gradient is None else "a gradient"
        check((gradient is None) == behind, f"{name}: without the skip it got {got}")


@law("K1", "torch.no_grad documentation", FLOATING)
@given(network=mlps(), fails=st.booleans(), train=st.booleans())
def test_no_grad_records_nothing(
    device: str, dtype: torch.dtype, network: MLP, fails: bool, train: bool
) -> None:
    """K1: under no_grad no layer records a graph; the mode ends with the block, by an exception too."""
    trainer = Trainer(_run(network, Cuts()), device, dtype)
    trainer.network.train(train)

    def look(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        name = type(module).__name__
        check(not output.requires_grad, f"the output of a {name} under no_grad requires grad")

    records = trainer.output().requires_grad
    handles = [module.register_forward_hook(look) for module in trainer.network.modules()]
    with contextlib.suppress(ArithmeticError), torch.no_grad():
        trainer.output()
        if fails:
            raise ArithmeticError
    for handle in handles:
        handle.remove()
    check(torch.is_grad_enabled(), "grad mode is off after a no_grad block")
    check_equal(trainer.output().requires_grad, records, "whether the output has a graph, as before,")


# Grad modes as expressions, and whether a graph is recorded inside.
GRAD_MODES: Dict[str, Tuple[Callable[[], Any], bool]] = {
    "torch.no_grad()": (lambda: torch.no_grad(), False),
    "torch.enable_grad()": (lambda: torch.enable_grad(), True),
    "torch.set_grad_enabled(False)": (lambda: torch.set_grad_enabled(False), False),
    "torch.set_grad_enabled(True)": (lambda: torch.set_grad_enabled(True), True),
}
if hasattr(torch, "inference_mode"):
    GRAD_MODES["torch.inference_mode()"] = (lambda: torch.inference_mode(), False)
    GRAD_MODES["torch.inference_mode(False)"] = (lambda: torch.inference_mode(False), True)


def recorded_in(nest: Sequence[str]) -> bool:
    """Whether a graph is recorded inside these modes, outermost first: inference mode wins."""
    inference = False
    for name in nest:
        if name.startswith("torch.inference_mode"):
            inference = name == "torch.inference_mode()"
    return not inference and (not nest or GRAD_MODES[nest[-1]][1])


@law("K1", "PyTorch notes, Locally disabling gradient computation", "float32")
def test_modes_nest(device: str, dtype: torch.dtype) -> None:
    """K1: each grad mode holds for its block or function, and gives back the one around it."""
    leaf = torch.ones(2, dtype=dtype, device=device, requires_grad=True)

    def look(inside: Sequence[str], when: str) -> None:
        made, wanted = (leaf * 2).requires_grad, recorded_in(inside)
        check_equal(made, wanted, f"whether a graph is recorded {when} {' '.join(inside)}")

    def enter(nest: Sequence[str], place: int, decorates: bool, fails: bool) -> None:
        look(nest[:place], "inside")
        if place == len(nest):
            if fails:
                raise ArithmeticError
            return
        mode, name = GRAD_MODES[nest[place]][0], nest[place]
        try:
            # set_grad_enabled acts where it is called: not when it decorates
            if decorates and "set_grad" not in name:
                mode()(enter)(nest, place + 1, decorates, fails)
            else:
                with mode():
                    enter(nest, place + 1, decorates, fails)
        finally:
            look(nest[:place], f"after {name} inside")

    before = torch.is_grad_enabled()
    try:
        for depth, decorates, fails in product((1, 2, 3), (False, True), (False, True)):
            for nest in product(GRAD_MODES, repeat=depth):
                with contextlib.suppress(ArithmeticError):
                    enter(nest, 0, decorates, fails)
                count_cases(1)
        torch.set_grad_enabled(False)
        check(not (leaf * 2).requires_grad, "a graph is recorded after set_grad_enabled(False)")
        torch.set_grad_enabled(True)
        check((leaf * 2).requires_grad, "no graph is recorded after set_grad_enabled(True)")
    finally:
        torch.set_grad_enabled(before)


@law("K1", "PyTorch notes, Autograd mechanics, Multithreaded Autograd", "float32")
def test_modes_belong_to_their_thread(device: str, dtype: torch.dtype) -> None:
    """K1: a thread begins with grad mode on, whatever the others' is, and keeps its own to itself."""
    leaf = torch.ones(2, dtype=dtype, device=device, requires_grad=True)
    for outside, inside in product(GRAD_MODES, repeat=2):
        here, first, there = in_two_threads(leaf, outside, inside)
        what = f"a graph is recorded, with {inside} in another thread"
        check_equal(here, GRAD_MODES[outside][1], f"whether, inside {outside}, {what}")
        check_equal(first, True, f"whether a new thread, begun inside {outside}, records a graph")
        check_equal(there, GRAD_MODES[inside][1], f"whether a thread inside {inside} records a graph")
        count_cases(1)


def in_two_threads(leaf: torch.Tensor, outside: str, inside: str) -> List[bool]:
    """Whether a graph is recorded: here, in a thread as it begins, and there inside its mode."""
    seen: List[bool] = []
    met = threading.Barrier(2)

    def elsewhere() -> None:
        seen.append((leaf * 2).requires_grad)
        with eval(inside):
            seen.append((leaf * 2).requires_grad)
            met.wait(60)
            met.wait(60)

    with eval(outside):
        other = threading.Thread(target=elsewhere)
        other.start()
        met.wait(60)  # the other thread is inside its own mode now
        here = (leaf * 2).requires_grad
        met.wait(60)
        other.join()
    return [here, *seen]
