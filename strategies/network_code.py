"""Described nets, data and layers as plain ``torch.nn`` code with the same values."""

from typing import TYPE_CHECKING, Any, Dict, List, Tuple

import torch

from frostproof.strategies.literals import FEW, numbers

if TYPE_CHECKING:
    from frostproof.strategies.layer_kinds import LayerCase
    from frostproof.strategies.networks import MLP, Network
    from frostproof.strategies.training import TrainingRun

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


def moved_to(device: str, dtype: torch.dtype) -> str:
    """``.to(...)`` for what is made on the CPU in float32; nothing where it is to stay so."""
    asked = [*([f'"{device}"'] if device != "cpu" else [])]
    asked += [str(dtype)] if dtype is not torch.float32 else []
    return f".to({', '.join(asked)})" if asked else ""


def path_of(name: str) -> str:
    """A qualified name as the end of an expression: "0.weight" is [0].weight."""
    return "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in name.split("."))


def _modules(mlp: "MLP", index: int) -> List[str]:
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


def starts(mlp: "MLP") -> List[int]:
    """Where each layer begins in the flat Sequential, and where the last ends."""
    found = [0]
    for index in range(mlp.depth):
        found.append(found[-1] + len(_modules(mlp, index)))
    return found


def network_code(mlp: "MLP", device: str, dtype: torch.dtype) -> str:
    """Lines that define ``net``: a flat Sequential with the description's weights."""
    layers = [_modules(mlp, index) for index in range(mlp.depth)]
    parts = [", ".join(layer) for layer in layers]
    one = f"net = nn.Sequential({', '.join(parts)}){moved_to(device, dtype)}"
    if len(one) > 120:
        one = "net = nn.Sequential(\n" + "\n".join(f"    {part}," for part in parts)
        one += f"\n){moved_to(device, dtype)}"
    lines = [one]
    begins = starts(mlp)
    for index, layer in enumerate(mlp.layers):
        if layer.tied:
            lines.append(f"net[{begins[index]}].weight = net[{begins[index - 1]}].weight")
    named = list(mlp.build("cpu", dtype).named_parameters())
    if sum(p.numel() for _, p in named) <= FEW:
        values = ", ".join(numbers(p) for _, p in named)
        lines.append(f"for p, value in zip(net.parameters(), [{values}]):")
        lines.append(f"    p.data.copy_(torch.tensor(value, dtype={dtype}))")
        return "\n".join(lines)
    lines.append(f"generator = torch.Generator().manual_seed({mlp.seed})")
    few = sum(p.numel() for _, p in named) <= 4096
    names = program_names(mlp)
    norms = [names[name] for name, _ in named if name.endswith("norm.weight")]
    lines.append("for name, p in net.named_parameters():" if norms else "for p in net.parameters():")
    ends = "-reach, reach"
    lines.append("    reach = 2 / p.shape[1] ** 0.5 if p.dim() == 2 else 1")
    if norms:
        lines.append(f"    ends = (0.5, 1.5) if name in {norms} else (-reach, reach)")
        ends = "*ends"
    drawn = f"torch.empty(p.shape, dtype=torch.float{64 if few else 32})"
    lines.append(f"    p.data.copy_({drawn}.uniform_({ends}, generator=generator))")
    return "\n".join(lines)


def program_names(mlp: "MLP") -> Dict[str, str]:
    """From the names of parameters in a description to those in the flat Sequential."""
    names: Dict[str, str] = {}
    begins = starts(mlp)
    for index, own in enumerate(mlp.parameters_by_layer()):
        for name in own:
            offset = 1 if name.split(".")[-2] == "norm" else 0
            names.setdefault(name, f"{begins[index] + offset}.{name.rpartition('.')[2]}")
        if mlp.layers[index].norm == "batch":
            for buffer in ("running_mean", "running_var", "num_batches_tracked"):
                names[f"{mlp.prefix(index)}.norm.{buffer}"] = f"{begins[index] + 1}.{buffer}"
    return names


def network_places(network: "Network") -> List[Tuple[Any, str]]:
    """The modules, parameters and buffers of a net, and where the flat Sequential has them."""
    begins = starts(network.description)
    blocks = list(network.blocks())
    found: List[Tuple[Any, str]] = [(network, ""), (network.layers, "")]
    for index, block in enumerate(blocks):
        parts = [block.linear, block.norm, block.activation]
        held = [part for part in parts if isinstance(part, torch.nn.Module)]
        for offset, part in enumerate(held):
            found.append((part, f"[{begins[index] + offset}]"))
            tensors = [*part._parameters.items(), *part._buffers.items()]
            for name, value in tensors:
                if value is not None:
                    found.append((value, f"[{begins[index] + offset}].{name}"))
        whole = f"[{begins[index]}]" if len(held) == 1 else f"[{begins[index]}:{begins[index + 1]}]"
        found.append((block, whole))
    for place, pair in enumerate(network.layers):
        if pair not in blocks:
            last = min(2 * place + 2, len(blocks))
            found.append((pair, f"[{begins[2 * place]}:{begins[last]}]"))
    return found


def data_code(run: "TrainingRun", device: str, dtype: torch.dtype) -> str:
    """Lines that define ``x`` (batch, inputs) and ``target`` (batch, last width)."""
    inputs, targets = run.data("cpu", dtype)
    lines = []
    if inputs.numel() + targets.numel() <= FEW:
        on = "" if device == "cpu" else f', device="{device}"'
        for name, tensor in (("x", inputs), ("target", targets)):
            lines.append(f"{name} = torch.tensor({numbers(tensor)}, dtype={dtype}{on})")
        return "\n".join(lines)
    lines.append(f"generator = torch.Generator().manual_seed({run.seed + 1_000_003})")
    for name, tensor in (("x", inputs), ("target", targets)):
        shape = ", ".join(map(str, tensor.shape))
        drawn = f"torch.empty({shape}, dtype=torch.float64).uniform_(-1.5, 1.5, generator=generator)"
        where = moved_to(device, dtype) if dtype is not torch.float32 else ""
        lines.append(f"{name} = {drawn}{where or '.to(torch.float32)'}")
    return "\n".join(lines)


def layer_code(case: "LayerCase", device: str, dtype: torch.dtype) -> str:
    """Lines that define ``layer``, frozen as described, and its input ``x``."""
    from frostproof.strategies.layer_kinds import EVERY_KIND

    kind = EVERY_KIND[case.kind]
    lines = [f"layer = {kind.make}{moved_to(device, dtype)}" + ("" if case.train else ".eval()")]
    lines.append(f"generator = torch.Generator().manual_seed({case.seed})")
    lines.append("for p in layer.parameters():")
    lines.append("    drawn = torch.rand(p.shape, generator=generator, dtype=torch.float64)")
    lines.append("    p.data.copy_(drawn * 2 - 1)")
    lines += [f"layer{path_of(name)}.requires_grad = False" for name in case.frozen]
    on = "" if device == "cpu" else f'.to("{device}")'
    if kind.tokens:
        lines.append(f"x = torch.randint(0, {kind.tokens}, {kind.shape}, generator=generator){on}")
    else:
        drawn = f"torch.rand({kind.shape}, generator=generator, dtype=torch.float64) * 2 - 1"
        where = f'"{device}", {dtype}' if device != "cpu" else str(dtype)
        learns = ".requires_grad_()" if case.input_learns else ""
        lines.append(f"x = ({drawn}).to({where}){learns}")
    return "\n".join(lines)
