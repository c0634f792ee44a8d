"""Nets as plain ``torch.nn`` code with the same weights."""

from typing import Callable, Dict, List, Optional, Tuple

import torch

from frostproof.properties.harness.reproducer.literals import FEW, numbers
from frostproof.properties.harness.reproducer.script import Script
from frostproof.strategies import MLP, Cuts

NO_CUT = Cuts()
MODULES = {
    "relu": "nn.ReLU()",
    "leaky_relu": "nn.LeakyReLU()",
    "elu": "nn.ELU()",
    "gelu": "nn.GELU()",
    "silu": "nn.SiLU()",
    "tanh": "nn.Tanh()",
    "sigmoid": "nn.Sigmoid()",
    "softplus": "nn.Softplus()",
}


def _modules(mlp: MLP, index: int) -> List[str]:
    """The modules of a layer; what does nothing is left out."""
    layer = mlp.layers[index]
    bias = "" if layer.bias else ", bias=False"
    found = [f"nn.Linear({mlp.width_at(index)}, {layer.width}{bias})"]
    if layer.norm == "layer":
        found.append(f"nn.LayerNorm({layer.width})")
    elif layer.norm == "batch":
        found.append(f"nn.BatchNorm1d({layer.width})")
    if layer.activation != "identity":
        found.append(MODULES[layer.activation])
    return found


def starts(mlp: MLP) -> List[int]:
    """Where each layer begins in the flat Sequential, and where the last ends."""
    found = [0]
    for index in range(mlp.depth):
        found.append(found[-1] + len(_modules(mlp, index)))
    return found


def program_names(mlp: MLP, blocks: bool = False) -> Dict[str, str]:
    """From the names of parameters in a description to those in the program."""
    names: Dict[str, str] = {}
    begins = starts(mlp)
    for index, own in enumerate(mlp.parameters_by_layer()):
        for name in own:
            kind = name.rpartition(".")[2]
            offset = 1 if name.split(".")[-2] == "norm" else 0
            place = f"{index}.{offset}" if blocks else str(begins[index] + offset)
            names.setdefault(name, f"{place}.{kind}")
    return names


def in_code(name: str, net: str = "net") -> str:
    """A parameter as an expression: "0.weight" is net[0].weight."""
    place, _, kind = name.rpartition(".")
    return net + "".join(f"[{part}]" for part in place.split(".")) + f".{kind}"


def emit_network(script: Script, mlp: MLP, dtype: torch.dtype, *, blocks: bool = False) -> None:
    """Lines that define ``net`` with the description's weights.

    A flat Sequential; blocks: one Sequential for each layer, in one for all.
    """
    layers = [_modules(mlp, index) for index in range(mlp.depth)]
    parts = [", ".join(layer) for layer in layers]
    if blocks:
        parts = [f"nn.Sequential({part})" for part in parts]
    one = f"net = nn.Sequential({', '.join(parts)}).to(device, dtype)"
    if len(one) > 120:
        one = "net = nn.Sequential(\n" + "\n".join(f"    {part}," for part in parts)
        one += "\n).to(device, dtype)"
    script.add(one)
    begins = starts(mlp)
    for index, layer in enumerate(mlp.layers):
        if layer.tied:
            one, two = (
                (f"net[{index}][0]", f"net[{index - 1}][0]")
                if blocks
                else (f"net[{begins[index]}]", f"net[{begins[index - 1]}]")
            )
            script.add(f"{one}.weight = {two}.weight")
    named = list(mlp.build("cpu", dtype).named_parameters())
    if sum(p.numel() for _, p in named) <= FEW:
        values = ", ".join(numbers(p) for _, p in named)
        with script.block(f"for p, value in zip(net.parameters(), [{values}]):"):
            script.add("p.data.copy_(torch.tensor(value, dtype=dtype))")
        return
    script.add(f"generator = torch.Generator().manual_seed({mlp.seed})")
    few = sum(p.numel() for _, p in named) <= 4096
    drawn = f"torch.empty(p.shape, dtype=torch.float{64 if few else 32})"
    names = program_names(mlp, blocks)
    norms = [names[name] for name, _ in named if name.endswith("norm.weight")]
    with script.block(
        "for name, p in net.named_parameters():" if norms else "for p in net.parameters():"
    ):
        script.add("reach = 2 / p.shape[1] ** 0.5 if p.dim() == 2 else 1")
        ends = "-reach, reach"
        if norms:
            script.add(f"ends = (0.5, 1.5) if name in {norms} else (-reach, reach)")
            ends = "*ends"
        script.add(f"p.data.copy_({drawn}.uniform_({ends}, generator=generator))")


