"""Random multilayer perceptrons, drawn as plain descriptions and built on demand."""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Callable, Dict, FrozenSet, Iterable, Iterator, List, Optional, Tuple

import torch
from hypothesis import strategies as st

from frostproof.strategies.capabilities import PREPARATIONS, accepts, require
from frostproof.strategies.digits import Digits, read_as
from frostproof.strategies.network_code import network_code, network_places, program_names

ACTIVATIONS = (
    "identity",
    "relu",
    "tanh",
    "leaky_relu",
    "elu",
    "gelu",
    "silu",
    "sigmoid",
    "softplus",
)
NORMS = ("none", "layer", "batch")
# To reach faults that depend on size: powers of two, their neighbours, and what lies between.
WIDE = (48, 56, 64, 65, 96, 100, 128, 129, 150, 200, 201, 224, 256, 257, 280, 300)


@cache
def made_in_place() -> bool:
    """Whether modules take a device and a dtype (not on torch 1.8)."""
    return accepts(lambda: torch.nn.Linear(1, 1, device="cpu", dtype=torch.float32))


ACTIVATION_MODULES: Dict[str, Callable[[], torch.nn.Module]] = {
    "relu": lambda: torch.nn.ReLU(),
    "leaky_relu": lambda: torch.nn.LeakyReLU(),
    "elu": lambda: torch.nn.ELU(),
    "gelu": lambda: torch.nn.GELU(),
    "silu": lambda: torch.nn.SiLU(),
    "tanh": lambda: torch.nn.Tanh(),
    "sigmoid": lambda: torch.nn.Sigmoid(),
    "softplus": lambda: torch.nn.Softplus(),
}


@dataclass(frozen=True)
class Layer:
    """One layer: ``activation(norm(linear(x)))``, plus an earlier input where ``skip`` says so.

    width: out_features of the linear map.
    norm: "none", "layer" (LayerNorm) or "batch" (BatchNorm1d), before the activation.
    skip: 0 for none; k adds the input of the layer k - 1 places earlier (1: its own).
    tied: the weight is the same Parameter as the previous layer's.
    """

    width: int
    bias: bool = True
    activation: str = "identity"
    norm: str = "none"
    skip: int = 0
    tied: bool = False


@dataclass(frozen=True)
class MLP:
    """A multilayer perceptron as plain values: builds the same net whenever asked.

    inputs: in_features of the first layer; layers: first to last; nested: group
    the layers in pairs, each a Sequential of its own; seed: of the weights.
    """

    inputs: int
    layers: Tuple[Layer, ...]
    nested: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for index, layer in enumerate(self.layers):
            if layer.activation not in ACTIVATIONS or layer.norm not in NORMS:
                raise ValueError(f"layer {index}: unknown activation or norm in {layer}")
            if layer.skip and (
                layer.skip > index + 1 or self.width_at(index + 1 - layer.skip) != layer.width
            ):
                raise ValueError(f"layer {index}: nothing of width {layer.width} to add by its skip")
            if layer.tied and (index == 0 or self._shape(index) != self._shape(index - 1)):
                raise ValueError(f"layer {index}: no previous weight of its shape to be tied to")

    @property
    def depth(self) -> int:
        return len(self.layers)

    def width_at(self, position: int) -> int:
        """Features of the value at a position: 0 is the input, ``depth`` the output."""
        return self.layers[position - 1].width if position else self.inputs

    def _shape(self, index: int) -> Tuple[int, int]:
        return self.layers[index].width, self.width_at(index)

    def prefix(self, index: int) -> str:
        """The qualified name of a layer's module."""
        return f"layers.{index // 2}.{index % 2}" if self.nested else f"layers.{index}"

    def parameters_by_layer(self) -> Tuple[Tuple[str, ...], ...]:
        """Parameter names that each layer uses; a tied weight goes by its first name."""
        return self._by_layer

    @cached_property
    def _by_layer(self) -> Tuple[Tuple[str, ...], ...]:
        names: List[Tuple[str, ...]] = []
        for index, layer in enumerate(self.layers):
            prefix = self.prefix(index)
            own = [names[-1][0] if layer.tied else f"{prefix}.linear.weight"]
            if layer.bias:
                own.append(f"{prefix}.linear.bias")
            if layer.norm != "none":
                own += [f"{prefix}.norm.weight", f"{prefix}.norm.bias"]
            names.append(tuple(own))
        return tuple(names)

    def parameter_names(self) -> Tuple[str, ...]:
        """Every parameter once, in the order of ``named_parameters()``."""
        return self._names

    @cached_property
    def _names(self) -> Tuple[str, ...]:
        return tuple(dict.fromkeys(name for names in self.parameters_by_layer() for name in names))

    def reached(self, cuts: Iterable[int] = (), cut_by: str = "detach") -> FrozenSet[str]:
        """The parameters with a path to the output that no cut blocks."""
        positions = frozenset(cuts)
        by_layer = self.parameters_by_layer()
        blocked = max(positions, default=0) if cut_by == "no_grad" else 0
        reach: List[FrozenSet[str]] = [frozenset()]  # at each position, before a cut there
        for index, layer in enumerate(self.layers):
            if index < blocked:
                reach.append(frozenset())
                continue
            through = frozenset() if index in positions else reach[index]
            here = through | frozenset(by_layer[index])
            if layer.skip:
                here |= reach[index + 1 - layer.skip]
            reach.append(here)
        return frozenset() if self.depth in positions else reach[-1]

    def code(self, device: str, dtype: torch.dtype) -> Tuple[str, Tuple[str, ...]]:
        """``build`` as plain torch code, and the name that it defines."""
        return network_code(self, device, dtype), ("net",)

    def build(self, device: str = "cpu", dtype: torch.dtype = torch.float32) -> "Network":
        """A fresh module on a device, weights drawn on the CPU from ``seed`` alone."""
        for layer in self.layers:
            for kernel in (layer.activation, f"{layer.norm}_norm"):
                if kernel in PREPARATIONS:
                    require(kernel, device, dtype)
        network = Network(self, device, dtype)
        parameters = network.made()
        generator = torch.Generator()
        generator.manual_seed(self.seed)
        few = sum(parameter.numel() for parameter in parameters) <= 4096
        drawn = torch.float64 if few else torch.float32  # half the time where it counts
        with torch.no_grad():
            for name, parameter in zip(self.parameter_names(), parameters):
                middle, reach = 0.0, 1.0
                if parameter.dim() == 2:  # keeps the values at ordinary sizes at any width
                    reach = 2.0 / parameter.shape[1] ** 0.5
                elif name.endswith("norm.weight"):
                    middle, reach = 1.0, 0.5
                ready = parameter.dtype is drawn and parameter.device.type == "cpu"
                values = parameter if ready else torch.empty(parameter.shape, dtype=drawn)
                values.uniform_(middle - reach, middle + reach, generator=generator)
                if not ready:
                    parameter.copy_(values)
        return network


