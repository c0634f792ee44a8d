"""The model's tape: scalar nodes for gradients, operations for what backward must find unchanged."""

import heapq
import itertools
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, Optional, Tuple

from frostproof.properties.harness.reference.eager.memory import Counter, NotModelled, Storage


class GradMode:
    """Whether operations are recorded now."""

    enabled = True


_serial = itertools.count()


class Node:
    """One scalar of the tape, with its derivatives by its parents; a leaf's cell has ``leaf``."""

    def __init__(
        self,
        parents: Iterable[Tuple["Node", float]] = (),
        leaf: Optional[Tuple["History", int]] = None,
    ) -> None:
        self.parents = tuple(parents)
        self.leaf = leaf
        self.serial = next(_serial)


@dataclass(eq=False)
class Operation:
    """One recorded function: the functions before it, and what it has saved.

    saved: (counter, version then, storage, its writes then): backward refuses where the version
    is another now; a write that was not counted spoils what it computes. leads_on: whether all of
    its gradients go somewhere; torch saves the rest for some functions, and not for others.
    """

    name: str
    before: Tuple["Operation", ...] = ()
    saved: Tuple[Tuple[Counter, int, Storage, int], ...] = ()
    leads_on: bool = True


@dataclass(eq=False)
class History:
    """What autograd knows of a base tensor and its views: they share it, a detached alias does not.

    nodes: by place in the storage; a place without one is constant. operation: what made the
    base last, None for a leaf. gradients: by place, of a leaf.
    """

    requires_grad: bool = False
    leaf: bool = True
    nodes: Dict[int, Node] = field(default_factory=dict)
    operation: Optional[Operation] = None
    gradients: Optional[Dict[int, float]] = None
    views: List[Any] = field(default_factory=list)

    def become_leaf(self, places: Iterable[int]) -> None:
        """Require grad: every place becomes a variable."""
        places = list(places)
        if len(set(places)) < len(places):
            raise NotModelled("a leaf whose elements share memory")
        self.requires_grad = True
        for place in places:
            self.nodes[place] = Node(leaf=(self, place))


def reachable(roots: Iterable[Operation]) -> List[Operation]:
    """The operations that backward runs."""
    found: List[Operation] = []
    waiting, seen = list(roots), set()
    while waiting:
        one = waiting.pop()
        if id(one) not in seen:
            seen.add(id(one))
            found.append(one)
            waiting.extend(one.before)
    return found


def check_saved(roots: Iterable[Operation]) -> None:
    """RuntimeError where an operation that backward runs has lost what it saved."""
    for one in reachable(roots):
        for counter, version, storage, writes in one.saved:
            if counter.version != version and not one.leads_on:
                raise NotModelled("what is saved for a view made under no_grad, after a write")
            if counter.version != version:
                raise RuntimeError(
                    f"{one.name} needs a value that was modified by an inplace operation"
                )
            if storage.writes != writes:
                raise NotModelled("a saved value that was changed through .data, or detached in place")


def differentiate(seeds: Iterable[Tuple[Optional[Node], Any]]) -> Dict[int, Tuple[Node, float]]:
    """The derivative of a weighted sum by every leaf's cell, by the id of its node."""
    slopes: Dict[int, float] = {}
    nodes: Dict[int, Node] = {}
    waiting: List[Tuple[int, int]] = []

    def give(node: Node, slope: float) -> None:
        if id(node) not in nodes:
            nodes[id(node)] = node
            slopes[id(node)] = 0.0
            heapq.heappush(waiting, (-node.serial, id(node)))
        slopes[id(node)] += slope

    for node, slope in seeds:
        if node is not None:
            give(node, slope)
    leaves: Dict[int, Tuple[Node, float]] = {}
    while waiting:
        _, key = heapq.heappop(waiting)
        node, slope = nodes[key], slopes[key]
        if node.leaf is not None:
            leaves[key] = (node, slope)
        for parent, partial in node.parents:
            give(parent, slope * partial)
    return leaves
