"""What laws are about refuses for one dtype: that is broken, and not what a torch may lack."""

from typing import Any, Callable

import torch

from frostproof.properties.selftest.faults.fault import fault
from frostproof.properties.selftest.faults.patching import wrap


def _refuse(name: str) -> None:
    def around(original: Any, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if tensor.dtype is torch.bfloat16:
            raise NotImplementedError(f"\"{name}_cpu\" not implemented for 'BFloat16'")
        return original(tensor, *args, **kwargs)

    wrap(torch.Tensor, name, around)


def _works(call: Callable[[torch.Tensor], Any]) -> bool:
    try:
        call(torch.ones(2, dtype=torch.bfloat16))
    except NotImplementedError:
        return False
    return True


@fault("D1", "D2", "D5", "D7", witness=lambda: _works(torch.Tensor.detach))
def detach_refuses_bfloat16() -> None:
    """detach has no kernel for bfloat16."""
    _refuse("detach")


@fault("C1", "C2", "C3", "C5", witness=lambda: _works(torch.Tensor.clone))
def clone_refuses_bfloat16() -> None:
    """clone has no kernel for bfloat16."""
    _refuse("clone")


@fault("D1", "D2", "D5", "F1", "F5", witness=lambda: _works(torch.Tensor.requires_grad_))
def requires_grad_refuses_bfloat16() -> None:
    """requires_grad_ has no kernel for bfloat16."""
    _refuse("requires_grad_")
