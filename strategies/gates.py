"""Random nets of gains and gates: parameters of shape (channels,) that meet a value as views.

A layer such as ``Linear`` never hands one gradient to two parameters; gains, gates and
shifts of images do, wherever two of them are added to each other.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Dict, FrozenSet, List, Optional, Sequence, Tuple

import torch
from hypothesis import strategies as st

from frostproof.strategies.digits import Digits, read_as
from frostproof.strategies.freezing import Mask

# How a parameter p of shape (channels,) becomes one that fits (batch, channels, side, side).
BROADCASTS: Dict[str, str] = {
    "view": "{p}.view(1, -1, 1, 1)",
    "reshape": "{p}.reshape(1, -1, 1, 1)",
    "index": "{p}[None, :, None, None]",
    "unsqueeze": "{p}.unsqueeze(0).unsqueeze(2).unsqueeze(3)",
    "transpose": "{p}.view(1, 1, 1, -1).transpose(1, 3)",
    "permute": "{p}.view(-1, 1, 1, 1).permute(1, 0, 2, 3)",
    "short": "{p}.view(-1, 1, 1)",
    "expand": "{p}.view(1, -1, 1, 1).expand_as(x)",
    "clone": "{p}.view(1, -1, 1, 1).clone()",
    "product": "{p}.view(1, -1, 1, 1) * 1",
}
# Those through which a gradient comes as it is, apart by their shape; the others compute a new one.
PASSING = (("view", "reshape", "index", "unsqueeze", "transpose", "permute", "clone"), ("short",))
# What two parameters, fitted, do to the value x.
ACTS: Dict[str, str] = {
    "scale": "x * ({a} + {b})",
    "gated": "x * {a} + {b}",
    "shift": "x + ({a} + {b})",
    "residual": "x + x * {a} * {b}",
    "difference": "x * ({a} - {b})",
}
# One parameter for each of two parts, one packed parameter in chunks, or one used twice.
SOURCES = ("two", "packed", "twice")
LOSSES: Dict[str, str] = {
    "sum": "x.sum()",
    "mse": "F.mse_loss(x, t)",
    "l1": "F.l1_loss(x, t, reduction='sum')",
    "smooth_l1": "F.smooth_l1_loss(x, t)",
    "weighted": "(x * t).sum()",
    "bce": "F.binary_cross_entropy_with_logits(x, t.sigmoid())",
    "cross_entropy": "F.cross_entropy(x.sum((2, 3)), torch.zeros(len(x), device=x.device).long())",
    "kl_div": "F.kl_div(x.flatten(1).log_softmax(1), t.flatten(1).softmax(1), reduction='sum')",
    "logsumexp": "x.flatten(1).logsumexp(1).sum()",
    "mean": "x.pow(2).mean()",
}


@dataclass(frozen=True)
class Gate:
    """One stage: two parts a and b, each in its way, acting on the value.

    act: a key of ACTS; ways: of a and of b, keys of BROADCASTS; source: of SOURCES.
    """

    act: str = "scale"
    ways: Tuple[str, str] = ("view", "view")
    source: str = "two"
    relu: bool = False


@dataclass(frozen=True)
class GatedNet:
    """A value of shape (batch, channels, side, side) behind some gates, and a loss, as plain values.

    The values of parameters, input and target are whole numbers from -2 to 2, without 0 in the
    parameters, drawn from ``seed``.
    """

    channels: int = 1
    gates: Tuple[Gate, ...] = (Gate(),)
    loss: str = "sum"
    batch: int = 2
    side: int = 1
    seed: int = 0

    @cached_property
    def shapes(self) -> Dict[str, int]:
        """The size of each parameter by name, in order."""
        found = {}
        for place, gate in enumerate(self.gates):
            if gate.source == "two":
                found[f"a{place}"] = found[f"b{place}"] = self.channels
            else:
                found[f"a{place}"] = self.channels * (2 if gate.source == "packed" else 1)
        return found

    def parameter_names(self) -> Tuple[str, ...]:
        """Every parameter, in order."""
        return tuple(self.shapes)

    def meeting(self, frozen: Sequence[str] = ()) -> FrozenSet[str]:
        """The live parameters that meet another live one as views, in one sum of one shape."""
        met: List[str] = []
        for place, gate in enumerate(self.gates):
            names = [f"a{place}", f"b{place}"]
            alike = gate.source == "two" and gate.act in ("scale", "shift")
            passing = any(set(gate.ways) <= set(ways) for ways in PASSING)
            if alike and passing and not set(names) & set(frozen):
                met += names
        return frozenset(met)

    def forward(self, cloned: Sequence[str] = ()) -> List[str]:
        """The net as code: from ``x``, ``t`` and the parameters to ``x`` and ``loss``."""
        lines = []
        for place, gate in enumerate(self.gates):
            names = {"two": (f"a{place}", f"b{place}"), "twice": (f"a{place}", f"a{place}")}
            pair: Sequence[str] = names.get(gate.source, ())
            pair = [f"{name}.clone()" if name in cloned else name for name in pair]
            if gate.source == "packed":
                packed = f"a{place}.clone()" if f"a{place}" in cloned else f"a{place}"
                lines.append(f"u, v = {packed}.chunk(2)")
                pair = ["u", "v"]
            a, b = (BROADCASTS[way].format(p=name) for way, name in zip(gate.ways, pair))
            lines.append(f"x = {ACTS[gate.act].format(a=a, b=b)}")
            if gate.relu:
                lines.append("x = x.relu()")
        return [*lines, f"loss = {LOSSES[self.loss]}"]

    def values(self) -> Dict[str, torch.Tensor]:
        """Parameters by name, and the input "x" and the target "t": float64 on the CPU."""
        generator = torch.Generator()
        generator.manual_seed(self.seed)
        made = {}
        for name, size in self.shapes.items():
            drawn = torch.randint(0, 4, (size,), generator=generator)
            made[name] = torch.tensor([-2.0, -1.0, 1.0, 2.0], dtype=torch.float64)[drawn]
        shape = (self.batch, self.channels, self.side, self.side)
        for name in ("x", "t"):
            made[name] = torch.randint(-2, 3, shape, generator=generator).to(torch.float64)
        return made

    def build(self, device: str, dtype: torch.dtype) -> Dict[str, torch.Tensor]:
        """Fresh parameters that require grad, and the input and target."""
        made = {name: value.to(device, dtype) for name, value in self.values().items()}
        for name in self.shapes:
            made[name] = torch.nn.Parameter(made[name])
        return made

    def run(
        self, made: Dict[str, torch.Tensor], cloned: Sequence[str] = ()
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """(output, loss) of the net on these tensors."""
        scope: Dict[str, Any] = {"torch": torch, "F": torch.nn.functional, **made}
        exec("\n".join(self.forward(cloned)), scope)
        return scope["x"], scope["loss"]

    def code(self, device: str, dtype: torch.dtype) -> Tuple[str, Tuple[str, ...]]:
        """``build`` as plain torch code, and the names that it defines."""
        place = "" if device == "cpu" else f", device={device!r}"
        lines = []
        for name, value in self.values().items():
            made = f"torch.tensor({value.tolist()}, dtype={dtype}{place})"
            lines.append(
                f"{name} = torch.nn.Parameter({made})" if name in self.shapes else f"{name} = {made}"
            )
        return "\n".join(lines), (*self.shapes, "x", "t")


GATE_DIGITS = 5
MOST_GATES = 3
NET_DIGITS = 8 + MOST_GATES * GATE_DIGITS


@cache
def losses(device: str, dtype: torch.dtype) -> Tuple[str, ...]:
    """The losses that have a kernel for a dtype on a device."""
    found = []
    for loss in LOSSES:
        net = GatedNet(channels=2, loss=loss)
        try:
            net.run(net.build(device, dtype))[1].backward()
        except RuntimeError as problem:
            if "not implemented" in str(problem):
                continue
        found.append(loss)
    return tuple(found)


def read_gated(
    digits: Digits, meeting: Optional[bool], offered: Sequence[str] = tuple(LOSSES)
) -> GatedNet:
    """A net from ``NET_DIGITS`` bytes: see ``gated_nets``."""
    count, channels = 1 + digits.below(MOST_GATES), 1 + digits.below(4)
    loss = digits.one_of(offered)
    batch, side = 2 + digits.below(2), 1 + digits.below(2)
    seed = digits.bits(2)
    where = digits.below(count)  # the gate that has to meet
    gates = []
    for place in range(count):
        act, source = digits.one_of(tuple(ACTS)), digits.one_of(SOURCES)
        ways = [digits.one_of(tuple(BROADCASTS)), digits.one_of(tuple(BROADCASTS))]
        relu = digits.below(4) == 3
        if meeting and place == where:
            act, source = ("scale", "shift")[act != "scale"], "two"
            ways = [way if way in PASSING[0] else "view" for way in ways]
        gate = Gate(act, (ways[0], ways[1]), source, relu)
        if meeting is False and GatedNet(gates=(gate,)).meeting():
            gate = Gate(act, ("product", ways[1]), source, relu)
        gates.append(gate)
    digits.skip((MOST_GATES - count) * GATE_DIGITS)
    return GatedNet(channels, tuple(gates), loss, batch, side, seed)


@cache
def gated_nets(
    *, meeting: Optional[bool] = None, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> st.SearchStrategy[GatedNet]:
    """Nets of gains and gates, with those of ten losses that run in a dtype on a device.

    meeting: whether two parameters of the net meet as views in one sum (None: as it comes).
    Shrinks towards one gate x * (a + b) of one channel, both seen by ``view``, and a sum.
    """
    return read_as(NET_DIGITS, lambda digits: read_gated(digits, meeting, losses(device, dtype)))


def gate_masks(net: GatedNet) -> st.SearchStrategy[Mask]:
    """What to freeze of a net: never all of it. Shrinks towards nothing."""
    names = net.parameter_names()

    def read(digits: Digits) -> Mask:
        bits = digits.bits(1)
        mask = tuple(name for place, name in enumerate(names) if bits >> place & 1)
        return mask if len(mask) < len(names) else ()

    return read_as(1, read)
