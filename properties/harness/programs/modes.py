"""The ways in which torch can run a function, as data: each is some lines of plain torch.

The lines define ``way(f)``: a callable that takes what ``f`` takes. The harness runs them, and
they are printed in the programs that show a difference, so that both are the same thing.
"""

import functools
import sys
from dataclasses import dataclass
from typing import Any, Callable, Collection, Dict, FrozenSet, Tuple

import torch

from frostproof.properties.harness.programs.observe import ASPECTS, SCENES
from frostproof.properties.harness.running.call_modes import can_compile
from frostproof.strategies.capabilities import offered
from frostproof.strategies.programs import Program

ALL = frozenset(ASPECTS)
VALUES = frozenset(("error", "structure", "shape", "dtype", "value", "input value", "internal"))
GRADIENTS = VALUES | {"requires_grad", "backward", "gradient"}
CHEAP, COMPILED, PROCESS = "cheap", "compiled", "process"


@dataclass(frozen=True)
class Mode:
    """One way of running a program.

    code: plain torch that defines ``way(f)``; needs: dotted public names without which this
    torch has not got it; cost: CHEAP, COMPILED or PROCESS; promises: the aspects in which it
    must agree with eager; scenes: those that it is tried in; without: kinds of statements, or
    names of them, that it documents to treat otherwise; broken: with a graph break in the middle;
    traced: it is made on inputs, which are made for that; lax: zeros for no gradient; compiles:
    it needs torch.compile; reference: plain torch that defines ``reference(f)``, what eager does
    instead of the plain call where the mode returns something else.
    """

    name: str
    code: str
    needs: Tuple[str, ...] = ()
    cost: str = CHEAP
    promises: FrozenSet[str] = ALL
    scenes: Tuple[str, ...] = SCENES
    without: Collection[str] = ()
    broken: bool = False
    traced: bool = False
    lax: bool = False
    compiles: bool = False
    reference: str = ""

    def missing(self) -> str:
        """Why this torch has not got it; empty where it has."""
        if self.compiles and not can_compile():
            version = ".".join(map(str, sys.version_info[:2]))
            return f"torch {torch.__version__} has no torch.compile for Python {version}"
        for name in self.needs:
            if not offered(name):
                return f"torch {torch.__version__} has no {name}"
        return ""

    def takes(self, program: Program) -> bool:
        """Whether it promises anything of this program."""
        for statement, _ in program.walk():
            if statement.kind in self.without or statement.operation in self.without:
                return False
        return not any(
            {each.kind, each.dtype, each.layout} & {*self.without} for each in program.inputs
        )

    def way(self) -> Callable[..., Any]:
        """``way`` as the code defines it."""
        return _defined(self.code, "way")

    def eager(self) -> Callable[..., Any]:
        """What eager does in its place: ``reference``, or nothing special."""
        return _defined(self.reference, "reference") if self.reference else _itself


def _defined(code: str, name: str) -> Callable[..., Any]:
    scope: Dict[str, Any] = {}
    exec(_compiled(code), scope)
    made: Callable[..., Any] = scope[name]
    return made


def _itself(f: Callable[..., Any]) -> Callable[..., Any]:
    return f


@functools.cache
def _compiled(code: str) -> Any:
    return compile(code, "<mode>", "exec")


def _compile(backend: str, dynamic: bool, broken: bool) -> Mode:
    names = ["compile", backend] + ["dynamic"] * dynamic + ["break"] * broken
    return Mode(
        "-".join(names),
        "import torch\n\n\n"
        f'def way(f):\n    return torch.compile(f, backend="{backend}", dynamic={dynamic})\n',
        ("torch.compile", *(("torch._dynamo.graph_break",) if broken else ())),
        COMPILED,
        ALL - {"stride"} if backend == "inductor" else ALL,
        broken=broken,
        compiles=True,
    )


