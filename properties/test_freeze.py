"""Freezing by requires_grad = False: what stands still, and what still learns."""

import copy
import dataclasses
import functools
import math
from typing import Any, Dict, Iterable, Iterator, List

import pytest
import torch
from hypothesis import event, given
from hypothesis import strategies as st

from frostproof.properties.harness.core.bits import from_bits, read_bits
from frostproof.properties.harness.core.checks import (
    check,
    check_close,
    check_equal,
    check_raises,
    check_same_bits,
    check_same_gradient,
    check_unchanged,
    fail,
    snapshot,
)
from frostproof.properties.harness.core.law import ANY, DIFFERENTIABLE, FLOATING, PRECISE, law, part
from frostproof.properties.harness.core.layout import (
    ATTACHED,
    attach,
    autograd_state,
    geometry,
    storage_address,
)
from frostproof.properties.harness.reference import oracle
from frostproof.properties.harness.reproducer.recording import each_of
from frostproof.properties.harness.running.scenario import state_bits
from frostproof.properties.harness.running.trainer import Trainer, freeze
from frostproof.strategies import (
    MLP,
    Layer,
    OptimizerSpec,
    TensorSpec,
    TrainingRun,
    freeze_masks,
    mlps,
    optimizers,
    tensors,
    training_runs,
)
from frostproof.strategies.optimizers import implementations


def _state_bits(trainer: Trainer, name: str) -> Dict[str, Any]:
    """What the optimizer keeps for a parameter, as bits; looking makes no state."""
    return state_bits(trainer.optimizer, trainer.named[name])


def check_frozen(trainer: Trainer, versions: Dict[str, int], states: Dict[str, Any], step: int) -> None:
    """Every frozen parameter: same bits, no gradient, no state, same version, still frozen."""
    __tracebackhide__ = True
    for name in trainer.run.frozen:
        parameter = trainer.named[name]
        where = f"frozen {name} after step {step} of {trainer.spec.name}"
        check_same_bits(parameter, trainer.before[name], where)
        check(parameter.grad is None, f"{where}: has a gradient")
        check(not parameter.requires_grad, f"{where}: requires grad again")
        # Adagrad makes state for every parameter when it is built; none may grow or change
        # LBFGS keeps the state of the whole run with whatever parameter comes first, and adds
        # its direction to every parameter: zeros to the frozen ones
        if not trainer.spec.needs_closure:
            check_equal(_state_bits(trainer, name), states[name], f"{where}: optimizer state")
            check_equal(parameter._version, versions[name], f"{where}: version counter")


def check_live(trainer: Trainer, storages: Dict[str, int], step: int) -> None:
    """Every live parameter that gets a gradient has one, and keeps its storage."""
    __tracebackhide__ = True
    gets = trainer.run.gets_gradient()
    for name, parameter in trainer.named.items():
        where = f"{name} after step {step} of {trainer.spec.name}"
        check_equal(parameter.data_ptr(), storages[name], f"{where}: address of its storage")
        if name in gets:
            check(parameter.grad is not None, f"{where}: is live, but got no gradient")
        elif name not in trainer.run.frozen:
            check(parameter.grad is None, f"{where}: is cut off, but got a gradient")
            check_same_bits(parameter, trainer.before[name], f"{where}: cut off")


