"""The device "mirror", for machines without an accelerator: host memory that acts like a device's.

With this folder on ``PYTHONPATH``, ``import torch`` loads it (an entry point "torch.backends",
torch 2.5 and later); ``pytest -p mirror_device`` does elsewhere. Its library is built once for
each torch, with torch's own cpp_extension, and kept in ``MIRROR_BUILD`` (default: the user's
cache). MIRROR_DEVICES, MIRROR_MIB: how many there are, and the memory of each; MIRROR_FAULT:
see mirror_faults.py; MIRROR_ASYNC=1: see mirror.cpp.
"""

import atexit
import contextlib
import hashlib
import os
import shutil
import tempfile
import time
import types
from pathlib import Path
from typing import Any, Tuple

import torch

HERE = Path(__file__).resolve().parent
PROBLEM = ""  # why there is no such device here


def _place() -> Path:
    """Where the library of this torch is kept."""
    root = os.environ.get("MIRROR_BUILD")
    cache = Path(root) if root else Path.home() / ".cache" / "mirror_device"
    source = (HERE / "mirror.cpp").read_bytes()
    digest = hashlib.sha256(source + torch.__file__.encode()).hexdigest()[:12]
    return cache / f"mirror-{torch.__version__}-{digest}.so"


def _build(place: Path) -> None:
    """Compile; other processes see the whole library or none."""
    from torch.utils import cpp_extension

    place.parent.mkdir(parents=True, exist_ok=True)
    folder = tempfile.mkdtemp(prefix="mirror-", dir=str(place.parent))
    try:
        cpp_extension.load(
            "mirror",
            [str(HERE / "mirror.cpp")],
            extra_cflags=["-std=c++20", "-O1", "-g0"],
            build_directory=folder,
            with_cuda=False,
            is_python_module=False,
        )
        os.replace(os.path.join(folder, "mirror.so"), str(place))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _load() -> None:
    """Load an earlier build, or build. Raises RuntimeError or OSError where that is impossible."""
    place, version = _place(), tuple(map(int, torch.__version__.split(".")[:2]))
    if version < (2, 4):
        raise RuntimeError(f"torch {torch.__version__} is too old for it: 2.4 is the first")
    if place.exists():
        torch.ops.load_library(str(place))
    else:
        _build(place)  # which loads it as well


def _index(device: Any = None) -> int:
    index = device if device is None or isinstance(device, int) else torch.device(device).index
    return int(torch.ops.mirror.current()) if index is None or index < 0 else int(index)


class _Current(contextlib.ContextDecorator):
    """``torch.mirror.device``: another device is the current one for a while."""

    def __init__(self, which: Any) -> None:
        self.index = _index(which)

    def __enter__(self) -> None:
        self.was = torch.ops.mirror.current()
        torch.ops.mirror.set(self.index)

    def __exit__(self, *_: Any) -> None:
        torch.ops.mirror.set(self.was)


def _module() -> types.ModuleType:
    """``torch.mirror``: what torch and its users look for."""
    ops = torch.ops.mirror
    module = types.ModuleType("torch.mirror", __doc__)

    def manual_seed(seed: int) -> None:
        ops.seed(ops.current(), seed)

    def manual_seed_all(seed: int) -> None:
        for index in range(ops.count()):
            ops.seed(index, seed)

    def memory(which: Any = None) -> Tuple[int, int]:
        """(free, total) bytes."""
        free, total = ops.memory(_index(which))
        return int(free), int(total)

    def nothing(*_: Any) -> None:
        pass

    facts = {
        "device": _Current,
        "is_available": lambda: ops.count() > 0,
        "is_initialized": lambda: True,
        "init": nothing,
        "_lazy_init": nothing,
        "_is_in_bad_fork": lambda: False,
        "device_count": ops.count,
        "current_device": ops.current,
        "set_device": lambda which: ops.set(_index(which)),
        "synchronize": lambda which=None: ops.synchronize(_index(which)),
        "empty_cache": nothing,
        "mem_get_info": memory,
        "memory_info": memory,
        "manual_seed": manual_seed,
        "manual_seed_all": manual_seed_all,
        "get_rng_state": lambda which="mirror": ops.state(_index(which)),
        "set_rng_state": lambda state, which="mirror": ops.set_state(_index(which), state),
        "get_amp_supported_dtype": lambda: [torch.bfloat16, torch.float16],
        "get_device_properties": lambda which=None: types.SimpleNamespace(
            name="mirror", total_memory=memory(which)[1]
        ),
    }
    for name, fact in facts.items():
        setattr(module, name, fact)
    return module


def _register() -> None:
    utils: Any = torch.utils
    utils.rename_privateuse1_backend("mirror")
    torch._register_device_module("mirror", _module())  # type: ignore[attr-defined]
    utils.generate_methods_for_privateuse1_backend(for_storage=True)


def _begin() -> None:
    global PROBLEM
    try:
        _load()
        _register()
        # pytorch/pytorch#190489: a thread of autograd that begins, or lets go of a tensor, while the
        # interpreter is taken down ends the process ("terminate called without an active exception")
        atexit.register(time.sleep, 0.1)
        if os.environ.get("MIRROR_FAULT"):
            import mirror_faults

            mirror_faults.install(os.environ["MIRROR_FAULT"])
    except (AttributeError, ImportError, OSError, RuntimeError) as problem:
        # "import torch" must work where no compiler is, or the torch is too old
        lines = str(problem).strip().splitlines()
        PROBLEM = f"{type(problem).__name__}: {lines[0] if lines else ''}"


_begin()
