"""Freezing by requires_grad = False: what stands still, and what still learns."""

import dataclasses
import functools
import math
from typing import Any, Dict, List, Optional

import torch
from hypothesis import event, given
from hypothesis import strategies as st

from properties.harness.bits import from_bits, read_bits
from properties.harness.checks import (
    check,
    check_close,
    check_equal,
    check_raises,
    check_same_bits,
    check_unchanged,
    fail,
    snapshot,
)
from properties.harness.law import ANY, DIFFERENTIABLE, FLOATING, PRECISE, law
from properties.harness.layout import (
    ATTACHED,
    attach,
    autograd_state,
    geometry,
    storage_address,
)
from properties.harness.trainer import Trainer, freeze
from strategies import (
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


def _state_bits(trainer: Trainer, name: str) -> Dict[str, Any]:
    """What the optimizer keeps for a parameter, as bits; looking makes no state."""
    found: Dict[str, Any] = {}
    for key, state in trainer.optimizer.state.items():
        if key is trainer.named[name]:
            found = {
                entry: read_bits(value) if isinstance(value, torch.Tensor) else value
                for entry, value in sorted(state.items())
            }
    return found


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
    run: TrainingRun = data.draw(training_runs(device=device, dtype=dtype))
    event(f"optimizer {run.optimizer.name}")
    trainer = Trainer(run, device, dtype)
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
                check_same_bits_or_none(masked, name, gradient, expected[name])


def check_same_bits_or_none(
    trainer: Trainer, name: str, gradient: Optional[bytes], expected: Optional[bytes]
) -> None:
    """A gradient equals an expected one, where None equals only None."""
    __tracebackhide__ = True
    if gradient is None or expected is None:
        check(gradient is expected, f"gradient of {name}: one is None, the other is not")
    else:
        grad = trainer.named[name].grad
        assert grad is not None
        check_same_bits(grad, expected, f"gradient of {name}")


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
    freeze(trainer.network, mask, run.freezing)
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
    freeze(trainer.network, mask, "attribute")
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
    freeze(trainer.network, (name,), "attribute")
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
        check_same_bits_or_none(trainer, name, gradient, expected[name])
    before = trainer.bits()
    trainer.apply()
    for name in mask:
        grad = trainer.named[name].grad
        assert grad is not None
        if bool((grad.abs() > 0.05).any()):
            check(read_bits(trainer.named[name]) != before[name], f"unfrozen {name} did not move")


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
    freeze(trainer.network, mask, "method")
    trainer.run = dataclasses.replace(run, frozen=mask)
    before = {frozen: _state_bits(trainer, frozen) for frozen in mask}
    check(any(before.values()), f"{name} keeps no state at all")
    trainer.step()
    trainer.step()
    for frozen in mask:
        check_equal(_state_bits(trainer, frozen), before[frozen], f"state of frozen {frozen}")


@law("F9", "torch.nn.utils.clip_grad_norm_ documentation", FLOATING)
@given(data=st.data())
def test_clipping_leaves_frozen(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F9: clipping by norm or value scales live gradients only, and moves nothing itself."""
    run: TrainingRun = data.draw(training_runs(device=device, dtype=dtype, learns=True))
    trainer = Trainer(run, device, dtype)
    trainer.backward()
    by_norm = data.draw(st.booleans())
    if by_norm:
        torch.nn.utils.clip_grad_norm_(trainer.network.parameters(), 1e-3)
    else:
        torch.nn.utils.clip_grad_value_(trainer.network.parameters(), 1e-3)
    check_unchanged(trainer.named, trainer.before, "clipping moved")
    for name, parameter in trainer.named.items():
        if name in run.gets_gradient():
            check(parameter.grad is not None, f"clipping lost the gradient of {name}")
            assert parameter.grad is not None
            largest = float(parameter.grad.abs().max())
            check(largest <= 1.1e-3, f"clipped gradient of {name} still reaches {largest}")
        else:
            check(parameter.grad is None, f"clipping gave {name} a gradient")
    if not run.optimizer.needs_closure:
        trainer.apply()
    for name in run.frozen:
        check_same_bits(trainer.named[name], trainer.before[name], f"frozen {name} after clipping")


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
    for times in (2, 3):
        trainer.backward()
        total = {name: gradient + single[name] for name, gradient in total.items()}
        for name, bits in trainer.gradient_bits().items():
            if name not in total:
                check(bits is None, f"{name} got a gradient at backward number {times}")
            else:
                check_same_bits_or_none(trainer, name, bits, read_bits(total[name]))


# Name, options, and the factor on the first rate after n steps. Never 0: LBFGS divides by it.
SCHEDULERS: List[Any] = [
    ("StepLR", {"step_size": 2, "gamma": 0.5}, lambda n: 0.5 ** (n // 2)),
    ("ExponentialLR", {"gamma": 0.5}, lambda n: 0.5**n),
    ("CosineAnnealingLR", {"T_max": 9}, lambda n: (1 + math.cos(math.pi * n / 9)) / 2),
]


@law("F9", "torch.optim.lr_scheduler documentation", FLOATING)
@given(data=st.data())
def test_schedulers_leave_frozen(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F9: a scheduler sets each group's rate by its formula and moves no parameter itself."""
    run: TrainingRun = data.draw(training_runs(device=device, dtype=dtype, learns=True))
    trainer = Trainer(run, device, dtype)
    if not isinstance(trainer.optimizer.param_groups[0]["lr"], float):
        return  # a tensor learning rate is changed in place by some schedulers
    name, options, factor = data.draw(st.sampled_from(SCHEDULERS))
    for place, group in enumerate(trainer.optimizer.param_groups):
        group["lr"] = group["lr"] / (place + 1)
    first = [group["lr"] for group in trainer.optimizer.param_groups]
    scheduler = getattr(torch.optim.lr_scheduler, name)(trainer.optimizer, **options)
    for step in range(1, run.steps + 1):
        trainer.step()
        moved = trainer.bits()
        scheduler.step()
        check_equal(trainer.bits(), moved, f"{name}.step() moved a parameter")
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
    network = data.draw(mlps(min_depth=2))
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
    """F9: saving and loading the optimizer half-way changes nothing: the same bits at the end."""
    run: TrainingRun = data.draw(training_runs(device=device, dtype=dtype, learns=True))
    # float32 only: loading casts NAdam's and ASGD's float32 scalars to the parameter's dtype
    straight = Trainer(run, device, dtype)
    loaded = Trainer(run, device, dtype)
    straight.step()
    loaded.step()
    saved = loaded.optimizer.state_dict()
    loaded.optimizer = loaded.build_optimizer()
    loaded.optimizer.load_state_dict(saved)
    flags = {name: parameter.requires_grad for name, parameter in loaded.named.items()}
    loaded.network.load_state_dict({key: value for key, value in loaded.network.state_dict().items()})
    for name, flag in flags.items():
        check_equal(loaded.named[name].requires_grad, flag, f"requires_grad of {name} after loading")
    for _ in range(run.steps):
        straight.step()
        loaded.step()
    for name in run.frozen:
        check_same_bits(loaded.named[name], loaded.before[name], f"frozen {name}")
    expected = straight.bits()
    for name, parameter in loaded.named.items():
        check_same_bits(parameter, expected[name], f"{name} after loading half-way")


@law("F9", "torch.amp.GradScaler documentation", "float32")
@given(network=mlps(norms=False), data=st.data())
def test_gradient_scaling_leaves_frozen(
    device: str, dtype: torch.dtype, network: MLP, data: st.DataObject
) -> None:
    """F9: a scaled loss with unscaled gradients moves live parameters only."""
    mask = data.draw(freeze_masks(network))
    run = TrainingRun(network, frozen=mask, batch=4, seed=network.seed)
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
    scaler.step(trainer.optimizer)
    scaler.update()
    plain.apply()
    for name, parameter in trainer.named.items():
        if name in run.frozen:
            check_same_bits(parameter, trainer.before[name], f"frozen {name} under GradScaler")
        else:  # scaling by a power of two is exact
            check_close(parameter, plain.named[name], f"{name} under GradScaler", 1e-6, 1e-9)


@law("F6 F9", "torch.optim.Optimizer.zero_grad documentation", FLOATING)
@given(data=st.data())
def test_zero_grad_clears_all(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F6: zero_grad clears every listed gradient, of those frozen midway too, and nothing else."""
    run: TrainingRun = data.draw(training_runs(device=device, dtype=dtype, learns=True, cuts=False))
    set_to_none, by = data.draw(st.booleans()), data.draw(st.sampled_from(("optimizer", "net")))
    trainer = Trainer(dataclasses.replace(run, frozen=(), listed="all"), device, dtype)
    trainer.backward()
    freeze(trainer.network, run.frozen, run.freezing)
    clearing = trainer.optimizer if by == "optimizer" else trainer.network
    clearing.zero_grad(set_to_none=set_to_none)
    for name in trainer.listed:
        parameter = trainer.named[name]
        check_equal(parameter.requires_grad, name not in run.frozen, f"requires_grad of {name}")
        check_same_bits(parameter, trainer.before[name], f"{name} after zero_grad")
        if set_to_none:
            check(parameter.grad is None, f"{name} still has a gradient after zero_grad")
        else:
            zeros = parameter.grad is not None and not bool((parameter.grad != 0).any())
            check(zeros, f"the gradient of {name} is not zero after zero_grad")
