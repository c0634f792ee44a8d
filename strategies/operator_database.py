"""The operators that torch itself lists for its tests, with samples of their arguments.

The database is torch's own, internal and without promises: where it is missing, needs a
package that is not installed, or has changed, ``problem()`` says so.
"""

import warnings
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

import torch

from frostproof.strategies.operator_calls import Call, call_of, tensors_in

LARGEST = 20_000  # elements of all tensors of a sample
SEED = 0


@contextmanager
def quiet(seed: int = SEED) -> Iterator[None]:
    """Inside, torch's own generator starts from a seed, and warnings are not shown."""
    kept = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_rng_state(kept)


def loaded(kind: str, read: Callable[[], Dict[str, Any]]) -> Tuple[Dict[str, Any], str]:
    """What reading a database of torch's gives, and why it gives nothing, in one sentence ("")."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read(), ""
    except ImportError as missing:
        needs = getattr(missing, "name", "") or "a module"
        return {}, f"torch {torch.__version__}: its {kind} database needs {needs}, which is missing"
    except Exception as changed:
        what = f"{type(changed).__name__}: {changed}".split("\n")[0]
        return {}, f"torch {torch.__version__}: its {kind} database cannot be read ({what})"


def _read() -> Dict[str, Any]:
    from torch.testing._internal.common_methods_invocations import op_db

    found = {}
    for info in op_db:
        if info.supports_autograd:
            name = info.name + (f".{info.variant_test_name}" if info.variant_test_name else "")
            found[name] = info
    next(iter(found.values())).supported_backward_dtypes("cpu")
    return found


@cache
def _load() -> Tuple[Dict[str, Any], str]:
    return loaded("operator", _read)


def problem() -> str:
    """Why there is no database here, in one sentence; "" where there is one."""
    return _load()[1]


def operators(device: str, dtype: torch.dtype) -> List[str]:
    """The names of those that are differentiable in a dtype; sorted, the same in every process."""
    kind = torch.device(device).type
    return sorted(
        name for name, info in _load()[0].items() if dtype in info.supported_backward_dtypes(kind)
    )


def entry(name: str) -> Any:
    """What the database says of one operator."""
    return _load()[0][name]


def calls(name: str, device: str, dtype: torch.dtype, most: int = 10**9) -> List[Call]:
    """The samples of an operator as calls, spread evenly where there are more than ``most``.

    Left out: what has no differentiable tensor, is sparse, or is large.
    """
    info = entry(name)
    chosen = [sample for _, sample in _samples(name, device, dtype)]
    places: Sequence[int] = range(len(chosen))
    if len(chosen) > most:
        places = [place * len(chosen) // most for place in range(most)]
    return [replace(_call(info, chosen[place]), source="database", sample=place) for place in places]


def place(name: str, device: str, dtype: torch.dtype, number: int) -> int:
    """Where the database itself has the sample of call ``number``."""
    return _samples(name, device, dtype)[number][0]


def _samples(name: str, device: str, dtype: torch.dtype) -> List[Tuple[int, Any]]:
    with quiet():
        samples = list(entry(name).sample_inputs(device, dtype, requires_grad=True))
    return [
        (number, one) for number, one in enumerate(samples) if _fits([one.input, one.args, one.kwargs])
    ]


def _fits(arguments: Sequence[Any]) -> bool:
    tensors = [tensor for one in arguments for tensor in tensors_in(one)]
    whole = all(tensor.layout is torch.strided for tensor in tensors)
    live = any(tensor.requires_grad for tensor in tensors)
    return whole and live and sum(tensor.numel() for tensor in tensors) <= LARGEST


def _call(info: Any, sample: Any) -> Call:
    def function(*arguments: Any, **named: Any) -> Any:
        return info.gradcheck_wrapper(info.get_op(), *arguments, **named)

    made = call_of(function, (sample.input, *sample.args), dict(sample.kwargs))
    made.out = info.get_op() if info.supports_out else None
    made.inplace = info.get_inplace() if info.supports_inplace_autograd else None
    made.forward_mode = bool(info.supports_forward_ad)
    made.twice = bool(info.supports_gradgrad)
    made.outputs = getattr(sample, "output_process_fn_grad", None) or (lambda output: output)
    path = qualified(info)
    if path:
        made.code = written(path, made)
    return made


def qualified(info: Any) -> str:
    """The public path of an operator's function, such as "torch.nn.functional.relu"; "" for none."""
    for prefix in ("torch.", "torch.Tensor."):
        found: Any = torch if prefix == "torch." else torch.Tensor
        for part in info.name.split("."):
            found = getattr(found, part, None)
        if callable(found):
            return prefix + str(info.name)
    return ""


def written(path: str, call: Call) -> str:
    """The call as code, with x0, x1, ... for the values and y0, y1, ... for the other tensors."""
    from frostproof.strategies.operator_calls import Place, replaced

    class Raw(str):
        def __repr__(self) -> str:
            return str(self)

    def name(value: Any) -> Any:
        if isinstance(value, Place):
            return Raw(f"{'x' if value.differentiable else 'y'}{value.number}")
        return value

    given = [repr(replaced(one, name)) for one in call.arguments]
    given += [f"{key}={replaced(one, name)!r}" for key, one in call.named.items()]
    return f"{path}({', '.join(given)})"
