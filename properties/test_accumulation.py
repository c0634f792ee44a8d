"""Accumulation and ownership: what several passes leave in ``.grad``, and whose memory it is."""

from typing import Dict, List, Optional

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
)
from frostproof.properties.harness.core.law import FLOATING, law, part
from frostproof.properties.harness.operators.comparison import overlap
from frostproof.strategies.capabilities import NotOffered, refuses
from frostproof.strategies.gates import GatedNet, gate_masks, gated_nets

# "meet": two parameters of each net meet as views in one sum, as gains and gates of images do.
MEETING = {"apart": False, "meet": True}
SCALE = 1024.0  # of a loss
everywhere = pytest.mark.parametrize("kind", list(MEETING))


def nets(kind: str, device: str, dtype: torch.dtype) -> st.SearchStrategy[GatedNet]:
    """Nets whose parameters meet as views, or never do."""
    return gated_nets(meeting=MEETING[kind], device=device, dtype=dtype)


def one_pass(
    net: GatedNet, device: str, dtype: torch.dtype, scale: float = 1.0
) -> Dict[str, torch.Tensor]:
    """The gradient of each parameter after one pass with nothing frozen, by ``autograd.grad``.

    scale: of the loss, a power of two; undone in the gradients.
    """
    made = net.build(device, dtype)
    names = net.parameter_names()
    found = torch.autograd.grad(net.run(made)[1] * scale, [made[name] for name in names])
    return {name: gradient / scale for name, gradient in zip(names, found)}


@law("G1", "torch.Tensor.backward documentation: gradients accumulate in the leaves", FLOATING)
@everywhere
@part(3, least=10)
@given(data=st.data())
def test_passes_add_up(device: str, dtype: torch.dtype, kind: str, data: st.DataObject) -> None:
    """G1: n backward passes leave n times one gradient, whatever is frozen, cloned or cleared."""
    net: GatedNet = data.draw(nets(kind, device, dtype))
    frozen, cloned = data.draw(gate_masks(net)), data.draw(gate_masks(net))
    passes, clearing = data.draw(st.integers(2, 4)), data.draw(st.sampled_from(("none", "zero")))
    once = one_pass(net, device, dtype)
    made = net.build(device, dtype)
    for name in frozen:
        made[name].requires_grad = False
    if clearing == "zero":
        for name in once:
            made[name].grad = None if name in frozen else torch.zeros_like(made[name])
    for _ in range(passes):
        net.run(made, cloned)[1].backward()
    for name, gradient in once.items():
        expected: Optional[bytes] = None
        if name not in frozen:
            total = gradient.clone()
            for _ in range(passes - 1):
                total += gradient
            expected = read_bits(total + 0.0 if clearing == "zero" else total)
        check_same_gradient(made[name], expected, f"gradient of {name} after {passes} passes")


@law("G2", "PyTorch notes, Autograd mechanics; torch.Tensor.grad documentation", FLOATING)
@everywhere
@part(3, least=10)
@given(data=st.data())
def test_gradients_own_their_memory(
    device: str, dtype: torch.dtype, kind: str, data: st.DataObject
) -> None:
    """G2: no gradient shares memory with another, with a parameter, the output or the loss."""
    net: GatedNet = data.draw(nets(kind, device, dtype))
    frozen = data.draw(gate_masks(net))
    made = net.build(device, dtype)
    for name in frozen:
        made[name].requires_grad = False
    output, loss = net.run(made)
    loss.backward()
    rest = {**made, "the output": output.detach(), "the loss": loss.detach()}
    seen: List[str] = []
    for name in net.parameter_names():
        gradient = made[name].grad
        check_equal(gradient is not None, name not in frozen, f"whether {name} has a gradient")
        if gradient is None:
            continue
        for other in seen:
            earlier = made[other].grad
            assert earlier is not None
            check(not overlap(gradient, earlier), f"the gradients of {other} and {name} share memory")
        for other, tensor in rest.items():
            check(
                not overlap(gradient, tensor.detach()),
                f"the gradient of {name} shares memory with {other}",
            )
        seen.append(name)


WAYS_BACK = {
    "apart": ("{p} * 1.0", "{p} + 0.0", "{p}.clone()", "{p}.tanh()", "{p} + {p}"),
    "view": (
        "{p}.view(2, 2)",
        "{p}.reshape(2, 2)",
        "{p}.unsqueeze(0)",
        "{p}.view(2, 2).t()",
        "{p}[None, :, None]",
        "{p}.view_as({p})",
    ),
}


