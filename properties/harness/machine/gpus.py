"""How many workers share each GPU, and with how much of its memory: figures in, a plan out.

Nothing here touches CUDA in this process. Free memory and the cost of a context are
measured by a process of their own.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

MIB = 2**20
LAWS = 1024 * MIB  # what the laws of one worker may allocate beyond the context
RESERVE = 0.1  # of the free memory, left to others
CONTEXT = 600 * MIB  # assumed where it cannot be measured
LIMIT = 120.0  # seconds for the measurement

PROBE = """
import json, subprocess, sys
import torch
def free():
    ask = ["nvidia-smi", "--query-gpu=uuid,memory.free", "--format=csv,noheader,nounits"]
    lines = subprocess.run(ask, stdout=subprocess.PIPE, universal_newlines=True).stdout.splitlines()
    return {line.split(",")[0].strip(): int(line.split(",")[1]) * 2**20 for line in lines}
try:
    before = free()
except (OSError, ValueError, IndexError):
    before = {}
found = []
for index in range(torch.cuda.device_count()):
    torch.cuda.set_device(index)
    a = torch.ones(64, 64, device="cuda")
    (a @ a).sum().item()
    torch.cuda.synchronize()
    properties = torch.cuda.get_device_properties(index)
    ask = getattr(torch.cuda, "mem_get_info", None)
    now, total = ask(index) if ask else (0, properties.total_memory)
    uuid = "GPU-" + str(getattr(properties, "uuid", ""))
    was = before.get(uuid, list(before.values())[0] if len(before) == 1 else 0)
    if not ask:
        now = free().get(uuid, 0)
    found.append({"index": index, "total": total, "free": max(was, now), "context": max(0, was - now)})
print(json.dumps(found))
"""


@dataclass(frozen=True)
class GPU:
    """One visible GPU, in bytes; ``context`` is what a process costs before it allocates."""

    index: int
    total: int
    free: int
    context: int = CONTEXT


@dataclass(frozen=True)
class Seat:
    """A worker's place: its GPU's index, and the fraction of its memory that it may allocate."""

    gpu: int
    fraction: float


@dataclass(frozen=True)
class Plan:
    """The seats on GPUs, fewer than or as many as the workers; the others take CPU tests."""

    seats: Tuple[Seat, ...]
    workers: int
    gpus: Tuple[GPU, ...] = ()

    @property
    def split(self) -> bool:
        """Whether some workers have no GPU, so that tests must find the right ones."""
        return 0 < len(self.seats) < self.workers

    def sentence(self) -> str:
        """The line of the header."""
        per_gpu = [sum(seat.gpu == gpu.index for seat in self.seats) for gpu in self.gpus]
        context = max((gpu.context for gpu in self.gpus), default=0)
        shares = "+".join(map(str, per_gpu))
        rest = self.workers - len(self.seats)
        others = f"; {rest} for the CPU alone" if rest else ""
        free = "+".join(f"{gpu.free / 2**30:.0f}" for gpu in self.gpus)
        return (
            f"GPU workers {shares} on {len(self.gpus)} GPU{'s' * (len(self.gpus) != 1)} "
            f"({free} GiB free, a context costs {context // MIB} MiB){others}"
        )


def capacity(gpu: GPU) -> int:
    """How many workers a GPU's free memory allows; one at least."""
    return max(1, int(gpu.free * (1 - RESERVE)) // (gpu.context + LAWS))


def plan(workers: int, gpus: Sequence[GPU], asked: Optional[int] = None) -> Plan:
    """Seats for ``workers``, dealt to the GPUs in turn so that each one works.

    asked: so many workers on each GPU, whatever its memory. A process's fraction leaves
    room for every context on its GPU.
    """
    room = {gpu.index: asked or capacity(gpu) for gpu in gpus}
    dealt: List[GPU] = []
    while len(dealt) < workers and any(room.values()):
        for gpu in gpus:
            if room[gpu.index] and len(dealt) < workers:
                room[gpu.index] -= 1
                dealt.append(gpu)
    sharing = {gpu.index: sum(one.index == gpu.index for one in dealt) for gpu in gpus}

    def fraction(gpu: GPU) -> float:
        number = sharing[gpu.index]
        usable = gpu.free * (1 - RESERVE) - number * gpu.context
        return max(0.01, min(1.0, usable / number / gpu.total))

    return Plan(tuple(Seat(gpu.index, fraction(gpu)) for gpu in dealt), workers, tuple(gpus))


def named(devices: Sequence[str], count: int) -> Tuple[int, ...]:
    """The GPU numbers that devices such as "cuda" (all) and "cuda:1" mean."""
    numbers: Set[int] = set()
    for device in devices:
        kind, _, number = device.partition(":")
        if kind == "cuda":
            numbers.update([int(number)] if number else range(count))
    return tuple(sorted(numbers))


def measure() -> List[GPU]:
    """The visible GPUs, measured in a process of its own; none where that fails."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            timeout=LIMIT,
            check=True,
        )
        return parse(done.stdout.decode())
    except (OSError, ValueError, KeyError, IndexError, subprocess.SubprocessError):
        return []


def parse(text: str) -> List[GPU]:
    """What the measurement printed. Raises ValueError, KeyError or IndexError for anything else."""
    facts: List[Dict[str, Any]] = json.loads(text.splitlines()[-1])
    return [
        GPU(int(one["index"]), int(one["total"]), int(one["free"]), int(one["context"]) or CONTEXT)
        for one in facts
    ]


class Seats:
    """Who sits where: a worker that dies frees its seat for the one that replaces it."""

    def __init__(self, made: Plan) -> None:
        self.plan = made
        self.taken: Dict[str, int] = {}

    def take(self, worker: str) -> Optional[Seat]:
        """The first free seat, or None for a worker without a GPU."""
        for number, seat in enumerate(self.plan.seats):
            if number not in self.taken.values():
                self.taken[worker] = number
                return seat
        return None

    def leave(self, worker: str) -> None:
        """The worker is gone."""
        self.taken.pop(worker, None)


def needs(nodeid: str) -> Optional[str]:
    """The GPU that a test's id asks for: "cuda", "cuda:1", or None."""
    cell = nodeid.rpartition("[")[2].rstrip("]") if "[" in nodeid else ""
    device = cell.partition("-")[0]
    return device if device.partition(":")[0] == "cuda" else None


def fits(nodeid: str, gpu: Optional[int], seated: Sequence[int]) -> bool:
    """Whether a worker on a GPU (None: on none) may run a test, where ``seated`` GPUs have workers."""
    device = needs(nodeid)
    if device is None:
        return True
    if gpu is None:
        return False
    number = device.partition(":")[2]
    return not number or int(number) == gpu or int(number) not in seated
