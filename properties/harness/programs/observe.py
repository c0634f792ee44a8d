"""What can be seen of one call of a program, as plain values by (aspect, subject).

Aspects are words of ASPECTS; a subject is "out0", "x", "x_leaf", "kept", or two of them.
Version counters of fresh results are nobody's promise: only whether an input's moved is looked at.
"""

import gc
import warnings
from typing import Any, Callable, Dict, List, Tuple

import torch

from frostproof.properties.harness.programs.execute import Live, flat
from frostproof.strategies.statements import BLOCKS

ASPECTS = (
    "error",  # it raises where eager runs
    "accepts",  # it runs where eager raises
    "structure",  # what is returned: how many, tensors or not
    "shape",
    "dtype",
    "value",
    "stride",
    "requires_grad",
    "is_leaf",
    "grad_fn",  # whether there is one
    "inference",
    "identity",  # which results are which inputs
    "storage",  # which share memory
    "input value",
    "input shape",
    "input flags",  # requires_grad, is_leaf, grad_fn
    "input grad_fn",  # whether it is still the same one
    "version",  # whether an input's moved
    "mode",  # grad mode and inference mode afterwards, after an error too
    "fired",  # hooks
    "backward",  # it raises where eager does not
    "backward accepts",  # it runs where eager raises
    "gradient",
    "write",  # where a write to a result is seen
    "write version",  # which version counters it moves
    "later write",  # an in-place operation of autograd on a result: it raises
    "internal",  # the mode itself fails in a way that it does not explain
)
SCENES = ("first", "again", "flipped", "no_grad", "changed", "written", "inference")
Observation = Dict[Tuple[str, str], Any]


def weighed(outputs: List[torch.Tensor]) -> Any:
    """A weighted sum of the results that require grad, each element with a weight of its own."""
    loss: Any = 0
    for place, one in enumerate(outputs):
        if one.requires_grad and (one.is_floating_point() or one.is_complex()):
            weights = torch.arange(1.0, one.numel() + 1).to(one.device).reshape(one.shape) * (place + 1)
            loss = loss + torch.real((one * weights).sum())
    return loss


def _strides(tensor: torch.Tensor) -> Tuple[int, ...]:
    """Strides, without those that address nothing."""
    if not tensor.numel():
        return ()
    return tuple(stride if extent > 1 else -1 for stride, extent in zip(tensor.stride(), tensor.shape))


def values(tensor: Any) -> Any:
    """A tensor's values as nested lists; None stays None."""
    if tensor is None:
        return None
    with torch.no_grad():
        return tensor.detach().to("cpu").tolist()


def _storage(tensor: torch.Tensor) -> int:
    storage = getattr(tensor, "untyped_storage", tensor.storage)
    return int(storage().data_ptr())


def _results(live: Live, output: Any) -> Tuple[List[Any], Dict[str, torch.Tensor]]:
    """(what was returned or kept, the tensors of it by subject)."""
    returned = flat(output)
    subjects = {f"out{place}": one for place, one in enumerate(returned)}
    subjects["kept"] = live.kept()
    noted = [one for one in live.fired if isinstance(one, torch.Tensor)]
    subjects.update({f"noted{place}": one for place, one in enumerate(noted)})
    return returned, {name: one for name, one in subjects.items() if isinstance(one, torch.Tensor)}


def _before(live: Live, arguments: Tuple[Any, ...], scene: str) -> None:
    """What a scene does to the inputs before the call."""
    if scene == "flipped":
        for each in live.tensors.values():
            if each.is_leaf and (each.is_floating_point() or each.is_complex()):
                each.requires_grad_(not each.requires_grad)
                return
    if scene == "changed":
        for each in arguments[:1]:
            each.data.mul_(3)