@law("G2", "torch.Tensor.backward documentation, gradient", FLOATING)
@pytest.mark.parametrize("kind", list(WAYS_BACK))
@part(3, least=10)
@given(data=st.data())
def test_given_gradient_stays(device: str, dtype: torch.dtype, kind: str, data: st.DataObject) -> None:
    """G2: what the caller gives to backward keeps its bits, and is nobody's ``.grad``."""
    code = data.draw(st.sampled_from(WAYS_BACK[kind])).format(p="p")
    p = torch.tensor([1.0, -2.0, 0.0, 3.0], device=device, dtype=dtype, requires_grad=True)
    output = eval(code, {"p": p, "torch": torch})
    mine = torch.ones_like(output)
    before = read_bits(mine)
    for turn in (1, 2):
        eval(code, {"p": p, "torch": torch}).backward(mine)
        check_same_bits(mine, before, f"the caller's gradient after pass {turn} through {code}")
        assert p.grad is not None
        check(not overlap(p.grad, mine), f"p.grad shares memory with what backward({code}) was given")


@law("G3", "torch.nn.utils.clip_grad_norm_ documentation", FLOATING)
@everywhere
@part(3, least=10)
@given(data=st.data())
def test_clipping_leaves_the_norm_asked_for(
    device: str, dtype: torch.dtype, kind: str, data: st.DataObject
) -> None:
    """G3: after ``clip_grad_norm_`` the norm of all gradients is what was asked, if it was more."""
    net: GatedNet = data.draw(nets(kind, device, dtype))
    frozen = data.draw(gate_masks(net))
    share = data.draw(st.sampled_from((0.5, 0.25, 1.0, 4.0)))
    made = net.build(device, dtype)
    for name in frozen:
        made[name].requires_grad = False
    net.run(made)[1].backward()
    live = [made[name] for name in net.parameter_names() if name not in frozen]

    def norm() -> torch.Tensor:
        squares = [p.grad.to(torch.float64).pow(2).sum() for p in live if p.grad is not None]
        return torch.stack(squares).sum().sqrt()

    before = norm()
    torch.nn.utils.clip_grad_norm_(
        [made[name] for name in net.parameter_names()], float(before) * share
    )
    tolerance = 16 * torch.finfo(dtype).eps
    check_close(norm(), before * min(share, 1.0), "the norm after clipping", tolerance, 1e-5)


def scaler_for(device: str) -> Optional[torch.nn.Module]:
    """A gradient scaler for a device; None where this torch has none for it."""
    made = getattr(getattr(torch, "amp", None), "GradScaler", None)
    if made is None:
        return None
    kind = torch.device(device).type
    scaler = made(kind, init_scale=SCALE)
    return scaler if scaler.is_enabled() else None


@law("G3", "torch.amp.GradScaler.unscale_ documentation", FLOATING)
@everywhere
@part(3, least=10)
@given(data=st.data())
def test_unscaling_undoes_the_scale_once(
    device: str, dtype: torch.dtype, kind: str, data: st.DataObject
) -> None:
    """G3: a scaled loss, ``unscale_``: every gradient is divided by the scale, once, to the bit."""
    net: GatedNet = data.draw(nets(kind, device, dtype))
    frozen = data.draw(gate_masks(net))
    once = one_pass(net, device, dtype, SCALE)  # scaled too: what underflows otherwise is kept
    scaler = scaler_for(device)
    if scaler is None:
        raise NotOffered("torch.amp.GradScaler: none for this device")
    made = net.build(device, dtype)
    for name in frozen:
        made[name].requires_grad = False
    scaler.scale(net.run(made)[1]).backward()  # type: ignore[operator]
    try:
        scaler.unscale_(torch.optim.SGD([made[name] for name in once], lr=0.1))  # type: ignore[operator]
    except Exception as problem:
        if refuses(problem):
            raise NotOffered(f"GradScaler.unscale_: {problem}") from None
        raise
    for name, gradient in once.items():
        expected = None if name in frozen else read_bits(gradient)
        check_same_gradient(made[name], expected, f"gradient of {name} after unscale_")