BACKENDS = ("eager", "aot_eager", "aot_eager_decomp_partition", "inductor")
COMPILES = tuple(
    _compile(backend, dynamic, broken)
    for backend in BACKENDS
    for dynamic in (False, True)
    for broken in (False, True)
)
AROUND = """\
import torch


def way(f):
    def run(*arguments):
        with {context}:
            return f(*arguments)

    return run
"""
NOTHING = """\
import torch
from {module} import {base}


class Nothing({base}):
    def {method}(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {{}}))


def way(f):
    def run(*arguments):
        with Nothing():
            return f(*arguments)

    return run
"""
TRACED = """\
import torch


def way(f, *examples):
    return {made}
"""
HOOKS = "torch.autograd.graph.saved_tensors_hooks"
PLAIN = tuple(scene for scene in SCENES if scene not in ("no_grad", "inference"))
# what depends on the run, and not on tensors alone, a trace cannot hold
RUNNING = ("branch", "hook", "module", "gradient", "flag", "function", "mode")
STATE = ("parameter", "frozen_parameter", "buffer")
CHECKPOINT = """\
import torch
import torch.utils.checkpoint


def way(f):
    def run(*arguments):
        return torch.utils.checkpoint.checkpoint(f, *arguments, use_reentrant={reentrant})

    return run
"""
CALLED = (
    Mode(
        "checkpoint",
        CHECKPOINT.format(reentrant=False),
        ("torch.utils.checkpoint.checkpoint", "torch.autograd.graph.saved_tensors_hooks"),
        # what is run a second time must be pure: writes, hooks and what is kept are not
        without=(
            "write",
            "metadata",
            "flag",
            "hook",
            "gradient",
            "module",
            "function",
            "mode",
            "detach_",
        ),
        scenes=("first", "flipped", "no_grad", "changed"),
    ),
    Mode(
        "saved-identity",
        AROUND.format(context=f"{HOOKS}(lambda kept: kept, lambda kept: kept)"),
        (HOOKS,),
        promises=ALL - {"backward accepts"},  # what hooks unpack has its version checked by nobody
    ),
    Mode(
        "saved-copies",
        AROUND.format(context=f"{HOOKS}(lambda kept: kept.clone(), lambda kept: kept)"),
        (HOOKS,),
        promises=ALL - {"backward", "backward accepts", "gradient", "fired"},
    ),
    Mode(
        "saved-on-cpu",
        AROUND.format(context="torch.autograd.graph.save_on_cpu()"),
        ("torch.autograd.graph.save_on_cpu",),
        promises=ALL - {"backward", "backward accepts", "gradient", "fired"},
    ),
    Mode(
        "function-mode",
        NOTHING.format(module="torch.overrides", base="TorchFunctionMode", method="__torch_function__"),
        ("torch.overrides.TorchFunctionMode",),
    ),
    Mode(
        "dispatch-mode",
        NOTHING.format(
            module="torch.utils._python_dispatch", base="TorchDispatchMode", method="__torch_dispatch__"
        ),
        ("torch.utils._python_dispatch.TorchDispatchMode",),
    ),
    Mode(
        "thread",
        """\
from concurrent.futures import ThreadPoolExecutor


def way(f):
    def run(*arguments):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(f, *arguments).result()

    return run
""",
        scenes=PLAIN,
        promises=ALL - {"mode"},  # each thread has its own
    ),
    Mode(
        "subclass",
        """\
import torch


class Plain(torch.Tensor):
    pass


def way(f):
    def run(*arguments):
        return f(*(each.as_subclass(Plain) for each in arguments))

    return run
""",
        ("torch.Tensor.as_subclass",),
        promises=ALL
        - {"identity", "is_leaf", "grad_fn", "input flags", "input grad_fn", "input shape"},
        # what is passed is a view of the input: what is refused for views is refused
        without=(
            "write",
            "flag",
            "branch",
            "detach_",
            "metadata",
            "hook",
            "gradient",
            "same",
            "function",
        ),
        scenes=("first", "flipped", "changed"),
    ),
)
FUNCTIONAL = (
    Mode(
        "functionalize",
        TRACED.replace("way(f, *examples)", "way(f)").format(made="torch.func.functionalize(f)"),
        ("torch.func.functionalize",),
        promises=VALUES,
        without=(*RUNNING, *STATE, "same", "view_of", "detached_of", "neighbour"),
        scenes=("first", "again", "changed", "no_grad"),
    ),
    Mode(
        "functional_call",
        """\
import torch


def way(f):
    def run(*arguments):
        held = dict(f.named_parameters(), **dict(f.named_buffers()))
        return torch.func.functional_call(f, held, arguments)

    return run
""",
        ("torch.func.functional_call",),
        without=("frozen", "live", "result", "same", "view_of", "detached_of", "neighbour"),
    ),
    Mode(
        "make_fx",
        "from torch.fx.experimental.proxy_tensor import make_fx\n\n\n"
        "def way(f, *examples):\n    return make_fx(f)(*examples)\n",
        ("torch.fx.experimental.proxy_tensor.make_fx",),
        promises=GRADIENTS - {"requires_grad", "backward", "gradient"},
        # grad modes leave no trace: documented
        without=(*RUNNING, *STATE, "block"),
        traced=True,
        scenes=("first", "changed"),
    ),
    Mode(
        "make_fx-fake",
        "from torch.fx.experimental.proxy_tensor import make_fx\n\n\n"
        'def way(f, *examples):\n    return make_fx(f, tracing_mode="fake")(*examples)\n',
        ("torch.fx.experimental.proxy_tensor.make_fx",),
        promises=GRADIENTS - {"requires_grad", "backward", "gradient"},
        # grad modes leave no trace: documented
        without=(*RUNNING, *STATE, "block"),
        traced=True,
        scenes=("first", "changed"),
    ),
    Mode(
        "jit-trace",
        TRACED.format(made="torch.jit.trace(f, examples, check_trace=False)"),
        ("torch.jit.trace",),
        promises=GRADIENTS,
        without=(*RUNNING, *STATE, "block", "view_as_complex", "same"),
        traced=True,
        scenes=("first", "changed"),
    ),
)
COPIED = """\
{imports}
def way(f):
    def run(*arguments):
        made = {made}
        return made(*arguments)

    return run
"""
# what the copy does to its own parameters and buffers is not seen here
OF_COPIES = VALUES - {"input value"} | {"requires_grad", "is_leaf", "grad_fn", "mode"}
NOT_STATE = ("frozen", "live", "result", "same", "view_of", "detached_of", "neighbour")
# a copy is dense and no view, and counts from zero
NOT_COPIED = (
    *("expanded", "transposed", "slice", "step"),
    *("as_strided", "if_contiguous", "if_offset", "if_view", "times_version", "if_new_version"),
)
CALLED_ONCE = ("first", "flipped", "changed")
COPIES = (
    Mode(
        "module-deepcopy",
        COPIED.format(imports="import copy\n\n", made="copy.deepcopy(f)"),
        promises=OF_COPIES,
        without=(*NOT_STATE, *NOT_COPIED),
        scenes=CALLED_ONCE,
    ),
    Mode(
        "module-pickle",
        COPIED.format(
            imports="import pickle\n\n\n"
            "def loaded(f):  # its state: a class that no file defines cannot be pickled\n"
            "    made = type(f).__new__(type(f))\n"
            "    made.__setstate__(pickle.loads(pickle.dumps(f.__dict__)))\n"
            "    return made\n\n",
            made="loaded(f)",
        ),
        promises=OF_COPIES,
        without=(*NOT_STATE, *NOT_COPIED),
        scenes=CALLED_ONCE,
    ),
)
SCRIPT = Mode(
    "jit-script",
    """\
import torch


def way(f):
    def run(*arguments):
        try:
            made = torch.jit.script(f)
        except Exception as problem:  # Python that it does not read
            raise NotImplementedError(str(problem)) from problem
        return made(*arguments)

    return run
""",
    ("torch.jit.script",),
    promises=GRADIENTS,
    without=(*RUNNING, *STATE, "same"),
    scenes=("first", "again", "changed"),
)
WRAP = """\
import torch


class Wrapped(torch.nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, *arguments):
        return self.f(*arguments)


def way(f, *examples):
    module = f if isinstance(f, torch.nn.Module) else Wrapped(f)
    return {made}
"""
_EXPORT = "torch.export.export(module, examples, strict={strict}){after}.module()"


def _export(name: str, strict: bool, after: str = "") -> Mode:
    return Mode(
        name,
        WRAP.format(made=_EXPORT.format(strict=strict, after=after)),
        ("torch.export.export",),
        COMPILED,
        promises=GRADIENTS - {"requires_grad", "backward", "gradient"},
        without=(*RUNNING, *STATE),
        traced=True,
        scenes=("first", "changed", "no_grad"),
        compiles=True,
    )


EXPORTS = (
    _export("export", False),
    _export("export-strict", True),
    _export("export-decomposed", False, ".run_decompositions()"),
)
MODES: Dict[str, Mode] = {
    mode.name: mode for mode in (*CALLED, *COPIES, *FUNCTIONAL, SCRIPT, *COMPILES, *EXPORTS)
}
