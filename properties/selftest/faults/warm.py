"""A process that has imported torch, pytest and Hypothesis, and forks a run for each request.

Reads one JSON line {"arguments": [module, ...], "environment", "output", "limit"} after another
from stdin, runs ``python -m module ...`` in a fork and its own process group, and answers with
{"code"}: null where the run went past its limit. Nothing of the harness is imported before
the fork, so a fault is applied to a torch that nobody has touched.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import sys
import time
from typing import Any, Dict, Optional

HEAVY = ("torch", "torch._dynamo", "hypothesis.strategies", "hypothesis.stateful", "pytest", "xdist")


def _preload() -> float:
    started = time.monotonic()
    for name in HEAVY:
        try:
            importlib.import_module(name)
        except ImportError:  # torch 1.8 has no _dynamo
            continue
    gc.freeze()  # pages that every fork shares
    return time.monotonic() - started


def _become(request: Dict[str, Any]) -> None:
    """Turn this forked child into the run; never returns."""
    code: Any = 1
    try:
        os.setsid()
        output = os.open(request["output"], os.O_WRONLY)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for ours, theirs in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(ours, theirs)
        os.environ.update(request["environment"])
        sys.argv = list(request["arguments"])
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def _wait(child: int, limit: Optional[float]) -> Optional[int]:
    """The child's exit code; None where its process group had to be killed at the limit."""
    end = None if limit is None else time.monotonic() + limit
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        if end is not None and time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.01)


def main() -> None:
    """Answer requests until stdin ends."""
    print(json.dumps({"seconds": _preload()}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(request)
        print(json.dumps({"code": _wait(child, request["limit"])}), flush=True)


if __name__ == "__main__":
    main()
