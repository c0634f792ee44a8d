"""What the installed torch offers for a dtype on a device: asked of it once, when first needed.

A law prepares its tensors before it acts on them. What it prepares with may be missing for a
dtype: a new one has no arithmetic yet, an old torch had no loss in bfloat16. Such a cell is
"not offered", which is no verdict on the law. The operations that laws are about (detach,
clone, requires_grad, an optimizer's step) are never asked for here: where they refuse, a law
is broken. Tensors are made of bytes, so that only what is asked for can refuse.
"""

import ctypes
import importlib
import re
import warnings
from functools import cache
from typing import Any, Callable, Dict, Optional, Tuple

import torch
import torch.utils.checkpoint

# How torch says that something is not for this device or dtype. Any other error is no refusal.
REFUSAL = re.compile(
    r"not implemented for|not (currently |yet )?support|supported devices|must be CUDA"
    r"|must be (on )?cuda|to be CUDA|floating point Tensor|Could not run"
    r"|have one of the following scalar types",
    re.IGNORECASE,
)
# The byte that all numbers are made of: finite in every format, and neither 0 nor 1.
BYTE = 0x3F


class NotOffered(Exception):
    """This torch has not what a law prepares with, or runs by; the message says what and why."""


@cache
def offered(name: str) -> bool:
    """Whether this torch has a dotted name; its modules are imported, whatever they warn of."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            # kept: torch 2.4 warns at an import, past any filter
            with warnings.catch_warnings(record=True):
                found: Any = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for part in parts[length:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def lacks(name: str) -> str:
    """What is said where this torch has no such public name, as in "torch.func.grad"; else ""."""
    return "" if offered(name) else f"{name}: this torch has none"


def accepts(call: Callable[[], Any]) -> bool:
    """Whether torch takes the arguments of a call, by calling: a wrapped function has no signature.

    An error that is not about the arguments is for the law to meet.
    """
    try:
        call()
    except (TypeError, ValueError) as problem:
        return not re.search(r"argument|keyword", str(problem))
    except Exception:
        return True
    return True


@cache
def checkpoint_options(reentrant: bool) -> Optional[Dict[str, Any]]:
    """How checkpoint is called with or without re-entering autograd; None where it cannot be."""
    options: Dict[str, Any] = {"use_reentrant": reentrant}

    def call() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.utils.checkpoint.checkpoint(torch.neg, torch.ones(1), **options)

    if accepts(call):
        return options
    return {} if reentrant else None


@cache
def assigns() -> str:
    """What is said where ``load_state_dict`` cannot assign; else ""."""
    layer = torch.nn.Linear(1, 1)
    if accepts(lambda: layer.load_state_dict(layer.state_dict(), assign=True)):
        return ""
    return "load_state_dict(assign=True): this torch has no such option"


def refuses(problem: BaseException) -> bool:
    """Whether an error says that torch has no such thing for this dtype or device."""
    return isinstance(problem, NotImplementedError) or bool(REFUSAL.search(str(problem)))


def storage_of(tensor: torch.Tensor) -> Any:
    """The storage of a tensor, of bytes where torch has such (not on torch 1.8)."""
    untyped = getattr(tensor, "untyped_storage", None)
    return untyped() if untyped is not None else tensor.storage()


def byte_count(dense: torch.Tensor) -> int:
    """The bytes that a contiguous tensor's elements take; a quantized dtype may put four into one."""
    count = dense.numel() * dense.element_size()
    if not dense.is_quantized:
        return count
    return min(count, int(storage_of(dense).nbytes()))


def of_bytes(
    shape: Tuple[int, ...], dtype: torch.dtype, device: str = "cpu", byte: int = BYTE
) -> torch.Tensor:
    """A contiguous tensor each byte of which is ``byte`` (of bool: 0 or 1): no kernel is needed."""
    made = torch.empty(shape, dtype=dtype)
    size = byte_count(made)
    if size:
        ctypes.memset(made.data_ptr(), min(byte, 1) if dtype is torch.bool else byte, size)
    return made if torch.device(device).type == "cpu" else made.to(device)