class Linear(torch.nn.Linear):
    """``torch.nn.Linear`` without its random start: ``MLP.build`` sets every value."""

    def reset_parameters(self) -> None:
        """Leave the values as they are."""


class Block(torch.nn.Module):
    """The module of one ``Layer``; the skip is added by ``Network``."""

    def __init__(self, inputs: int, layer: Layer, made: Dict[str, Any]) -> None:
        super().__init__()
        self.linear = Linear(inputs, layer.width, bias=layer.bias, **made)
        self.norm: Optional[torch.nn.Module] = None
        if layer.norm == "layer":
            self.norm = torch.nn.LayerNorm(layer.width, **made)
        elif layer.norm == "batch":
            self.norm = torch.nn.BatchNorm1d(layer.width, **made)
        self.activation: Optional[torch.nn.Module] = None
        if layer.activation != "identity":
            self.activation = ACTIVATION_MODULES[layer.activation]()

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        value = self.linear(value)
        if self.norm is not None:
            value = self.norm(value)
        return value if self.activation is None else self.activation(value)


class Network(torch.nn.Module):
    """The module of an ``MLP``: input (batch, inputs), output (batch, last width)."""

    def __init__(self, description: MLP, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.description = description
        made: Dict[str, Any] = {"device": device, "dtype": dtype} if made_in_place() else {}
        blocks: List[torch.nn.Module] = []
        for index, layer in enumerate(description.layers):
            block = Block(description.width_at(index), layer, made)
            if layer.tied:
                block.linear.weight = blocks[-1].linear.weight  # type: ignore[assignment,union-attr]
            blocks.append(block)
        if description.nested:
            pairs = [blocks[start : start + 2] for start in range(0, len(blocks), 2)]
            blocks = [torch.nn.Sequential(*pair) for pair in pairs]
        self.layers = torch.nn.Sequential(*blocks)
        if not made_in_place():
            self.to(device=device, dtype=dtype)

    def made(self) -> List[torch.nn.Parameter]:
        """The parameters in order, a tied one once; ``parameters()`` takes as long as a layer."""
        found: Dict[int, torch.nn.Parameter] = {}
        for block in self.blocks():
            for module in (block.linear, block.norm):
                if module is not None:
                    for parameter in module._parameters.values():  # type: ignore[union-attr]
                        if parameter is not None:
                            found.setdefault(id(parameter), parameter)
        return list(found.values())

    def blocks(self) -> Iterator[torch.nn.Module]:
        """The layers' modules, first to last, however they are nested."""
        for child in self.layers:
            if isinstance(child, Block):
                yield child
            else:
                yield from child.children()

    def places(self) -> List[Tuple[Any, str]]:
        """Its parts, and where they are in what ``MLP.code`` writes."""
        return network_places(self)

    def program_names(self) -> Dict[str, str]:
        """The keys of its state_dict, and those in what ``MLP.code`` writes."""
        return program_names(self.description)

    def plainly_called(
        self, value: torch.Tensor, cuts: Iterable[int] = (), cut_by: str = "detach", at: Any = None
    ) -> bool:
        """Whether this call of it is its layers, one after the other."""
        return (
            not tuple(cuts) and at is None and not any(layer.skip for layer in self.description.layers)
        )

    def forward(
        self,
        value: torch.Tensor,
        cuts: Iterable[int] = (),
        cut_by: str = "detach",
        at: Any = None,
    ) -> torch.Tensor:
        """Run the net, cutting the graph at each position in ``cuts``.

        cut_by "detach" detaches the value that the next layer takes (a skip still
        takes it uncut); "no_grad" runs every layer before the last cut under
        ``torch.no_grad()``. ``at(position, value)``, where given, replaces the
        value at each position: how a clone is inserted.
        """
        positions = frozenset(cuts)
        blocked = max(positions, default=0) if cut_by == "no_grad" else 0
        layers = self.description.layers
        values = [value if at is None else at(0, value)]
        for index, block in enumerate(self.blocks()):
            if index < blocked:
                with torch.no_grad():
                    out = self._layer(block, layers[index], values, values[index])
            else:
                through = values[index]
                if index in positions:
                    through = through.detach()
                out = self._layer(block, layers[index], values, through)
            values.append(out if at is None else at(index + 1, out))
        return values[-1].detach() if len(layers) in positions else values[-1]

    @staticmethod
    def _layer(
        block: torch.nn.Module, layer: Layer, values: List[torch.Tensor], through: torch.Tensor
    ) -> torch.Tensor:
        out: torch.Tensor = block(through)
        # The layer's own input is values[-1].
        return out + values[-layer.skip] if layer.skip else out


LAYER_DIGITS = 6
HEAD_DIGITS = 5


def network_digits(max_depth: int) -> int:
    """How many bytes ``read_network`` takes."""
    return HEAD_DIGITS + LAYER_DIGITS * max_depth


def read_network(
    digits: Digits,
    *,
    min_depth: int = 1,
    max_depth: int = 6,
    max_width: int = WIDE[-1],
    norms: bool = True,
    skips: bool = True,
    tied: bool = True,
) -> MLP:
    """A network from ``network_digits(max_depth)`` bytes: see ``mlps``."""
    depth = min_depth + digits.below(max_depth - min_depth + 1)
    inputs = _width(digits, max_width)
    nested = digits.below(2) == 1
    seed = digits.bits(2)
    layers: List[Layer] = []
    reach = [inputs]
    for index in range(depth):
        width = _width(digits, max_width)
        bias = digits.below(3) < 2
        activation = digits.one_of(ACTIVATIONS)
        norm = digits.one_of(("none", "none", "none", "layer", "batch"))
        tie, skip = digits.below(5) == 4, digits.below(6)
        is_tied = False
        if tied and tie and index:
            # A tied weight needs a square pair: fit this layer to the one before.
            width = reach[-1]
            is_tied = reach[-2] == reach[-1]
        if skips and skip >= 3:
            skip = min(skip - 2, index + 1)
            if is_tied and reach[-skip] != width:
                skip = 1
            width = reach[-skip]
        else:
            skip = 0
        layers.append(Layer(width, bias, activation, norm if norms else "none", skip, is_tied))
        reach.append(width)
    digits.skip((max_depth - depth) * LAYER_DIGITS)
    return MLP(inputs, tuple(layers), nested, seed)


def _width(digits: Digits, max_width: int) -> int:
    """Widths up to 40, and wide ones (one in eight) where they are allowed."""
    choice = digits.bits(1)
    if choice < 224 or max_width <= 40:
        return 1 + choice % min(max_width, 40)
    wide = [width for width in WIDE if width <= max_width]
    return wide[(choice - 224) % len(wide)]


def mlps(
    *,
    min_depth: int = 1,
    max_depth: int = 6,
    max_width: int = WIDE[-1],
    norms: bool = True,
    skips: bool = True,
    tied: bool = True,
) -> st.SearchStrategy[MLP]:
    """Multilayer perceptrons: depth, widths, biases, activations, norms, skips, ties, nesting.

    Shrinks towards one linear layer of width 1 on one input, with a bias and
    without activation, and towards seed 0.
    """
    options: Dict[str, Any] = {"min_depth": min_depth, "max_depth": max_depth}
    options.update(max_width=max_width, norms=norms, skips=skips, tied=tied)
    return read_as(network_digits(max_depth), lambda digits: read_network(digits, **options))