@law("F1", "PyTorch notes, Locally disabling gradient computation", FLOATING)
@given(data=st.data())
def test_frozen_stay(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F1: after every step a frozen parameter has its bits, no gradient, no state, its version."""
    drawn: TrainingRun = data.draw(training_runs(device=device, dtype=dtype))
    event(f"optimizer {drawn.optimizer.name}")
    for run in each_of(data, ways(drawn)):
        watch_training(Trainer(run, device, dtype, stays=True))


def ways(run: TrainingRun) -> Iterator[TrainingRun]:
    """A run, with the other parameters frozen, with the frozen ones listed or not: (4) runs."""
    for listed in (run.listed, "trainable" if run.listed == "all" else "all"):
        for frozen in (run.frozen, run.unfrozen()):
            yield dataclasses.replace(run, frozen=frozen, listed=listed)


def watch_training(trainer: Trainer) -> None:
    """Train, and look after every step at what is frozen and what is not."""
    __tracebackhide__ = True
    run = trainer.run
    versions = {name: trainer.named[name]._version for name in run.frozen}
    states = {name: _state_bits(trainer, name) for name in run.frozen}
    if run.optimizer.name != "Adagrad":
        check_equal([name for name in states if states[name]], [], "frozen, but with state")
    storages = {name: parameter.data_ptr() for name, parameter in trainer.named.items()}
    held: Dict[str, Any] = {name: value for name, value in trainer.named.items()}
    for step in range(1, run.steps + 1):
        trainer.step()
        check_frozen(trainer, versions, states, step)
        check_live(trainer, storages, step)
    for name, parameter in trainer.network.named_parameters():
        check(parameter is held[name], f"{name} is another object after training")
    listed = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    check(
        [id(p) for p in listed] == [id(trainer.named[name]) for name in trainer.listed],
        "the optimizer lists other parameters after training than it was given",
    )


@law("F1", "torch.optim.Optimizer.step documentation", FLOATING)
@given(data=st.data())
def test_step_without_gradients(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F1: a step of any optimizer without any gradient moves nothing, weight decay or not."""
    spec = data.draw(optimizers(device=device, dtype=dtype))
    if spec.needs_closure:
        spec = OptimizerSpec("AdamW", (("lr", 0.1),))
    network = data.draw(mlps(max_width=40))
    run = TrainingRun(network, optimizer=spec, batch=4)
    trainer = Trainer(run, device, dtype)
    trainer.optimizer.step()
    check_unchanged(trainer.named, trainer.before, f"a step of {spec.name} without gradients:")


@law("F2", "PyTorch notes, Autograd mechanics", FLOATING)
@given(data=st.data())
def test_others_gradients_do_not_depend_on_the_mask(
    device: str, dtype: torch.dtype, data: st.DataObject
) -> None:
    """F2: freezing some leaves every other gradient of the first backward bit for bit the same."""
    network = data.draw(mlps())
    masks = [data.draw(freeze_masks(network)), data.draw(freeze_masks(network))]
    run = TrainingRun(network, batch=data.draw(st.integers(3, 8)), seed=network.seed)
    whole = Trainer(run, device, dtype)
    whole.backward()
    expected = whole.gradient_bits()
    for name, gradient in expected.items():
        check(gradient is not None, f"{name} is live in the whole net, but got no gradient")
    for mask in masks:
        masked = Trainer(
            TrainingRun(network, frozen=mask, batch=run.batch, seed=run.seed), device, dtype
        )
        masked.backward()
        for name, gradient in masked.gradient_bits().items():
            if name in mask:
                check(gradient is None, f"frozen {name} got a gradient")
            else:
                check_same_gradient(masked.named[name], expected[name], f"gradient of {name}")


@law("F2 K1", "torch.autograd.grad and torch.Tensor.backward documentation", FLOATING)
@given(data=st.data())
def test_ways_to_ask_for_gradients(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F2: autograd.grad, backward(inputs=) and a graph kept for later give backward's own bits."""
    run: TrainingRun = data.draw(
        training_runs(device=device, dtype=dtype, learns=True, max_depth=3, max_steps=1)
    )
    trainer = Trainer(run, device, dtype)
    trainer.backward()
    expected = trainer.gradient_bits()
    names = [name for name in trainer.named if expected[name] is not None]
    trainer.network.zero_grad(set_to_none=True)
    loss = trainer.loss()
    found = torch.autograd.grad(loss, [trainer.named[name] for name in names], retain_graph=True)
    for name, gradient in zip(names, found):
        check_same_bits(gradient, expected[name], f"what autograd.grad gives for {name}")
    check_equal(_owners(trainer), [], "who has a .grad after autograd.grad")
    for name, parameter in trainer.named.items():
        if name not in names:
            what = f"autograd.grad of {name}, frozen or cut off"
            check_raises(
                RuntimeError,
                lambda p=parameter: torch.autograd.grad(loss, p, retain_graph=True),
                what,
            )
    some = names[:: 2 if len(names) > 1 else 1]
    loss.backward(retain_graph=True, inputs=[trainer.named[name] for name in some])
    check_equal(_owners(trainer), some, "who has a .grad after backward(inputs=)")
    loss.backward()
    for name in trainer.named:
        wanted = expected[name]
        if wanted is not None and name in some:
            once = from_bits(wanted, trainer.named[name].shape, dtype)
            wanted = read_bits(once + once)
        check_same_gradient(trainer.named[name], wanted, f"gradient of {name}")


def watch_gradients(parameter: torch.Tensor, seen: List[bytes]) -> None:
    """Hooks that note what arrives, and, since torch 2.1, what is in ``.grad`` then."""
    parameter.register_hook(lambda gradient: seen.append(read_bits(gradient)))

    def after(accumulated: torch.Tensor) -> None:
        if accumulated.grad is not None:
            seen.append(read_bits(accumulated.grad))

    if hasattr(parameter, "register_post_accumulate_grad_hook"):
        parameter.register_post_accumulate_grad_hook(after)


def _owners(trainer: Trainer) -> List[str]:
    return [name for name, parameter in trainer.named.items() if parameter.grad is not None]


@law("F2 F5", "torch.Tensor.requires_grad and register_hook documentation", FLOATING)
@given(data=st.data())
def test_flags_and_hooks_at_backward(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F2: frozen between forward and backward: no gradient, no hook; the others' are called once."""
    network = data.draw(mlps(max_depth=3, max_width=40))
    mask = data.draw(freeze_masks(network))
    late = data.draw(freeze_masks(network))
    run = TrainingRun(network, mask, batch=4, seed=network.seed)
    if not run.gets_gradient():
        run = dataclasses.replace(run, frozen=())
    trainer = Trainer(run, device, dtype)
    trainer.backward()
    expected = trainer.gradient_bits()
    trainer.network.zero_grad(set_to_none=True)
    seen: Dict[str, List[bytes]] = {name: [] for name in trainer.named}
    for name, parameter in trainer.named.items():
        if name in run.frozen:
            hooking = functools.partial(parameter.register_hook, lambda gradient: None)
            check_raises(RuntimeError, hooking, f"register_hook on frozen {name}", "grad")
        else:
            watch_gradients(parameter, seen[name])
    loss = trainer.loss()
    freeze(trainer.named, late, "attribute")
    loss.backward()
    hooks = 2 if hasattr(torch.Tensor, "register_post_accumulate_grad_hook") else 1
    for name, bits in trainer.gradient_bits().items():
        if name in run.frozen or name in late:
            check(bits is None, f"{name} was frozen before backward, but got a gradient")
        else:
            check_same_gradient(trainer.named[name], expected[name], f"gradient of {name}")
            check_equal(seen[name], [expected[name]] * hooks, f"what the hooks of {name} saw")


@law("F5", "torch.Tensor.backward documentation", FLOATING)
@given(network=mlps(), seed=st.integers(0, 1023))
def test_all_frozen_refuses_backward(device: str, dtype: torch.dtype, network: MLP, seed: int) -> None:
    """F5: with every parameter frozen the loss does not require grad and backward raises."""
    run = TrainingRun(network, frozen=network.parameter_names(), batch=4, seed=seed)
    trainer = Trainer(run, device, dtype)
    loss = trainer.loss()
    check(not loss.requires_grad, "the loss requires grad though everything is frozen")
    check(loss.grad_fn is None, f"the loss has a grad_fn though all is frozen: {loss.grad_fn}")
    check_raises(RuntimeError, loss.backward, "backward with everything frozen", "require grad")
    check_unchanged(trainer.named, trainer.before, "all frozen:")


def set_flag(tensor: torch.Tensor, flag: bool, how: str) -> None:
    """Set requires_grad as users do: by attribute, or by the method."""
    if how == "attribute":
        tensor.requires_grad = flag
    else:
        check(tensor.requires_grad_(flag) is tensor, "requires_grad_ returned another object")


HOW = st.sampled_from(("attribute", "method"))
MODE = st.sampled_from(("enable_grad", "no_grad"))


@law("F5", "torch.Tensor.requires_grad documentation", DIFFERENTIABLE)
@given(spec=tensors(kinds=("non_leaf", "view")), how=HOW, mode=MODE)
def test_non_leaf_cannot_be_frozen(
    device: str, dtype: torch.dtype, spec: TensorSpec, how: str, mode: str
) -> None:
    """F5: requires_grad = False on a non-leaf raises RuntimeError, and changes nothing."""
    tensor = spec.build(device, dtype)
    node, bits = tensor.grad_fn, read_bits(tensor)
    with getattr(torch, mode)():
        freezing = f"freezing a non-leaf by {how}"
        check_raises(RuntimeError, lambda: set_flag(tensor, False, how), freezing, "leaf")
    check(tensor.requires_grad, "the refused non-leaf no longer requires grad")
    check(tensor.grad_fn is node, f"the refused non-leaf has another grad_fn: {tensor.grad_fn}")
    check_same_bits(tensor, bits, "values of the refused non-leaf")


@law("F5 F8", "torch.Tensor.requires_grad documentation", DIFFERENTIABLE)
@given(
    spec=tensors(kinds=("leaf", "requires_grad", "parameter", "frozen")),
    how=HOW,
    mode=MODE,
    attached=st.sampled_from(ATTACHED),
)
def test_flag_is_set_and_undone(
    device: str, dtype: torch.dtype, spec: TensorSpec, how: str, mode: str, attached: str
) -> None:
    """F5: a floating or complex leaf takes requires_grad, on and off, and nothing else changes."""
    tensor = spec.build(device, dtype)
    attach(tensor, attached)
    before, bits, place = autograd_state(tensor), read_bits(tensor), geometry(tensor)
    flag = before.pop("requires_grad")
    address, gradient = storage_address(tensor), before.pop("grad")
    for wanted in (not flag, flag, not flag, False):
        with getattr(torch, mode)():
            set_flag(tensor, wanted, how)
        check_equal(tensor.requires_grad, wanted, f"requires_grad, set by {how} under {mode}")
        after = autograd_state(tensor)
        check(after.pop("grad") is gradient, "setting requires_grad changed the gradient")
        check(after.pop("requires_grad") is wanted, "requires_grad is not a bool")
        check_equal(after, before, "what autograd knows besides requires_grad")
    check_equal(geometry(tensor), place, "geometry after requires_grad was set")
    check_equal(storage_address(tensor), address, "storage after requires_grad was set")
    check_same_bits(tensor, bits, "values after requires_grad was set")


@law("F5", "torch.Tensor.requires_grad documentation", ANY)
def test_only_floating_can_require_grad(device: str, dtype: torch.dtype) -> None:
    """F5: integer and bool tensors are not made to require grad; floating and complex ones are."""
    made: Dict[str, Any] = {
        "torch.empty": lambda: torch.empty(3, dtype=dtype, device=device, requires_grad=True),
        "torch.tensor": lambda: torch.tensor([1], dtype=dtype, device=device, requires_grad=True),
        "Parameter": lambda: torch.nn.Parameter(torch.empty(3, dtype=dtype, device=device)),
    }
    for name, make in made.items():
        if dtype.is_floating_point or dtype.is_complex:
            check(make().requires_grad, f"{name} of {dtype} did not take requires_grad")
        else:
            check_raises(RuntimeError, make, f"{name} of {dtype} that requires grad")
    frozen = torch.nn.Parameter(torch.empty(3, dtype=dtype, device=device), requires_grad=False)
    check(not frozen.requires_grad, f"a Parameter of {dtype} made frozen requires grad")
    for how in ("attribute", "method"):
        for tensor in (frozen, torch.empty((), dtype=dtype, device=device)):
            if dtype.is_floating_point or dtype.is_complex:
                set_flag(tensor, True, how)
                check(tensor.requires_grad, f"{dtype} did not take requires_grad by {how}")
            else:
                refused = functools.partial(set_flag, tensor, True, how)
                check_raises(RuntimeError, refused, f"requires_grad of {dtype} by {how}", "floating")
            set_flag(tensor, False, how)
            check(not tensor.requires_grad, f"requires_grad of {dtype} cannot be undone by {how}")


@law("F6", "torch.optim.Optimizer.zero_grad documentation", FLOATING)
@given(data=st.data())
def test_frozen_midway_with_cleared_gradients(
    device: str, dtype: torch.dtype, data: st.DataObject
) -> None:
    """F6: frozen midway with gradients cleared to None, a parameter stands still from then on."""
    run: TrainingRun = data.draw(training_runs(device=device, dtype=dtype, learns=True))
    if run.optimizer.needs_closure:  # LBFGS moves it: test_lbfgs_moves_frozen_midway
        run = dataclasses.replace(run, optimizer=OptimizerSpec("SGD", (("lr", 0.1), ("momentum", 0.9))))
    mask = run.frozen or run.unfrozen()[:1]
    run = dataclasses.replace(run, frozen=(), clearing="none", listed="all")
    trainer = Trainer(run, device, dtype)
    trainer.train()
    trainer.network.zero_grad(set_to_none=True)
    freeze(trainer.named, mask, run.freezing)
    before = snapshot({name: trainer.named[name] for name in mask})
    trainer.run = dataclasses.replace(run, frozen=tuple(mask))
    for _ in range(2):
        trainer.step()
        check_unchanged(trainer.named, before, f"frozen midway under {trainer.spec.name}:")
        for name in mask:
            check(trainer.named[name].grad is None, f"{name}: a gradient after freezing")


TRAPS = (
    ("stale gradient", (("lr", 0.1),), "stale"),
    ("weight decay with zeroed gradients", (("lr", 0.1), ("weight_decay", 0.1)), "zeros"),
    ("momentum with zeroed gradients", (("lr", 0.1), ("momentum", 0.9)), "zeros"),
)


@law("F6", "the catalogue's traps; torch.optim.SGD documentation", PRECISE)
@given(data=st.data())
def test_traps_move_frozen(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F6: stale gradients, and decay or momentum over zeroed ones, do move a frozen parameter."""
    network = data.draw(mlps(max_width=40))
    name, options, kind = data.draw(st.sampled_from(TRAPS))
    event(name)
    spec = OptimizerSpec("SGD", options)
    trainer = Trainer(TrainingRun(network, optimizer=spec, batch=4, seed=network.seed), device, dtype)
    trainer.step()
    trainer.clear()
    trainer.backward()
    if kind == "zeros":
        trainer.apply()
        for parameter in trainer.network.parameters():
            assert parameter.grad is not None
            parameter.grad.zero_()
    mask = data.draw(freeze_masks(network)) or network.parameter_names()[:1]
    freeze(trainer.named, mask, "attribute")
    before = snapshot(trainer.named)
    expected = {}
    for frozen in mask:
        parameter = trainer.named[frozen]
        gradient = parameter.grad
        assert gradient is not None
        drive = gradient
        if "weight_decay" in dict(options):
            drive = parameter
        elif "momentum" in dict(options):
            drive = trainer.optimizer.state[parameter]["momentum_buffer"]
        expected[frozen] = bool((drive.abs() > 1e-4).any())
    trainer.apply()
    for frozen, moves in expected.items():
        if moves:
            check(
                read_bits(trainer.named[frozen]) != before[frozen],
                f"{name}: frozen {frozen} was expected to move (the optimizer goes by .grad, not "
                f"by requires_grad), but stood still",
            )


@law("F6", "measured: a real defect of torch.optim.LBFGS", PRECISE)
@given(seed=st.integers(0, 255), width=st.integers(1, 12))
def test_lbfgs_moves_frozen_midway(device: str, dtype: torch.dtype, seed: int, width: int) -> None:
    """F6: LBFGS moves a parameter frozen midway: its direction was stored before (a trap)."""
    network = mlp_of(width, seed)
    spec = OptimizerSpec("LBFGS", (("lr", 0.1), ("max_iter", 2)))
    run = TrainingRun(network, optimizer=spec, batch=4, seed=seed)
    trainer = Trainer(run, device, dtype)
    trainer.step()
    trainer.step()
    trainer.optimizer.zero_grad(set_to_none=True)
    name = network.parameter_names()[0]
    freeze(trainer.named, (name,), "attribute")
    trainer.run = dataclasses.replace(run, frozen=(name,))
    before = read_bits(trainer.named[name])
    trainer.step()
    check(
        read_bits(trainer.named[name]) != before,
        f"LBFGS left {name} alone after it was frozen midway: torch mended the known trap; "
        f"update the law and the README",
    )


def mlp_of(width: int, seed: int) -> MLP:
    """Two plain linear layers with a tanh between them."""
    return MLP(3, (Layer(width, activation="tanh"), Layer(2)), seed=seed)


@law("F7", "PyTorch notes, Autograd mechanics", FLOATING)
@given(data=st.data())
def test_unfreezing_resumes(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F7: after unfreezing, a parameter gets the gradient of a net that was never frozen."""
    network = data.draw(mlps())
    mask = data.draw(freeze_masks(network)) or network.parameter_names()[-1:]
    spec = OptimizerSpec("SGD", (("lr", 0.1),))
    run = TrainingRun(network, frozen=mask, optimizer=spec, batch=4, seed=network.seed)
    trainer = Trainer(run, device, dtype)
    trainer.step()
    for name in mask:
        trainer.named[name].requires_grad_(True)
    trainer.run = dataclasses.replace(run, frozen=())
    trainer.clear()
    trainer.backward()
    fresh = Trainer(dataclasses.replace(run, frozen=()), device, dtype)
    with torch.no_grad():
        for name, parameter in fresh.named.items():
            parameter.copy_(trainer.named[name])
    fresh.backward()
    expected = fresh.gradient_bits()
    for name, gradient in trainer.gradient_bits().items():
        check(gradient is not None, f"{name}: no gradient after unfreezing")
        check_same_gradient(trainer.named[name], expected[name], f"gradient of {name}")
    before = trainer.bits()
    trainer.apply()
    for name in mask:
        grad = trainer.named[name].grad
        assert grad is not None
        if bool((grad.abs() > 0.05).any()):
            check(read_bits(trainer.named[name]) != before[name], f"unfrozen {name} did not move")


@law("F7", "torch.optim.SGD documentation, fused implementation", "float32")
def test_fused_sgd_takes_a_late_gradient(device: str, dtype: torch.dtype) -> None:
    """F7: fused SGD with momentum trains a parameter that is unfrozen after others have begun."""
    early, late = (torch.nn.Parameter(torch.ones(2, dtype=dtype, device=device)) for _ in range(2))
    late.requires_grad = False
    fused = {"fused": True} if "fused" in implementations("SGD", device, dtype) else {}
    optimizer = torch.optim.SGD([early, late], lr=0.5, momentum=0.5, **fused)
    for _ in range(2):
        early.grad = torch.ones_like(early)
        late.grad = torch.ones_like(late) if late.requires_grad else None
        optimizer.step()
        late.requires_grad = True
    # 1 - 0.5 * 1, then - 0.5 * 1.5; the late one takes its first step
    check_equal(early.tolist(), [-0.25] * 2, "the parameter that was live from the start")
    check_equal(late.tolist(), [0.5] * 2, "the parameter that was unfrozen after a step")


@law("F7", "torch.optim.Optimizer.state documentation", FLOATING)
@given(data=st.data())
def test_state_of_frozen_is_kept(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F7: while a parameter is frozen its optimizer state stands still, bit for bit."""
    network = data.draw(mlps(max_width=40))
    mask = data.draw(freeze_masks(network)) or network.parameter_names()[:1]
    name, options = data.draw(
        st.sampled_from(
            (
                ("SGD", (("lr", 0.1), ("momentum", 0.9))),
                ("Adam", (("lr", 0.01),)),
                ("RMSprop", (("lr", 0.01), ("momentum", 0.5))),
                ("Adagrad", (("lr", 0.01),)),
            )
        )
    )
    run = TrainingRun(network, optimizer=OptimizerSpec(name, options), batch=4, seed=network.seed)
    trainer = Trainer(run, device, dtype)
    trainer.step()
    trainer.optimizer.zero_grad(set_to_none=True)
    freeze(trainer.named, mask, "method")
    trainer.run = dataclasses.replace(run, frozen=mask)
    before = {frozen: _state_bits(trainer, frozen) for frozen in mask}
    check(any(before.values()), f"{name} keeps no state at all")
    trainer.step()
    trainer.step()
    for frozen in mask:
        check_equal(_state_bits(trainer, frozen), before[frozen], f"state of frozen {frozen}")


# The norm, or "value", and the largest that is allowed.
CLIPPINGS: List[Any] = [
    (kind, largest) for kind in (2.0, "value", 1.0, math.inf) for largest in (1e-3, 0.1, 1e4)
]


def total_norm(gradients: Iterable[torch.Tensor], kind: float) -> float:
    """The norm of all gradients (float64) as if they were one vector."""
    sizes = [gradient.abs() for gradient in gradients]
    if math.isinf(kind):
        return max(float(size.max()) for size in sizes)
    return float(sum(float((size**kind).sum()) for size in sizes) ** (1 / kind))


def clipping_tolerance(dtype: torch.dtype, count: int) -> float:
    """The relative rounding of a norm of so many numbers, summed in float32 at least."""
    eps = float(torch.finfo(dtype).eps)
    return 16 * eps + count / 50 * min(eps, float(torch.finfo(torch.float32).eps))


@law("F9", "torch.nn.utils.clip_grad_norm_ documentation", FLOATING)
@given(data=st.data())
def test_clipping_leaves_frozen(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F9: clipping scales all live gradients alike, as documented, and moves nothing itself."""
    run: TrainingRun = data.draw(training_runs(device=device, dtype=dtype, learns=True))
    trainer = Trainer(run, device, dtype)
    trainer.backward()
    kind, largest = data.draw(st.sampled_from(CLIPPINGS))
    before = {n: oracle.as_float64(p.grad) for n, p in trainer.named.items() if p.grad is not None}
    check_equal(set(before), set(run.gets_gradient()), "who has a gradient before clipping")
    info = torch.finfo(dtype)
    unit = clipping_tolerance(dtype, sum(gradient.numel() for gradient in before.values()))
    if kind == "value":
        torch.nn.utils.clip_grad_value_(trainer.network.parameters(), largest)
        wanted = {name: gradient.clamp(-largest, largest) for name, gradient in before.items()}
    else:
        norm = total_norm(before.values(), kind)
        found = torch.nn.utils.clip_grad_norm_(trainer.network.parameters(), largest, norm_type=kind)
        check_close(found, torch.tensor(norm, dtype=torch.float64), f"the {kind}-norm", unit, 1e-6)
        factor = min(1.0, largest / (norm + 1e-6))
        wanted = {name: gradient * factor for name, gradient in before.items()}
    check_unchanged(trainer.named, trainer.before, "clipping moved")
    for name, parameter in trainer.named.items():
        if name not in wanted:
            check(parameter.grad is None, f"clipping gave {name} a gradient")
        elif parameter.grad is None:
            fail(f"clipping lost the gradient of {name}")
        else:
            what = f"the gradient of {name}, clipped to {kind} {largest},"
            check_close(parameter.grad, wanted[name], what, unit, 2 * float(info.eps * info.tiny))
    if not run.optimizer.needs_closure:
        trainer.apply()
    for name in run.frozen:
        check_same_bits(trainer.named[name], trainer.before[name], f"frozen {name} after clipping")


@law("F9", "torch.nn.utils.clip_grad_norm_ documentation", "float32")
@part(6, least=10)
@pytest.mark.parametrize("kind", ["norm", "value"])
@given(network=mlps(max_depth=3, max_width=8))
def test_clipping_without_gradients(device: str, dtype: torch.dtype, kind: str, network: MLP) -> None:
    """F9: where everything is frozen, clipping finds a norm of zero, and does nothing."""
    run = TrainingRun(network, frozen=network.parameter_names(), seed=network.seed)
    trainer = Trainer(run, device, dtype)
    if kind == "value":
        torch.nn.utils.clip_grad_value_(trainer.network.parameters(), 1.0)
    else:
        norm = torch.nn.utils.clip_grad_norm_(trainer.network.parameters(), 1.0)
        check_equal(float(norm), 0.0, "the norm of no gradients")
    check_unchanged(trainer.named, trainer.before, "clipping without gradients moved")
    for name, parameter in trainer.named.items():
        check(parameter.grad is None, f"clipping gave {name} a gradient")


@law("F9", "PyTorch examples, gradient accumulation", FLOATING)
@given(data=st.data())
def test_accumulation_leaves_frozen(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F9: each further backward adds the same gradient exactly, and frozen ones get none."""
    run: TrainingRun = data.draw(training_runs(device=device, dtype=dtype, learns=True))
    if any(layer.norm == "batch" for layer in run.network.layers):
        run = dataclasses.replace(run, batch=max(run.batch, 4))
    trainer = Trainer(run, device, dtype)
    trainer.backward()
    once = trainer.gradient_bits()
    single = {
        name: from_bits(bits, trainer.named[name].shape, dtype).to(device)
        for name, bits in once.items()
        if bits is not None
    }
    total = dict(single)
    places = {name: _place(trainer, name) for name in total}
    for times in range(2, 6):
        trainer.backward()
        total = {name: gradient + single[name] for name, gradient in total.items()}
        for name, bits in trainer.gradient_bits().items():
            if name not in total:
                check(bits is None, f"{name} got a gradient at backward number {times}")
            else:
                check_same_gradient(
                    trainer.named[name],
                    read_bits(total[name]),
                    f"gradient of {name} after {times} backwards",
                )
                check_equal(_place(trainer, name), places[name], f"the memory of {name}'s gradient")


def _place(trainer: Trainer, name: str) -> int:
    grad = trainer.named[name].grad
    return 0 if grad is None else grad.data_ptr()


# Name, options, the factor on the first rate after n steps, and what step() takes. The factor
# is never 0: LBFGS divides by it.
SCHEDULERS: List[Any] = [
    entry
    for entry in (
        ("StepLR", {"step_size": 2, "gamma": 0.5}, lambda n: 0.5 ** (n // 2), ()),
        ("ExponentialLR", {"gamma": 0.5}, lambda n: 0.5**n, ()),
        ("CosineAnnealingLR", {"T_max": 9}, lambda n: (1 + math.cos(math.pi * n / 9)) / 2, ()),
        ("MultiStepLR", {"milestones": [1, 3], "gamma": 0.5}, lambda n: 0.5 ** ((n > 0) + (n > 2)), ()),
        ("ConstantLR", {"factor": 0.5, "total_iters": 2}, lambda n: 0.5 if n < 2 else 1.0, ()),
        ("LinearLR", {"start_factor": 0.5, "total_iters": 4}, lambda n: 0.5 + min(n, 4) / 8, ()),
        ("PolynomialLR", {"total_iters": 9, "power": 2.0}, lambda n: (1 - n / 9) ** 2, ()),
        (
            "CosineAnnealingWarmRestarts",
            {"T_0": 2},
            lambda n: (1 + math.cos(math.pi * (n % 2) / 2)) / 2,
            (),
        ),
        ("ReduceLROnPlateau", {"factor": 0.5, "patience": 0}, lambda n: 0.5 ** max(0, n - 1), (1.0,)),
    )
    if hasattr(torch.optim.lr_scheduler, entry[0])
]


def in_two_groups(run: TrainingRun) -> TrainingRun:
    """The run with two parameter groups, where the optimizer takes groups (LBFGS does not)."""
    return run if run.optimizer.needs_closure else dataclasses.replace(run, groups=2)


@law("F9", "torch.optim.lr_scheduler documentation", FLOATING)
@given(data=st.data())
def test_schedulers_leave_frozen(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F9: a scheduler sets each group's rate by its formula and moves no parameter itself."""
    runs = training_runs(device=device, dtype=dtype, learns=True)
    run: TrainingRun = data.draw(runs.map(in_two_groups))
    trainer = Trainer(run, device, dtype)
    name, options, factor, given = data.draw(st.sampled_from(SCHEDULERS))
    for place, group in enumerate(trainer.optimizer.param_groups):
        group["lr"] = group["lr"] / (place + 1)
    first = [group["lr"] for group in trainer.optimizer.param_groups]
    scheduler = getattr(torch.optim.lr_scheduler, name)(trainer.optimizer, **options)
    for step in range(1, run.steps + 1):
        trainer.step()
        moved = trainer.bits()
        scheduler.step(*given)
        check_unchanged(trainer.named, moved, f"{name}.step():")
        for place, group in enumerate(trainer.optimizer.param_groups):
            wanted = first[place] * factor(step)
            check(
                math.isclose(group["lr"], wanted, rel_tol=1e-9),
                f"{name}: lr of group {place} is {group['lr']} after {step} steps, expected {wanted}",
            )
    for frozen in run.frozen:
        check_same_bits(trainer.named[frozen], trainer.before[frozen], f"frozen {frozen}")


@law("F9", "torch.optim.Optimizer.add_param_group documentation", PRECISE)
@given(data=st.data())
def test_added_group_leaves_frozen(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F9: parameters added by add_param_group: the frozen among them stand still, others train."""
    network = data.draw(mlps(min_depth=2, tied=False))
    mask = data.draw(freeze_masks(network))
    run = TrainingRun(network, frozen=mask, batch=4, seed=network.seed)
    trainer = Trainer(run, device, dtype)
    names = network.parameter_names()
    split = data.draw(st.integers(1, len(names) - 1))
    spec = OptimizerSpec("SGD", (("lr", 0.1), ("weight_decay", 0.1)))
    trainer.optimizer = spec.build([trainer.named[name] for name in names[:split]])
    trainer.optimizer.add_param_group({"params": [trainer.named[name] for name in names[split:]]})
    trainer.step()
    for name in names:
        if name in mask:
            check_same_bits(trainer.named[name], trainer.before[name], f"frozen {name}")
        elif bool((trainer.named[name].abs() > 0.1).any()):
            check(
                read_bits(trainer.named[name]) != trainer.before[name],
                f"live {name} did not move, with weight decay and a gradient",
            )


@law("F9", "torch.optim.Optimizer.load_state_dict documentation", "float32")
@given(data=st.data())
def test_loading_state_leaves_frozen(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F9: saving and loading net and optimizer half-way changes nothing: the same bits at the end."""
    run: TrainingRun = data.draw(training_runs(device=device, dtype=dtype, learns=True))
    # float32 only: loading casts NAdam's and ASGD's float32 scalars to the parameter's dtype
    straight = Trainer(run, device, dtype)
    straight.step()
    saved = copy.deepcopy((straight.network.state_dict(), straight.optimizer.state_dict()))
    other = dataclasses.replace(run.network, seed=run.network.seed + 1)
    loaded = Trainer(dataclasses.replace(run, network=other), device, dtype)
    loaded.network.load_state_dict(saved[0])
    loaded.optimizer.load_state_dict(saved[1])
    for name, parameter in loaded.named.items():
        flag = name not in run.frozen
        check_equal(parameter.requires_grad, flag, f"requires_grad of {name} after loading")
        kept = straight.named[name].grad
        if run.clearing == "keep" and kept is not None:  # gradients are no part of a state_dict
            parameter.grad = from_bits(read_bits(kept), parameter.shape, dtype).to(device)
    for _ in range(run.steps):
        straight.step()
        loaded.step()
    for name in run.frozen:
        check_same_bits(loaded.named[name], straight.before[name], f"frozen {name}")
    expected = straight.bits()
    for name, parameter in loaded.named.items():
        check_same_bits(parameter, expected[name], f"{name} after loading half-way")
    buffers = dict(straight.network.named_buffers())
    for name, buffer in loaded.network.named_buffers():
        check_same_bits(buffer, read_bits(buffers[name]), f"buffer {name} after loading half-way")


# These have fused kernels, which undo the scale, and leave the step out, by themselves.
SCALED = ("SGD", "Adam", "AdamW", "Adagrad")


def scaled_optimizers(device: str, dtype: torch.dtype) -> st.SearchStrategy[OptimizerSpec]:
    """Any of SCALED with any options; half of them fused, where this torch can. Shrinks to SGD."""
    # an eps that counts: without it Adam's step is the same at any scale
    options = {name: () if name == "SGD" else (("eps", 1e-3),) for name in SCALED}
    fused = [
        OptimizerSpec(name, (*options[name], ("fused", True), ("lr", 0.1)))
        for name in SCALED
        if "fused" in implementations(name, device, dtype)
    ]
    others = optimizers(names=SCALED, device=device, dtype=dtype)
    return others | st.sampled_from(fused) if fused else others


@law("F9", "torch.amp.GradScaler documentation", "float32")
@given(data=st.data())
def test_gradient_scaling_leaves_frozen(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F9: a scaled loss with unscaled gradients moves live parameters only."""
    network = data.draw(mlps(norms=False))
    mask = data.draw(freeze_masks(network))
    spec = data.draw(scaled_optimizers(device, dtype))
    run = TrainingRun(network, frozen=mask, optimizer=spec, batch=4, seed=network.seed)
    if not run.gets_gradient():
        run = dataclasses.replace(run, frozen=())
    plain, scaled = Trainer(run, device, dtype), Trainer(run, device, dtype)
    plain.backward()
    (scaled.loss() * 1024.0).backward()
    for name, parameter in scaled.named.items():
        ours, theirs = parameter.grad, plain.named[name].grad
        if name in run.frozen:
            check(ours is None and theirs is None, f"frozen {name} got a gradient")
            continue
        if ours is None or theirs is None:
            fail(f"live {name} got no gradient")
        with torch.no_grad():
            check(
                bool(((ours / 1024.0 - theirs).abs() <= 1e-5 * (1e-3 + theirs.abs())).all()),
                f"gradient of {name} through a scaled loss is another",
            )
    scaler_class = getattr(getattr(torch, "amp", None), "GradScaler", None)
    if scaler_class is None or device.startswith("mps"):
        return
    scaler = scaler_class(device.partition(":")[0], init_scale=1024.0)
    trainer = Trainer(run, device, dtype)
    scaler.scale(trainer.loss()).backward()
    if network.seed % 2:  # asked for by hand, it must not be done again by step
        scaler.unscale_(trainer.optimizer)
        for name in run.gets_gradient():
            ours, theirs = trainer.named[name].grad, plain.named[name].grad
            assert ours is not None and theirs is not None
            check_close(ours, theirs, f"the unscaled gradient of {name}", 1e-6, 1e-9)
    scaler.step(trainer.optimizer)
    scaler.update()
    plain.apply()
    for name, parameter in trainer.named.items():
        if name in run.frozen:
            check_same_bits(parameter, trainer.before[name], f"frozen {name} under GradScaler")
        else:  # scaling by a power of two is exact
            check_close(parameter, plain.named[name], f"{name} under GradScaler", 1e-6, 1e-9)
    check_overflow_skipped(trainer, scaler)


def check_overflow_skipped(trainer: Trainer, scaler: Any) -> None:
    """Where one gradient is infinite the step moves nothing, and the scale is halved."""
    __tracebackhide__ = True
    trainer.clear()
    scaler.scale(trainer.loss()).backward()
    last = [parameter for parameter in trainer.named.values() if parameter.grad is not None][-1]
    with torch.no_grad():
        last.grad.view(-1)[-1] = math.inf  # type: ignore[union-attr]
    before, scale = trainer.bits(), scaler.get_scale()
    scaler.step(trainer.optimizer)
    check_unchanged(trainer.named, before, "a step of GradScaler with an infinite gradient moved")
    scaler.update()
    check_equal(scaler.get_scale(), scale / 2, "the scale after an infinite gradient")


@law("F6 F9", "torch.optim.Optimizer.zero_grad documentation", FLOATING)
@given(data=st.data())
def test_zero_grad_clears_all(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F6: zero_grad, of optimizer or module, clears every gradient, of those frozen midway too."""
    run: TrainingRun = data.draw(training_runs(device=device, dtype=dtype, learns=True, cuts=False))
    set_to_none, whole = data.draw(st.booleans()), data.draw(st.booleans())
    trainer = Trainer(dataclasses.replace(run, frozen=(), listed="all"), device, dtype)
    trainer.backward()
    freeze(trainer.named, run.frozen, run.freezing)
    clearing: Any = trainer.network if whole else trainer.optimizer
    clearing.zero_grad(set_to_none=set_to_none)
    for name in trainer.named if whole else trainer.listed:
        parameter = trainer.named[name]
        check_equal(parameter.requires_grad, name not in run.frozen, f"requires_grad of {name}")
        check_same_bits(parameter, trainer.before[name], f"{name} after zero_grad")
        if set_to_none:
            check(parameter.grad is None, f"{name} still has a gradient after zero_grad")
        else:
            zeros = parameter.grad is not None and not bool((parameter.grad != 0).any())
            check(zeros, f"the gradient of {name} is not zero after zero_grad")