def observe(
    live: Live,
    call: Callable[..., Any],
    scene: str = "first",
    device: str = "cpu",
    compiled: bool = False,
) -> Observation:
    """Everything that is seen of ``call(*inputs)`` in a scene of SCENES, on inputs made anew.

    compiled: an error may leave its blocks open.
    """
    torch.set_grad_enabled(True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = live.renew(device)
        seen: Observation = {}
        try:
            _before(live, arguments, scene)
        except RuntimeError:
            return {("skipped", scene): True}  # an expanded input cannot be changed
        try:
            if scene == "again":
                call(*arguments)
                live.fired.clear()
        except Exception as problem:  # of this callable it need not be the first call
            return {("error", "call"): (type(problem).__name__, str(problem)[:4000])}
        finally:
            _see_modes({})
        named = dict(live.tensors)
        grad_fns = {name: _grad_fn(one) for name, one in named.items()}
        versions = {name: _version(one) for name, one in named.items()}
        try:
            output = _called(call, arguments, scene)
        except Exception as problem:
            seen["error", "call"] = type(problem).__name__, str(problem)[:4000]
        if compiled and seen and any(each.operation in BLOCKS for each, _ in live.program.walk()):
            gc.collect()  # a block that an error left open may end, and set its mode, with its frame
        _see_modes(seen)
        if ("error", "call") in seen:
            return seen
        returned, results = _results(live, output)
        seen["structure", "output"] = [
            "tensor" if isinstance(one, torch.Tensor) else repr(one) for one in returned
        ]
        _see_results(seen, results)
        _see_inputs(seen, named, grad_fns, versions)
        _see_sharing(seen, results, named)
        if scene == "written" and results:
            _write_later(seen, results, named)
        _see_gradients(seen, live, results, named)
        _see_writes(seen, results, named)
    return seen


def _called(call: Callable[..., Any], arguments: Tuple[Any, ...], scene: str) -> Any:
    if scene == "no_grad":
        with torch.no_grad():
            return call(*arguments)
    if scene == "inference":
        with torch.inference_mode():
            return call(*arguments)
    return call(*arguments)


_open: List[Any] = []  # blocks that end inference mode where a call has left it on


def _see_modes(seen: Observation) -> None:
    """See the modes of autograd after the call, and set them back."""
    seen["mode", "grad"] = torch.is_grad_enabled()
    if hasattr(torch, "is_inference_mode_enabled"):
        seen["mode", "inference"] = torch.is_inference_mode_enabled()
        if seen["mode", "inference"]:
            _open.append(torch.inference_mode(False))
            _open[-1].__enter__()
    torch.set_grad_enabled(True)


def _grad_fn(tensor: torch.Tensor) -> Any:
    """Its grad_fn; the error's name where autograd refuses to say: a view of what was changed."""
    try:
        return tensor.grad_fn
    except RuntimeError as problem:
        return type(problem).__name__


def _flags(tensor: torch.Tensor) -> Tuple[Any, Any, Any]:
    """(requires_grad, is_leaf, whether there is a grad_fn), or the error's name three times."""
    grad_fn = _grad_fn(tensor)
    if isinstance(grad_fn, str):
        return grad_fn, grad_fn, grad_fn
    return tensor.requires_grad, tensor.is_leaf, grad_fn is not None


def _version(tensor: torch.Tensor) -> int:
    try:
        return tensor._version
    except RuntimeError:  # an inference tensor keeps none
        return -1


def _see_results(seen: Observation, results: Dict[str, torch.Tensor]) -> None:
    for name, one in results.items():
        seen["shape", name] = tuple(one.shape)
        seen["dtype", name] = str(one.dtype)
        seen["value", name] = values(one)
        seen["stride", name] = _strides(one)
        seen["requires_grad", name], seen["is_leaf", name], seen["grad_fn", name] = _flags(one)
        if hasattr(one, "is_inference"):
            seen["inference", name] = one.is_inference()


def _see_inputs(
    seen: Observation, named: Dict[str, Any], grad_fns: Dict[str, Any], versions: Dict[str, int]
) -> None:
    for name, one in named.items():
        seen["input value", name] = values(one)
        seen["input shape", name] = tuple(one.shape), _strides(one)
        seen["input flags", name] = _flags(one)
        seen["input grad_fn", name] = _grad_fn(one) is grad_fns[name]
        seen["version", name] = _version(one) != versions[name]


def _see_sharing(seen: Observation, results: Dict[str, Any], named: Dict[str, Any]) -> None:
    everything = {**named, **results}
    names = list(everything)
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            if other in named:
                continue
            seen["identity", f"{one}, {other}"] = everything[one] is everything[other]
            if everything[one].numel() and everything[other].numel():
                seen["storage", f"{one}, {other}"] = _storage(everything[one]) == _storage(
                    everything[other]
                )


def _write_later(seen: Observation, results: Dict[str, Any], named: Dict[str, Any]) -> None:
    first = next(iter(results.values()))
    try:
        first.mul_(2)
    except Exception as problem:
        seen["later write", "out0"] = type(problem).__name__
        return
    seen["later write", "out0"] = "done"
    for name, one in {**named, **results}.items():
        seen["input flags", f"{name} later"] = _flags(one)
        seen["input value", f"{name} later"] = values(one)


def _see_gradients(
    seen: Observation, live: Live, results: Dict[str, Any], named: Dict[str, Any]
) -> None:
    try:
        loss = weighed([one for name, one in results.items() if name.startswith("out")])
    except RuntimeError as problem:
        seen["backward", "outputs"] = type(problem).__name__
        return
    if isinstance(loss, torch.Tensor):
        try:
            loss.backward()
            seen["backward", "outputs"] = "done"
        except Exception as problem:
            seen["backward", "outputs"] = type(problem).__name__
            seen["message", "backward"] = str(problem)[:2000]
            return
    seen["fired", "hooks"] = sorted(one for one in live.fired if isinstance(one, str))
    for name, one in {**named, **results}.items():
        seen["gradient", name] = values(one.grad)


def _see_writes(seen: Observation, results: Dict[str, Any], named: Dict[str, Any]) -> None:
    """Write to one element of each result; see which other tensors have changed."""
    everything = {**named, **results}
    for name, one in results.items():
        if not one.numel() or not (one.is_floating_point() or one.is_complex()):
            continue
        before = {other: values(each) for other, each in everything.items()}
        versions = {other: _version(each) for other, each in everything.items()}
        try:
            with torch.no_grad():
                alias = one.detach()
                alias[(0,) * alias.dim()].fill_(97)
        except RuntimeError:
            seen["write", name] = "refused"
            continue
        changed = [other for other, each in everything.items() if values(each) != before[other]]
        moved = [other for other, each in everything.items() if _version(each) != versions[other]]
        seen["write", name] = changed
        seen["write version", name] = [other for other in moved if other in changed]