def _live(device: str, dtype: torch.dtype) -> Optional[torch.Tensor]:
    """A (2, 2) leaf that requires grad; None where torch refuses that, which is a law's to judge."""
    try:
        return of_bytes((2, 2), dtype, device).requires_grad_()
    except Exception:
        return None


def _copy(device: str, dtype: torch.dtype) -> None:
    made = of_bytes((3, 2), dtype, device)
    if made.is_quantized:  # its numbers are no numbers without a scale
        raise NotImplementedError(f"{dtype} is quantized")
    torch.empty(2, 3, dtype=dtype, device=device).copy_(made.t())
    large = of_bytes((70, 80), dtype, device)  # where transposing has a kernel of its own
    torch.empty(80, 70, dtype=dtype, device=device).copy_(large.t())


def _convert(device: str, dtype: torch.dtype) -> None:
    wide = torch.zeros(2, dtype=torch.complex128 if dtype.is_complex else torch.float64)
    wide.to(dtype).to(wide.dtype)


def _conjugate(device: str, dtype: torch.dtype) -> None:
    torch.empty(2, 2, dtype=dtype, device=device).copy_(of_bytes((2, 2), dtype, device).conj())


def _negate(device: str, dtype: torch.dtype) -> None:
    -of_bytes((2, 2), dtype, device)


def _mse_loss(device: str, dtype: torch.dtype) -> None:
    live = _live(device, dtype)
    if live is not None:
        torch.nn.functional.mse_loss(live, of_bytes((2, 2), dtype, device, 0)).backward()


def _embedding_bag(device: str, dtype: torch.dtype) -> None:
    index = torch.zeros(1, 1, dtype=torch.int64, device=device)
    torch.nn.functional.embedding_bag(index, of_bytes((2, 2), dtype, device))


def _of(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[str, torch.dtype], None]:
    """A probe of a function of a (2, 2) tensor, and of its backward."""

    def probe(device: str, dtype: torch.dtype) -> None:
        live = _live(device, dtype)
        if live is not None:
            function(live).backward(of_bytes((2, 2), dtype, device))

    return probe


# What laws prepare with: each is tried on tensors made of bytes.
PREPARATIONS: Dict[str, Callable[[str, torch.dtype], None]] = {
    "copy": _copy,  # between layouts
    "convert": _convert,  # from float64 or complex128, and back; on the CPU
    "conjugate": _conjugate,  # a view that is conjugated when it is read
    "negate": _negate,
    "mse_loss": _mse_loss,  # and its backward
    "embedding_bag": _embedding_bag,
    "relu": _of(torch.nn.functional.relu),  # this and the others with their backward
    "leaky_relu": _of(torch.nn.functional.leaky_relu),
    "elu": _of(torch.nn.functional.elu),
    "gelu": _of(torch.nn.functional.gelu),
    "tanh": _of(torch.tanh),
    "sigmoid": _of(torch.sigmoid),
    "softplus": _of(torch.nn.functional.softplus),
    "layer_norm": _of(lambda value: torch.nn.functional.layer_norm(value, (2,))),
    "batch_norm": _of(lambda value: torch.nn.functional.batch_norm(value, None, None, training=True)),
}


def _shortly(problem: BaseException) -> str:
    """What an error says, without the list of all backends that torch may add."""
    lines = str(problem).strip().splitlines() or [type(problem).__name__]
    return re.split(r"\.\s", lines[0])[0][:200]


@cache
def lack(preparation: str, device: str, dtype: torch.dtype) -> str:
    """Why this torch does not offer a preparation; "" where it does, or fails for another reason."""
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            PREPARATIONS[preparation](device, dtype)
    except Exception as problem:
        if refuses(problem):
            return f"{preparation}: {_shortly(problem)}"
    return ""


def require(preparation: str, device: Any, dtype: torch.dtype) -> None:
    """Raise NotOffered where this torch lacks a preparation."""
    reason = lack(preparation, str(device), dtype)
    if reason:
        raise NotOffered(reason)
