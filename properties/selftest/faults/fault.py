"""What a seeded fault is, and the table of all of them."""

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Callable, Dict, Tuple


@dataclass(frozen=True)
class Fault:
    """A defect that torch could have.

    name: of the function that applies it; sentence: what is broken, for whom;
    laws: the ids of the laws of which one should catch it; witness: plain torch,
    True where torch is healthy and False under the fault, so that a fault that
    does nothing is never counted; smoke: part of the short set; since: the first
    torch version that has what is broken; needs: a package without which it cannot be, or be seen.
    """

    name: str
    sentence: str
    laws: Tuple[str, ...]
    apply: Callable[[], None]
    witness: Callable[[], bool]
    smoke: bool = False
    since: Tuple[int, int] = (1, 8)
    needs: str = ""


FAULTS: Dict[str, Fault] = {}


def fault(
    *laws: str,
    witness: Callable[[], bool],
    smoke: bool = False,
    since: Tuple[int, int] = (1, 8),
    needs: str = "",
) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register the function that breaks torch; its docstring's first line is the sentence."""

    def register(apply: Callable[[], None]) -> Callable[[], None]:
        name = apply.__name__
        if name in FAULTS:
            raise ValueError(f"two faults are named {name}")
        sentence = (apply.__doc__ or "").strip().split("\n")[0]
        if not sentence or not laws:
            raise ValueError(f"the fault {name} needs a docstring and the laws that catch it")
        FAULTS[name] = Fault(name, sentence, laws, apply, witness, smoke, since, needs)
        return apply

    return register


# One module for each subject; all others in this folder run and report them.
FAULT_MODULES = (
    "across",
    "asking",
    "backward",
    "clipping",
    "clone",
    "conversions",
    "detach",
    "eager",
    "exact",
    "flags",
    "functional",
    "groups",
    "kernels",
    "layers",
    "memory",
    "modes",
    "modules",
    "operator_modules",
    "operators",
    "offers",
    "optimizer_options",
    "optimizers",
    "refusals",
    "replicas",
    "requires_grad",
    "tools",
    "ways",
    "wrappers",
)


def all_faults() -> Dict[str, Fault]:
    """Every fault of the modules in this folder, by name."""
    for subject in FAULT_MODULES:
        module = f"{__package__}.{subject}"
        if importlib.util.find_spec(module) is not None:
            importlib.import_module(module)
    return dict(sorted(FAULTS.items()))
