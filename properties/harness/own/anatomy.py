"""What a module is made of, as far as freezing goes: names, ties, hidden parameters, buffers."""

import re
from typing import Any, Dict, Iterator, List, Mapping, Optional, Set, Tuple

import pytest
import torch


def differentiable(tensor: torch.Tensor) -> bool:
    """Whether a tensor of its dtype can require grad."""
    return tensor.is_floating_point() or tensor.is_complex()


def aliases(module: torch.nn.Module) -> Dict[str, Tuple[str, ...]]:
    """The other names of each parameter that has several: tied parameters, by their first name."""
    names: Dict[int, List[str]] = {}
    for prefix, owner in _everywhere(module):
        for name, parameter in owner._parameters.items():
            if parameter is not None:
                names.setdefault(id(parameter), []).append(f"{prefix}{name}")
    return {group[0]: tuple(group[1:]) for group in names.values() if len(group) > 1}


def _everywhere(module: torch.nn.Module) -> Iterator[Tuple[str, torch.nn.Module]]:
    """(prefix, submodule) for every path, shared submodules by each of their paths."""
    stack: List[Tuple[str, torch.nn.Module, Tuple[int, ...]]] = [("", module, ())]
    while stack:
        prefix, owner, above = stack.pop()
        yield prefix, owner
        children = [
            (f"{prefix}{name}.", child, (*above, id(owner)))
            for name, child in owner._modules.items()
            if child is not None and id(child) not in above
        ]
        stack.extend(reversed(children))


def lazy(module: torch.nn.Module) -> List[str]:
    """Names of parameters and buffers that have no shape yet."""
    names = ("UninitializedParameter", "UninitializedBuffer")  # absent on torch 1.8
    kinds = tuple(getattr(torch.nn.parameter, n) for n in names if hasattr(torch.nn.parameter, n))
    both = [*module.named_parameters(), *module.named_buffers()]
    return [name for name, tensor in both if isinstance(tensor, kinds)]


def without_data(module: torch.nn.Module) -> List[str]:
    """Names of parameters and buffers on the meta device."""
    both = [*module.named_parameters(), *module.named_buffers()]
    return [name for name, tensor in both if tensor.device.type == "meta"]


def frozen_buffers(module: torch.nn.Module) -> Dict[str, torch.Tensor]:
    """Buffers of frozen submodules, by name.

    A submodule is frozen where it (or, if it has no parameters, the nearest module
    around it that has some) holds parameters and none of them requires grad.
    """
    found: Dict[str, torch.Tensor] = {}
    modules = dict(module.named_modules())
    for path, owner in modules.items():
        buffers = {name: value for name, value in owner._buffers.items() if value is not None}
        if not buffers:
            continue
        around = path
        while around and not any(True for _ in modules[around].parameters()):
            around = around.rpartition(".")[0]
        parameters = list(modules[around].parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            found.update({f"{path}.{name}" if path else name: value for name, value in buffers.items()})
    return found


def owner_of(module: torch.nn.Module, name: str) -> Any:
    """The submodule that holds a parameter or buffer of this name; None where there is none."""
    return dict(module.named_modules()).get(name.rpartition(".")[0])


def parameter_at(module: torch.nn.Module, name: str) -> Optional[torch.Tensor]:
    """The parameter at a dotted name, listed under it or under another; None where there is none."""
    owner: Any = module
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, "_modules", {}).get(part)
    found = getattr(owner, "_parameters", {}).get(last)
    return found if isinstance(found, torch.Tensor) else None


FLAG = re.compile(r"require[ds]?_*grads?_*|require[ds]?_*gradients?", re.IGNORECASE)


def lost_flags(module: torch.nn.Module) -> Dict[str, str]:
    """Attributes that look like requires_grad, do nothing, and say what is not so, by their owner.

    On a module any such name does nothing, on a parameter a misspelt one.
    """
    found: Dict[str, str] = {}
    for path, owner in module.named_modules():
        inside = [parameter.requires_grad for parameter in owner.parameters()]
        for name, value in vars(owner).items():
            if isinstance(value, bool) and inside and FLAG.fullmatch(name):
                if not any(inside) if value else any(inside):
                    found[path or "the module"] = name
    for path, parameter in module.named_parameters():
        for name, value in getattr(parameter, "__dict__", {}).items():
            if isinstance(value, bool) and FLAG.fullmatch(name) and value != parameter.requires_grad:
                found[path] = name
    return found


EXPERTS = re.compile(r"(^|[._])experts?([._]|$)", re.IGNORECASE)
ROUTER = re.compile(r"gat(e|es|ing)$|router|switch", re.IGNORECASE)


def experts(module: torch.nn.Module) -> Dict[str, Tuple[str, ...]]:
    """The parameters of each group of experts, of which a router picks some, by the group's path.

    A group is a ModuleList or ModuleDict that is called so, or beside a router with
    one output for each of its entries.
    """
    groups: Dict[str, Tuple[str, ...]] = {}
    for path, owner in module.named_modules():
        for name, child in owner._modules.items():
            if not isinstance(child, (torch.nn.ModuleList, torch.nn.ModuleDict)) or len(child) < 2:
                continue
            beside = [(n, p) for n, p in owner.named_parameters() if not n.startswith(f"{name}.")]
            routed = any(
                ROUTER.search(part) and p.dim() and p.shape[0] == len(child)
                for n, p in beside
                for part in n.split(".")[:-1] or [n]
            )
            if routed or EXPERTS.search(name):
                group = f"{path}.{name}" if path else name
                groups[group] = tuple(f"{group}.{inner}" for inner, _ in child.named_parameters())
    return groups


