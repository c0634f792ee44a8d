"""Processes that do what may kill them, or what needs several of them, and leave none behind.

They are forked from a server that has imported torch once, where the system can fork; else
each imports it anew. A worker answers by its pipe, so that its death is seen at once.
"""

import importlib
import multiprocessing
import multiprocessing.connection
import signal
import time
import traceback
from typing import Any, Callable, Dict, List, Sequence

PATIENCE = 60.0  # seconds that an answer may take


class WorkerDied(RuntimeError):
    """A worker ended, or did not answer in time, in the middle of a task."""


def _serve(pipe: Any, plugins: Sequence[str]) -> None:
    import torch

    torch.set_num_threads(1)
    for plugin in plugins:
        importlib.import_module(plugin)
    while True:
        try:
            task, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = (True, task(*arguments))
        except Exception:
            answer = (False, traceback.format_exc(limit=-4))
        pipe.send(answer)


def context() -> Any:
    """How the processes are started, for ``multiprocessing``."""
    methods = multiprocessing.get_all_start_methods()
    if "forkserver" not in methods:
        return multiprocessing.get_context("spawn")
    made = multiprocessing.get_context("forkserver")
    # what every child needs is imported once, by the server; pytest is what runs this process
    made.set_forkserver_preload(["pytest", "hypothesis", f"{__package__}.preloaded", __name__])
    return made


def _ending(code: Any) -> str:
    if code is None:
        return "no answer came in time"
    if code < 0:
        try:
            return f"the process was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"the process was ended by signal {-code}"
    return f"the process ended with exit code {code}"


class Workers:
    """So many worker processes, for a ``with`` block; plugins: modules that each imports first."""

    def __init__(self, count: int, plugins: Sequence[str] = ()) -> None:
        self.count, self.plugins = count, tuple(plugins)
        self.pipes: List[Any] = []
        self.processes: List[Any] = []

    def __enter__(self) -> "Workers":
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def start(self) -> None:
        """Start the processes."""
        how = context()
        for _ in range(self.count):
            ours, theirs = how.Pipe()
            process = how.Process(target=_serve, args=(theirs, self.plugins), daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)

    def stop(self) -> None:
        """End the processes, those that hang by force."""
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.join(2)
            if process.is_alive():
                process.kill()
                process.join()
        self.pipes, self.processes = [], []

    def restart(self) -> None:
        """Fresh processes in place of these."""
        self.stop()
        self.start()

    def ask(self, task: Callable[..., Any], *arguments: Any) -> List[Any]:
        """What ``task(*arguments)`` returns in each process; a ``Rank`` is its number in each.

        Raises WorkerDied where one ends or hangs (all are then fresh), RuntimeError with the
        child's error where ``task`` raises.
        """
        for number, sent in enumerate(self.pipes):
            mine = tuple(number if each is Rank else each for each in arguments)
            try:
                sent.send((task, mine))
            except (BrokenPipeError, OSError):
                pass  # it has died: seen below
        answers: Dict[Any, Any] = {}
        failed = ""
        until = time.monotonic() + PATIENCE
        waiting = dict(zip(self.pipes, self.processes))
        while waiting:
            # the others of one that failed may wait for it in vain
            left = until - time.monotonic() if not failed else 1.0
            ready = multiprocessing.connection.wait(list(waiting), max(left, 0))
            if not ready and failed:
                self.restart()
                break
            pipe: Any = ready[0] if ready else next(iter(waiting))
            process = waiting.pop(pipe)
            try:
                if not ready:
                    raise EOFError
                good, answer = pipe.recv()
            except (EOFError, OSError):
                process.join(1)
                ending = _ending(process.exitcode)
                self.restart()
                raise WorkerDied(ending) from None
            answers[pipe] = answer
            failed = failed or ("" if good else answer.strip().split("\n")[-1][:300])
        if failed:
            raise RuntimeError(f"in another process: {failed}")
        return [answers[pipe] for pipe in self.pipes]


class Rank:
    """Stands for the number of a worker among the arguments of ``Workers.ask``."""
