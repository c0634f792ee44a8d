"""Other processes: what they answer, how their deaths are told, and that none is left behind."""

import os
import signal
import sys
import time
from typing import Any, List

import pytest

from frostproof.properties.harness.running import worker_processes
from frostproof.properties.harness.running.distributed_training import Pair, distributed
from frostproof.properties.harness.running.worker_processes import Rank, WorkerDied, Workers


def product(left: Any, right: Any) -> Any:
    return left * right


def own_id(rank: int) -> List[int]:
    return [rank, os.getpid()]


def imported(name: str) -> bool:
    return name in sys.modules


def refuse(rank: int) -> None:
    if rank == 1:
        raise ValueError("not I")


def end(how: str) -> None:
    if how == "exit":
        os._exit(7)
    if how == "signal":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def meet(rank: int, path: str) -> int:
    import torch

    value = torch.tensor([rank + 1])
    torch.distributed.all_reduce(value)
    return int(value)


def alive(number: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    try:
        with open(f"/proc/{number}/stat", encoding="ascii") as stream:
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return os.path.isdir("/proc") is False


def gone(numbers: List[int]) -> bool:
    """Whether all of them are gone, within a few seconds."""
    until = time.monotonic() + 5
    while any(alive(number) for number in numbers) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(alive(number) for number in numbers)


def test_each_process_answers_with_its_number() -> None:
    with Workers(2) as workers:
        assert workers.ask(product, 3, 4) == [12, 12]
        answers = workers.ask(own_id, Rank)
        assert [rank for rank, _ in answers] == [0, 1]
        numbers = [number for _, number in answers]
        assert len({os.getpid(), *numbers}) == 3
        assert workers.ask(own_id, Rank) == answers  # the same processes
    assert gone(numbers)


def test_plugins_are_imported_first() -> None:
    name = "frostproof.properties.selftest.toy_laws"
    with Workers(1) as without, Workers(1, [name]) as with_it:
        assert without.ask(imported, name) == [False]
        assert with_it.ask(imported, name) == [True]


def test_an_error_is_told_and_the_others_go_on() -> None:
    with Workers(2) as workers:
        before = workers.ask(own_id, Rank)
        with pytest.raises(RuntimeError, match="in another process: ValueError: not I"):
            workers.ask(refuse, Rank)
        assert workers.ask(product, 2, 2) == [4, 4]
        assert workers.ask(own_id, Rank) == before


@pytest.mark.parametrize(
    ("how", "said"),
    [("exit", "exit code 7"), ("signal", "SIGKILL"), ("hang", "no answer came in time")],
)
def test_a_death_is_told_and_others_take_its_place(
    how: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Workers(1) as workers:
        ((_, before),) = workers.ask(own_id, Rank)
        with monkeypatch.context() as changed:
            if how == "hang":
                changed.setattr(worker_processes, "PATIENCE", 0.5)
            with pytest.raises(WorkerDied, match=said):
                workers.ask(end, how)
        ((_, after),) = workers.ask(own_id, Rank)
        assert before != after
        assert gone([before])
    assert gone([after])


def test_a_process_that_hangs_is_ended() -> None:
    workers = Workers(1)
    workers.start()
    ((_, number),) = workers.ask(own_id, Rank)
    workers.pipes[0].send((end, ("hang",)))
    started = time.monotonic()
    workers.stop()
    assert time.monotonic() - started < 10
    assert gone([number])


def test_an_error_in_the_block_leaves_none_behind() -> None:
    numbers: List[int] = []
    with pytest.raises(KeyError), Workers(2) as workers:
        numbers = [number for _, number in workers.ask(own_id, Rank)]
        raise KeyError
    assert gone(numbers)


def test_two_pairs_meet_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No fixed port: two runs at once, and each pair is of its own two processes."""
    if distributed() is None:
        pytest.skip("this torch is built without torch.distributed and gloo")
    monkeypatch.setenv("MASTER_PORT", "1")  # which nobody may listen at
    one, two = Pair(), Pair()
    try:
        ids = [[number for _, number in pair.ask((), own_id)] for pair in (one, two)]
        for _ in range(2):
            assert [pair.ask((), meet, "") for pair in (one, two)] == [[3, 3], [3, 3]]
        assert len({*ids[0], *ids[1]}) == 4
        assert one.folder.name != two.folder.name
        folders = [pair.folder.name for pair in (one, two)]
    finally:
        one.stop()
        two.stop()
    assert gone([*ids[0], *ids[1]])
    assert not any(os.path.exists(folder) for folder in folders)


def test_a_pair_is_fresh_after_an_error() -> None:
    if distributed() is None:
        pytest.skip("this torch is built without torch.distributed and gloo")
    pair = Pair()
    try:
        before = [number for _, number in pair.ask((), own_id)]
        with pytest.raises(RuntimeError, match="not I"):
            pair.ask((), refuse)
        assert gone(before)
        assert pair.ask((), meet, "") == [3, 3]
    finally:
        pair.stop()
