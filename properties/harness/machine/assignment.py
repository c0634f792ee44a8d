"""How many workers share each device of a kind, and with how much of its memory.

Figures in, a plan out: nothing here touches a device in this process. Free memory and the
cost of a context are measured by a process of their own.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple

MIB = 2**20
LAWS = 1024 * MIB  # what the laws of one worker may allocate beyond the context
RESERVE = 0.1  # of the free memory, left to others
CONTEXT = 600 * MIB  # assumed where it cannot be measured
LIMIT = 120.0  # seconds for the measurement
UNMEASURED = 2  # workers on each device whose memory cannot be measured

# Arguments: the kind, and the modules of ``pytest -p``. A context's cost is seen from outside only.
PROBE = """
import importlib, json, subprocess, sys
import torch
from frostproof.properties.harness.machine import accelerators
kind = sys.argv[1]
for name in sys.argv[2:]:
    importlib.import_module(name)
def outside():
    ask = ["nvidia-smi", "--query-gpu=uuid,memory.free", "--format=csv,noheader,nounits"]
    lines = subprocess.run(ask, stdout=subprocess.PIPE, universal_newlines=True).stdout.splitlines()
    return {line.split(",")[0].strip(): int(line.split(",")[1]) * 2**20 for line in lines}
try:
    before = outside() if kind == "cuda" else {}
except (OSError, ValueError, IndexError):
    before = {}
found = []
for index in range(accelerators.count(kind)):
    accelerators.select(kind, index)
    a = torch.ones(64, 64, device=f"{kind}:{index}")
    (a @ a).sum().item()
    accelerators.synchronize(f"{kind}:{index}")
    ask = getattr(accelerators.module_of(kind), "get_device_properties", None)
    properties = ask(index) if ask else None
    uuid = "GPU-" + str(getattr(properties, "uuid", ""))
    was = before.get(uuid, list(before.values())[0] if len(before) == 1 else 0)
    now, total = accelerators.memory(kind, index) or (0, getattr(properties, "total_memory", 0))
    if not now and before:
        now = outside().get(uuid, 0)
    found.append({"index": index, "total": total, "free": max(was, now), "context": max(0, was - now)})
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Device:
    """One visible device, in bytes; ``context`` is what a process costs before it allocates.

    total: 0 where the memory is not known.
    """

    kind: str
    index: int
    total: int = 0
    free: int = 0
    context: int = CONTEXT

    @property
    def name(self) -> str:
        """As "cuda:1"."""
        return f"{self.kind}:{self.index}"


@dataclass(frozen=True)
class Seat:
    """A worker's place: its device's index, and the fraction of its memory that it may allocate."""

    index: int
    fraction: Optional[float] = None


@dataclass(frozen=True)
class Plan:
    """The seats on devices of a kind, as many as the workers or fewer; the others take other tests."""

    kind: str
    seats: Tuple[Seat, ...]
    workers: int
    devices: Tuple[Device, ...] = ()

    @property
    def split(self) -> bool:
        """Whether some workers have no device, so that tests must find the right ones."""
        return 0 < len(self.seats) < self.workers

    def sentence(self) -> str:
        """The line of the header."""
        told = []
        for device in self.devices:
            number = sum(seat.index == device.index for seat in self.seats)
            free = f" ({device.free / 2**30:.0f} GiB free)" if device.total else ""
            told.append(f"{number} on {device.name}{free}")
        context = max((device.context for device in self.devices if device.total), default=0)
        cost = f"; a context costs {context // MIB} MiB" if context else ""
        rest = self.workers - len(self.seats)
        others = f"; {rest} without {self.kind}" if rest else ""
        return f"workers {', '.join(told)}{cost}{others}"


def capacity(device: Device) -> int:
    """How many workers a device's free memory allows; one at least."""
    if not device.total:
        return UNMEASURED
    return max(1, int(device.free * (1 - RESERVE)) // (device.context + LAWS))


def plan(kind: str, workers: int, devices: Sequence[Device], asked: Optional[int] = None) -> Plan:
    """Seats for ``workers``, dealt to the devices in turn so that each one works.

    asked: so many workers on each device, whatever its memory. A process's fraction leaves
    memory for every context on its device.
    """
    left = {device.index: asked or capacity(device) for device in devices}
    dealt: List[Device] = []
    while len(dealt) < workers and any(left.values()):
        for device in devices:
            if left[device.index] and len(dealt) < workers:
                left[device.index] -= 1
                dealt.append(device)
    sharing = {device.index: sum(one.index == device.index for one in dealt) for device in devices}

    def fraction(device: Device) -> Optional[float]:
        if not device.total:
            return None
        number = sharing[device.index]
        usable = device.free * (1 - RESERVE) - number * device.context
        return max(0.01, min(1.0, usable / number / device.total))

    seats = tuple(Seat(device.index, fraction(device)) for device in dealt)
    return Plan(kind, seats, workers, tuple(devices))


def named(kind: str, names: Sequence[str], count: int) -> Tuple[int, ...]:
    """The numbers that devices such as "cuda" (all) and "cuda:1" mean."""
    numbers: Set[int] = set()
    for name in names:
        own, _, number = name.partition(":")
        if own == kind:
            numbers.update([int(number)] if number else range(count))
    return tuple(sorted(numbers))


def measure(kind: str, plugins: Sequence[str] = ()) -> List[Device]:
    """The visible devices, measured in a process of its own; none where that fails."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE, kind, *plugins],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            timeout=LIMIT,
            check=True,
        )
        return parse(kind, done.stdout.decode())
    except (OSError, ValueError, KeyError, IndexError, subprocess.SubprocessError):
        return []


def parse(kind: str, text: str) -> List[Device]:
    """What the measurement printed. Raises ValueError, KeyError or IndexError for anything else."""
    facts: List[Dict[str, Any]] = json.loads(text.splitlines()[-1])
    return [
        Device(
            kind,
            int(one["index"]),
            int(one["total"]),
            int(one["free"]),
            int(one["context"]) or (CONTEXT if kind == "cuda" else 0),
        )
        for one in facts
    ]


class Seats:
    """Who sits where: a worker that dies frees its seat for the one that replaces it."""

    def __init__(self, made: Plan) -> None:
        self.plan = made
        self.taken: Dict[str, int] = {}

    def take(self, worker: str) -> Optional[Seat]:
        """The first free seat, or None for a worker without a device."""
        for number, seat in enumerate(self.plan.seats):
            if number not in self.taken.values():
                self.taken[worker] = number
                return seat
        return None

    def leave(self, worker: str) -> None:
        """The worker is gone."""
        self.taken.pop(worker, None)


def needs(nodeid: str, kinds: Sequence[str]) -> Optional[str]:
    """The device of one of these kinds that a test's id asks for: "cuda", "cuda:1", or None."""
    cell = nodeid.rpartition("[")[2].rstrip("]") if "[" in nodeid else ""
    device = cell.partition("-")[0]
    return device if device.partition(":")[0] in kinds else None


def fits(nodeid: str, own: Mapping[str, int], seated: Mapping[str, Sequence[int]]) -> bool:
    """Whether a worker may run a test.

    own: the number of the worker's device of each kind that it has one of; seated: the
    numbers that have workers, of each kind that is shared out.
    """
    device = needs(nodeid, list(seated))
    if device is None:
        return True
    kind, _, number = device.partition(":")
    if kind not in own:
        return False
    return not number or int(number) == own[kind] or int(number) not in seated[kind]
