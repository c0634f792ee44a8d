"""xdist's load scheduling where only some workers have a device: each test goes where it can run."""

from typing import Any, Dict, List, Optional

from xdist.scheduler import LoadScheduling

from frostproof.properties.harness.machine import assignment

AHEAD = 2  # xdist's worker wants its next test before it starts one


def devices_of(node: Any) -> Dict[str, int]:
    """The number of a worker's device, by kind."""
    return {kind: seat[0] for kind, seat in node.workerinput["frostproof_seats"].items()}


class DeviceScheduling(LoadScheduling):
    """Workers with a device take its tests first and then any other; the rest takes the others."""

    pending: List[int]
    collection: Optional[List[str]]
    kinds: List[str]  # that are shared out

    def _next(self, node: Any, number: int) -> List[int]:
        """Pending tests for a worker, those that only few workers can run first."""
        assert self.collection is not None
        held = [devices_of(other) for other in self.nodes]
        seated = {kind: [one[kind] for one in held if kind in one] for kind in self.kinds}
        own, tests = devices_of(node), self.collection
        able = [index for index in self.pending if assignment.fits(tests[index], own, seated)]
        able.sort(key=lambda index: assignment.needs(tests[index], self.kinds) is None)
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
