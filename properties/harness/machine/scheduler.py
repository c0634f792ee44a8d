"""xdist's load scheduling where only some workers have a GPU: each test goes where it can run."""

from typing import Any, List, Optional

from xdist.scheduler import LoadScheduling

from frostproof.properties.harness.machine import gpus

AHEAD = 2  # xdist's worker wants its next test before it starts one


def gpu_of(node: Any) -> Any:
    """The GPU of a worker, or None."""
    return node.workerinput.get("frostproof_gpu")


class DeviceScheduling(LoadScheduling):
    """Workers with a GPU take its tests first and then any other; the rest takes the others."""

    pending: List[int]
    collection: Optional[List[str]]

    def _next(self, node: Any, number: int) -> List[int]:
        """Pending tests for a worker, those that only few workers can run first."""
        assert self.collection is not None
        seated = [gpu for gpu in map(gpu_of, self.nodes) if gpu is not None]
        gpu = gpu_of(node)
        able = [index for index in self.pending if gpus.fits(self.collection[index], gpu, seated)]
        able.sort(key=lambda index: gpus.needs(self.collection[index]) is None)  # type: ignore[index]
        return able[:number]

    def _fill(self, node: Any) -> None:
        if node.shutting_down:
            return
        wanted = AHEAD - len(self.node2pending[node])
        tests = self._next(node, wanted) if wanted > 0 else []
        if tests:
            self.pending = [index for index in self.pending if index not in tests]
            self.node2pending[node].extend(tests)
            node.send_runtest_some(tests)
        if len(tests) < wanted:
            node.shutdown()  # there is nothing left for it; it ends what it has

    def check_schedule(self, node: Any, duration: float = 0) -> None:
        """Give a worker its next tests, or let it end."""
        self._fill(node)

    def schedule(self) -> None:
        """Begin, or use workers that came later."""
        assert self.collection_is_completed
        if self.collection is None:
            if not self._check_nodes_have_same_collection():
                return
            self.collection = next(iter(self.node2collection.values()))
            self.pending[:] = range(len(self.collection))
        for node in self.nodes:
            self._fill(node)
