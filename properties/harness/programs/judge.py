"""One program in one mode beside eager: how do they differ?"""

import hashlib
import warnings
from collections import OrderedDict
from typing import Any, Callable, List, Optional, Sequence, Tuple

import torch

from frostproof.properties.harness.programs import transforms  # noqa: F401  (adds its modes)
from frostproof.properties.harness.programs.compare import Difference, differences
from frostproof.properties.harness.programs.execute import Live, live
from frostproof.properties.harness.programs.modes import MODES, Mode
from frostproof.properties.harness.programs.observe import Observation, observe
from frostproof.properties.harness.running.call_modes import forget_compiled
from frostproof.strategies.capabilities import offered
from frostproof.strategies.programs import Program

# Errors with which a mode says that it does not take a program: a verdict of its own.
REFUSALS = (
    "Unsupported",
    "UserError",
    "DataDependentOutputException",
    "GuardOnDataDependentSymNode",
    "NotImplementedError",
    "UnsupportedOperatorException",
    "DynamicOutputShapeException",
)
REFUSING = (
    *("Batching rule not implemented", "vmap: ", "Trying to use forward AD with"),
    "view_fn not supported by compiled autograd",
    "It appears that you're trying to get value out of a tracing tensor",
)
# What functionalization bans by name: writes to views that overlap themselves, and some of
# those to views of inputs.
BANNED = (
    "functionalization encountered a tensor being mutated that has internal overlap",
    "encountered a mutation on a view chain",
    "aot_autograd() does not yet handle",
)
_INTERNAL = (AssertionError, KeyError, IndexError, AttributeError, TypeError, NameError)


class Poisoned(Exception):
    """After the mode has run a program, this process cannot even make a tensor."""


def healthy(device: str = "cpu") -> str:
    """What torch says to the simplest thing; empty where it does it."""
    try:
        torch.ones(2, device=device).requires_grad_().mul(2).sum().backward()
        return ""
    except RuntimeError as problem:
        return f"{type(problem).__name__}: {problem}"


class Refused(Exception):
    """The mode says that it does not take this program."""


_kept: "OrderedDict[Tuple[Program, str, str, str], Observation]" = OrderedDict()


def eager(program: Program, mode: Mode, scene: str, device: str = "cpu") -> Observation:
    """What eager says, in a scene; the last few are kept."""
    key = (program, scene, device, mode.reference)
    if key not in _kept:
        held = live(program)
        _kept[key] = observe(held, mode.eager()(held.call), scene, device)
        if len(_kept) > 200:
            _kept.popitem(last=False)
    return _kept[key]


def _tag_caches(program: Program) -> None:
    """Let a program find what was compiled for itself only.

    The key of AOTAutograd's cache on disk does not tell inputs that share memory from others.
    """
    if offered("torch.compiler.config.cache_key_tag"):
        torch.compiler.config.cache_key_tag = hashlib.sha256(repr(program).encode()).hexdigest()


def _made(mode: Mode, held: Live, device: str) -> Callable[..., Any]:
    """The callable of a mode; Refused where it does not take the program."""
    way = mode.way()
    if not mode.traced:
        made: Callable[..., Any] = way(held.call)
        return made
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made = way(held.call, *held.renew(device))
        except _INTERNAL:
            raise
        except Exception as problem:
            raise Refused(f"{type(problem).__name__}: {problem}") from problem
        finally:
            torch.set_grad_enabled(True)
        return made


def judge(
    program: Program, name: str, scenes: Optional[Sequence[str]] = None, device: str = "cpu"
) -> List[Difference]:
    """The differences from eager in these scenes (default: the mode's), on one callable.

    Raises Refused where the mode says that it does not take the program.
    """
    mode = MODES[name]
    if not mode.takes(program):
        raise Refused("it is documented to treat a statement otherwise")
    chosen = [scene for scene in (scenes or mode.scenes) if scene in mode.scenes]
    if mode.compiles:
        forget_compiled()
        _tag_caches(program)
    held = live(program, broken=mode.broken)
    found: List[Difference] = []
    if mode.traced and ("error", "call") in eager(program, mode, "first", device):
        raise Refused("eager refuses it, and so there is nothing to trace")
    try:
        call = _made(mode, held, device)
    except _INTERNAL as problem:
        return [Difference("internal", "trace", "runs", (type(problem).__name__, str(problem)[:4000]))]
    for scene in chosen:
        expected = eager(program, mode, scene, device)
        seen = observe(held, call, scene, device, mode.compiles)
        wrong = healthy(device)
        if wrong:
            raise Poisoned(wrong)
        error = seen.get(("error", "call"))
        if error is not None:
            banned = any(each in error[1] for each in BANNED)
            if banned or error[0] in REFUSALS or error[1].startswith(REFUSING):
                raise Refused(f"{error[0]}: {error[1]}")
        found += differences(expected, seen, mode.promises, scene, mode.lax)
    return found