def layers_slice(mlp: MLP, first: int, last: int, blocks: bool = False) -> str:
    """The layers from ``first`` up to ``last`` as an expression."""
    if first == 0 and last == mlp.depth:
        return "net"
    begins = list(range(mlp.depth + 1)) if blocks else starts(mlp)
    start = "" if first == 0 else str(begins[first])
    stop = "" if last == mlp.depth else str(begins[last])
    return f"net[{start}:{stop}]"


def emit_forward(
    script: Script,
    mlp: MLP,
    cuts: Cuts = NO_CUT,
    *,
    name: str = "forward",
    at: Optional[Callable[[int, str], str]] = None,
    blocks: bool = False,
) -> str:
    """The output of ``net`` for ``x`` with these cuts, as an expression.

    Where one expression does not do, a function ``name(net, x)`` is defined before it.
    at: replaces the value at a position, as ``Network.forward``'s.
    """
    positions = frozenset(cuts.positions)
    skips = any(layer.skip for layer in mlp.layers)
    blocked = max(positions, default=0) if cuts.by == "no_grad" else 0
    if not skips and not blocked:
        expression, first = "x" if at is None else at(0, "x"), 0
        for index in range(mlp.depth):
            if index in positions:
                expression = f"{expression}.detach()"
            changed = at is not None and at(index + 1, "v") != "v"
            if changed or index + 1 in positions or index + 1 == mlp.depth:
                expression = f"{layers_slice(mlp, first, index + 1, blocks)}({expression})"
                first = index + 1
                if at is not None:
                    expression = at(index + 1, expression)
        return f"{expression}.detach()" if mlp.depth in positions else expression
    with script.block(f"def {name}(net, x):", name=name):
        values = ["x"]
        if at is not None and at(0, "x") != "x":
            script.add(f"x = {at(0, 'x')}")

        def layer_line(index: int) -> str:
            through = values[index] + (".detach()" if index >= blocked and index in positions else "")
            line = f"{layers_slice(mlp, index, index + 1, blocks)}({through})"
            if mlp.layers[index].skip:
                line += f" + {values[index + 1 - mlp.layers[index].skip]}"
            if at is not None:
                line = at(index + 1, f"({line})" if " + " in line else line)
            values.append(f"x{index + 1}")
            return f"x{index + 1} = {line}"

        if blocked:
            with script.block("with torch.no_grad():"):
                script.add(*(layer_line(index) for index in range(blocked)))
        for index in range(blocked, mlp.depth):
            script.add(layer_line(index))
        end = ".detach()" if mlp.depth in positions else ""
        script.add(f"return {values[-1]}{end}")
    return f"{name}(net, x)"


def emit_freeze(
    script: Script, names: Tuple[str, ...], how: str = "attribute", net: str = "net"
) -> None:
    """Lines that freeze the parameters of these names in the program."""
    if len(names) > 3:
        script.note("frozen", f"frozen = {names}")
    for name in names[:3] if len(names) <= 3 else ():
        place = in_code(name, net)
        script.add(
            f"{place}.requires_grad_(False)" if how == "method" else f"{place}.requires_grad = False"
        )
    if len(names) > 3:
        with script.block(f"for name, p in {net}.named_parameters():"):
            script.add(
                "p.requires_grad_(name not in frozen)"
                if how == "method"
                else "p.requires_grad = name not in frozen"
            )