def weights_beside_biases(module: torch.nn.Module) -> Dict[str, str]:
    """The weight beside each bias, by the bias's name."""
    names = [name for name, _ in module.named_parameters()]
    return {
        name: f"{name[: -len('bias')]}weight"
        for name in names
        if name.rpartition(".")[2] == "bias" and f"{name[: -len('bias')]}weight" in names
    }


def unsaved(module: torch.nn.Module, name: str) -> bool:
    """Whether a buffer is one that state_dict leaves out: a table that can be made again."""
    owner = owner_of(module, name)
    return name.rpartition(".")[2] in getattr(owner, "_non_persistent_buffers_set", ())


def hidden_parameters(module: torch.nn.Module) -> Dict[str, torch.nn.Parameter]:
    """Parameters that ``named_parameters`` does not list: in lists, dicts, unregistered modules."""
    known: Set[int] = {id(parameter) for parameter in module.parameters()}
    registered = {id(owner) for owner in module.modules()}
    found: Dict[str, torch.nn.Parameter] = {}

    def visit(path: str, value: Any, depth: int) -> None:
        if isinstance(value, torch.nn.Parameter):
            if id(value) not in known and value.is_leaf:
                known.add(id(value))
                found[path] = value
        elif isinstance(value, torch.nn.Module):
            if id(value) not in registered:
                registered.add(id(value))
                for name, parameter in value.named_parameters():
                    visit(f"{path}.{name}", parameter, depth)
        elif isinstance(value, torch.Tensor):
            # a plain tensor that asks for gradients was meant to be a parameter
            if value.is_leaf and value.requires_grad and id(value) not in known:
                known.add(id(value))
                found[path] = value  # type: ignore[assignment]
        elif depth and isinstance(value, Mapping):
            for key, item in list(value.items()):
                visit(f"{path}[{key!r}]", item, depth - 1)
        elif depth and isinstance(value, (list, tuple)):
            for index, item in enumerate(value):
                visit(f"{path}[{index}]", item, depth - 1)

    for prefix, owner in list(module.named_modules()):
        for name, value in list(vars(owner).items()):
            # what starts with an underscore in Module itself is its own bookkeeping
            if name not in ("_parameters", "_buffers", "_modules") and not name.endswith("_hooks"):
                visit(f"{prefix}.{name}" if prefix else name, value, 2)
    return found


def thawed_by_reparametrization(module: torch.nn.Module) -> List[str]:
    """Trainable halves of a reparametrized weight whose module is otherwise frozen.

    weight_norm makes new parameters, which require grad: freezing before it is lost.
    """
    found = []
    for path, owner in module.named_modules():
        made: Dict[str, torch.nn.Parameter] = {}
        for name, parameter in owner._parameters.items():
            if parameter is not None and name.endswith(("_g", "_v")):
                made[name] = parameter
        inner = dict(owner._modules.items()).get("parametrizations")  # of scripted modules no dict
        if inner is not None:
            made.update(
                {f"parametrizations.{n}": p for n, p in inner.named_parameters() if ".original" in n}
            )
        others = [p for n, p in owner._parameters.items() if p is not None and n not in made]
        if others and made and not any(p.requires_grad for p in others):
            found += [f"{path}.{n}" if path else n for n, p in made.items() if p.requires_grad]
    return found


def overlaps(one: torch.Tensor, two: torch.Tensor) -> bool:
    """Whether two strided tensors lie in the same memory, at least in part."""
    if one.device != two.device or not one.numel() or not two.numel():
        return False
    spans = []
    for tensor in (one, two):
        last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
        start = tensor.data_ptr()
        spans.append((start, start + (last + 1) * tensor.element_size()))
    return spans[0][0] < spans[1][1] and spans[1][0] < spans[0][1]


def storage_of(tensor: torch.Tensor) -> int:
    """The address at which a tensor's storage begins; of its own where it has none."""
    try:
        if hasattr(tensor, "untyped_storage"):
            return tensor.untyped_storage().data_ptr() or -id(tensor)
        return tensor.storage().data_ptr() or -id(tensor)
    except (RuntimeError, NotImplementedError):  # sparse, or a wrapper
        return -id(tensor)


def overlaps_itself(tensor: torch.Tensor) -> bool:
    """Whether several elements of a strided tensor lie in one place, as in an expanded one."""
    if tensor.layout is not torch.strided or not tensor.numel():
        return False
    reach, nested = 0, True  # of all dimensions with smaller strides
    for stride, size in sorted(zip(tensor.stride(), tensor.shape)):
        if size > 1 and stride == 0:
            return True
        nested = nested and (size == 1 or stride > reach)
        reach += stride * (size - 1)
    if nested or tensor.numel() > 2**20:
        return False
    places = torch.zeros((), dtype=torch.int64)
    for stride, size in zip(tensor.stride(), tensor.shape):
        places = places.unsqueeze(-1) + torch.arange(size) * stride
    return len(torch.unique(places)) < tensor.numel()


def overlapping(module: torch.nn.Module) -> Dict[str, torch.Tensor]:
    """The parameters whose elements share memory with each other, by name."""
    return {name: p for name, p in module.named_parameters() if overlaps_itself(p)}


def refuse_overlapping(where: str, module: torch.nn.Module) -> None:
    """Raise pytest.UsageError that names the parameters whose elements share memory."""
    found = overlapping(module)
    if found:
        names = [f"{name} (shape {tuple(p.shape)}, strides {p.stride()})" for name, p in found.items()]
        raise pytest.UsageError(
            f"{where}: several elements of a parameter share one memory, as expand and repeated views "
            f"make it: {', '.join(names)}; an optimizer's step on it is undefined, and some crash: "
            "give it memory of its own with clone() or contiguous()"
        )
