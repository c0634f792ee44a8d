"""Shards, shared databases, and who works on which device."""

import random
import shutil
import socket
import subprocess
import time
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, Iterator, List, Optional, Sequence

import pytest

from frostproof.properties.harness.core import shards
from frostproof.properties.harness.machine import assignment
from frostproof.properties.harness.report.record import read
from frostproof.properties.harness.session import database, summary
from frostproof.properties.selftest.test_machine import run

GIB = 2**30
redis_only = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="no redis-server here (Debian package redis-server)"
)


# --- shards


def drawn(path: Path) -> Dict[str, List[str]]:
    """What test_seeds drew, by test id."""
    found: Dict[str, List[str]] = defaultdict(list)
    for line in path.read_text().splitlines():
        name, seed = line.split(" ")
        found[name].append(seed)
    return found


def test_shards_differ_add_up_and_repeat(tmp_path: Path) -> None:
    options = ("-k", "seeds or whole", "--hypothesis-seed=3", "--shards")
    runs = []
    for name, more in (("a", ("4", "-n", "0")), ("b", ("4", "-n", "2"))):
        path = tmp_path / name
        record = f"--junit-xml={tmp_path / 'record.xml'}"
        code, output = run(tmp_path, *options, *more, record, env={"TOY_DRAWN": str(path)})
        assert code == 0, output
        assert "6 passed" in output  # four shards, and two tests that do not draw
        assert "62 examples checked" in output  # 60 of one law, and two cases
        runs.append(drawn(path))
    assert runs[0] == runs[1]
    assert len(runs[0]) == 4
    assert len({tuple(seeds) for seeds in runs[0].values()}) == 4
    entries = read(tmp_path / "record.xml").entries
    assert sum(entry.examples for entry in entries if "seeds" in entry.test) == 60


def test_shards_auto_is_the_number_of_workers(tmp_path: Path) -> None:
    _, output = run(tmp_path, "-k", "seeds", "--shards", "auto", "-n", "2")
    assert "2 passed" in output and "2 shards" in output
    _, output = run(tmp_path, "-k", "seeds", "--shards", "auto", "-n", "0", "-v")
    assert "1 passed" in output and "test_seeds[cpu-float64] " in output


@pytest.mark.parametrize("asked", ["0", "-1", "many", "1.5", "100000"])
def test_nonsense_is_refused(asked: str) -> None:
    with pytest.raises(pytest.UsageError, match="--shards"):
        shards.count(asked, 2)


@pytest.mark.parametrize("examples", [1, 7, 60, 2000])
@pytest.mark.parametrize("split", [1, 2, 7, 64])
def test_shares_add_up(examples: int, split: int) -> None:
    parts = [shards.share(examples, number, split) for number in range(1, split + 1)]
    assert sum(parts) == max(examples, split)
    assert min(parts) >= 1 and max(parts) - min(parts) <= 1


@pytest.mark.parametrize(
    ("nodeid", "whole"),
    [
        ("a.py::test_x[cpu-float32-shard2of4]", "a.py::test_x[cpu-float32]"),
        ("a.py::test_x[shard2of4]", "a.py::test_x"),
        ("a.py::test_x[cpu-float32]", "a.py::test_x[cpu-float32]"),
        ("a.py::test_x", "a.py::test_x"),
        ("cpu-float32-shard12of16", "cpu-float32"),
        ("test_shard1of2[cpu]", "test_shard1of2[cpu]"),
    ],
)
def test_whole_ids(nodeid: str, whole: str) -> None:
    assert shards.whole(nodeid) == whole


class Terminal:
    """Stands in for pytest's reporter."""

    def __init__(self, **stats: List[Any]) -> None:
        self.stats = stats


class Report:
    """Of one shard."""

    def __init__(self, number: int, examples: int) -> None:
        self.nodeid = f"f.py::t[cpu-float32-shard{number}of2]"
        self.user_properties = [("examples", str(examples))]


def test_what_no_shard_can_say_alone() -> None:
    assert not summary.unsound(Terminal(passed=[Report(1, 0), Report(2, 1)]))
    assert "checked nothing" in summary.unsound(Terminal(passed=[Report(1, 0), Report(2, 0)]))[0]
    assert (
        "all of 2 shards passed" in summary.unsound(Terminal(xpassed=[Report(1, 1), Report(2, 1)]))[0]
    )
    assert not summary.unsound(Terminal(xpassed=[Report(1, 1)], xfailed=[Report(2, 1)]))


# --- the example database


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            "redis-server",
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            str(tmp_path),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait()


def check_shared(where: str, tmp_path: Path) -> None:
    """A failure found on one machine is the first thing that another tries."""
    option = f"--example-database={where}"
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    law = ("-n", "0", "-k", "test_broken", option)
    code, output = run(one, *law)
    assert code == 1 and "it is deep" in output, output
    code, output = run(two, *law, "--hypothesis-show-statistics")
    assert code == 1 and "it is deep" in output, output
    assert "during reuse phase" in output and "during generate phase" not in output
    code, output = run(two, *law, "--shards", "2", "--hypothesis-show-statistics")
    assert "during reuse phase" in output  # the number of shards does not matter


def test_a_directory_is_shared(tmp_path: Path) -> None:
    check_shared(str(tmp_path / "shared"), tmp_path)


@redis_only
def test_a_redis_server_is_shared(server: str, tmp_path: Path) -> None:
    pytest.importorskip("redis", reason="the redis library is not installed (frostproof[redis])")
    check_shared(server, tmp_path)


def test_a_missing_server_is_one_warning(tmp_path: Path) -> None:
    pytest.importorskip("redis", reason="the redis library is not installed (frostproof[redis])")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = f"redis://user:secret@127.0.0.1:{free.getsockname()[1]}/0"
    code, output = run(tmp_path, "-n", "2", "-k", "fine", "--example-database", where)
    assert code == 0, output
    assert output.count("cannot be used, the run goes on without it") == 2  # header and summary
    assert "secret" not in output and "Traceback" not in output


@redis_only
def test_a_server_that_goes_away_is_a_note(tmp_path: Path, server: str) -> None:
    redis = pytest.importorskip(
        "redis", reason="the redis library is not installed (frostproof[redis])"
    )
    examples = database.choose(server, tmp_path, None)
    assert examples.shared is not None and not examples.warning
    examples.shared.save(b"key", b"value")
    assert list(examples.shared.fetch(b"key")) == [b"value"]
    with pytest.raises(redis.ConnectionError):
        examples.shared.database.redis.execute_command("SHUTDOWN", "NOSAVE")  # type: ignore[attr-defined]
    assert list(examples.shared.fetch(b"key")) == []
    examples.shared.save(b"key", b"value")
    assert "cannot be used" in examples.lost


def test_github_needs_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_TOKEN", raising=False)
    examples = database.choose("github://owner/repository", tmp_path, None)
    assert "GITHUB_TOKEN is not set" in examples.warning
    assert list(examples.database.fetch(b"key")) == []


@pytest.mark.parametrize("where", ["github://owner", "github://a/b/c/d", "ftp://server", "redis://a:b"])
def test_a_wrong_database_is_refused(where: str, tmp_path: Path) -> None:
    with pytest.raises(pytest.UsageError, match="--example-database"):
        database.choose(where, tmp_path, None)


def test_a_directory_that_cannot_be_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    examples = database.choose("file/folder", tmp_path, None)
    assert "cannot be used" in examples.warning


def test_a_worker_does_not_ask_again(tmp_path: Path) -> None:
    pytest.importorskip("redis", reason="the redis library is not installed (frostproof[redis])")
    examples = database.choose("redis://127.0.0.1:1/0", tmp_path, "the controller's warning")
    assert examples.shared is not None and examples.shared.problem == "the controller's warning"


# --- devices


def gpu(index: int, free: float, total: float = 80.0, context: float = 0.5) -> assignment.Device:
    return assignment.Device("cuda", index, int(total * GIB), int(free * GIB), int(context * GIB))


UNKNOWN = assignment.Device("npu", 0)


@pytest.mark.parametrize(
    ("workers", "found", "asked", "expected"),
    [
        (16, [gpu(0, 79)], None, [0] * 16),
        (16, [gpu(0, 79), gpu(1, 79)], None, [0, 1] * 8),
        (16, [gpu(0, 8, 8)], None, [0] * 4),
        (4, [gpu(0, 0.2, 8)], None, [0]),  # one is tried in any case
        (6, [gpu(0, 79), gpu(1, 2)], None, [0, 1, 0, 0, 0, 0]),
        (8, [gpu(0, 79), gpu(1, 79)], 1, [0, 1]),
        (1, [gpu(0, 79), gpu(1, 79)], None, [0]),
        (3, [UNKNOWN], None, [0, 0]),
        (3, [], None, []),
    ],
)
def test_seats(
    workers: int, found: List[assignment.Device], asked: Optional[int], expected: List[int]
) -> None:
    made = assignment.plan("cuda", workers, found, asked)
    assert [seat.index for seat in made.seats] == expected
    assert made.split == (0 < len(expected) < workers)


def test_fractions_leave_room_for_every_context() -> None:
    for seed in range(200):
        dice = random.Random(seed)
        total = dice.uniform(4, 100)
        one = gpu(0, dice.uniform(3, total), total, dice.uniform(0.1, 1.5))
        made = assignment.plan("cuda", dice.randrange(1, 64), [one])
        used = sum((seat.fraction or 0) * one.total + one.context for seat in made.seats)
        assert used <= one.free
        assert all(0 < (seat.fraction or 0) <= 1 for seat in made.seats)
    assert [seat.fraction for seat in assignment.plan("npu", 2, [UNKNOWN]).seats] == [None, None]


def test_the_header_says_the_numbers() -> None:
    text = assignment.plan("cuda", 8, [gpu(0, 4), gpu(1, 4)]).sentence()
    assert text == (
        "workers 2 on cuda:0 (4 GiB free), 2 on cuda:1 (4 GiB free); a context costs 512 MiB; "
        "4 without cuda"
    )
    assert assignment.plan("npu", 2, [UNKNOWN]).sentence() == "workers 2 on npu:0"


def test_a_replaced_worker_takes_the_seat_of_the_dead_one() -> None:
    seats = assignment.Seats(assignment.plan("cuda", 4, [gpu(0, 79), gpu(1, 79)], 1))
    taken = [seats.take(f"gw{number}") for number in range(4)]
    assert [seat and seat.index for seat in taken] == [0, 1, None, None]
    seats.leave("gw3")
    assert seats.take("gw4") is None
    seats.leave("gw1")
    again = seats.take("gw5")
    assert again is not None and again.index == 1
    seats.leave("never")


def test_measurements_are_read_or_refused() -> None:
    text = 'noise\n[{"index": 0, "total": 8, "free": 6, "context": 0}]'
    assert assignment.parse("cuda", text) == [assignment.Device("cuda", 0, 8, 6, assignment.CONTEXT)]
    assert assignment.parse("npu", text) == [assignment.Device("npu", 0, 8, 6, 0)]
    for wrong in ("", "{}", "[{}]", "nonsense"):
        with pytest.raises((ValueError, KeyError, IndexError, TypeError, AttributeError)):
            assert assignment.parse("cuda", wrong)[0]


def test_named_devices() -> None:
    assert assignment.named("cuda", ["cpu", "cuda"], 3) == (0, 1, 2)
    assert assignment.named("cuda", ["cuda:2", "cpu", "npu:0", "cuda:1"], 3) == (1, 2)
    assert assignment.named("npu", ["cpu", "cuda:0"], 3) == ()


def test_what_a_test_needs() -> None:
    kinds = ("cuda", "npu")
    assert assignment.needs("f.py::t[cuda-float32]", kinds) == "cuda"
    assert assignment.needs("f.py::t[npu:1-float32-shard1of2]", kinds) == "npu:1"
    assert assignment.needs("f.py::t[cpu-float32]", kinds) is None
    assert assignment.needs("f.py::cuda", kinds) is None


class Node:
    """Stands in for an xdist worker."""

    def __init__(self, name: str, number: Optional[int]) -> None:
        self.name = name
        self.gateway = SimpleNamespace(id=name)
        self.number = number
        self.workerinput = {"frostproof_seats": {} if number is None else {"cuda": (number, 0.5)}}
        self.shutting_down = False
        self.queue: List[int] = []

    def send_runtest_some(self, indices: List[int]) -> None:
        self.queue += indices

    def shutdown(self) -> None:
        self.shutting_down = True


def scheduled(tests: List[str], nodes: List[Node], deaths: Sequence[int] = ()) -> Dict[str, List[str]]:
    """Who ran what, with made-up workers, of which one dies in each round of ``deaths``."""
    from frostproof.properties.harness.machine.scheduler import DeviceScheduling

    scheduler: Any = DeviceScheduling.__new__(DeviceScheduling)
    scheduler.numnodes, scheduler.kinds = len(nodes), ["cuda"]
    scheduler.node2collection, scheduler.node2pending = {}, {}
    scheduler.pending, scheduler.collection, scheduler.config = [], None, None
    scheduler.log = lambda *words: None
    ran: Dict[str, List[str]] = defaultdict(list)
    alive = list(nodes)
    for node in nodes:
        scheduler.add_node(node)
        scheduler.add_node_collection(node, tests)
    scheduler.schedule()
    for turn in range(10_000):
        busy = [node for node in alive if node.queue and (len(node.queue) > 1 or node.shutting_down)]
        if not busy:
            break
        node = random.Random(turn).choice(busy)
        if turn in deaths:
            alive.remove(node)
            crashed = scheduler.remove_node(node)
            ran[node.name].append(crashed)
            clone = Node(node.name + "+", node.number)
            alive.append(clone)
            scheduler.add_node(clone)
            scheduler.add_node_collection(clone, tests)
            scheduler.schedule()
            continue
        index = node.queue.pop(0)
        ran[node.name].append(tests[index])
        scheduler.mark_test_complete(node, index)
    assert scheduler.tests_finished and not scheduler.has_pending
    assert all(node.shutting_down for node in alive)
    return ran


@pytest.mark.parametrize("deaths", [(), (0,), (3, 5, 9), (20, 21, 22)])
def test_tests_reach_workers_that_can_run_them(deaths: Sequence[int]) -> None:
    tests = [f"f.py::t{n}[{device}-float32]" for n in range(10) for device in ("cpu", "cuda", "cuda:1")]
    tests.append("f.py::plain")
    nodes = [Node("a", 0), Node("b", 1), Node("c", None), Node("d", None)]
    ran = scheduled(tests, nodes, deaths)
    assert sorted(test for some in ran.values() for test in some) == sorted(tests)
    for name, some in ran.items():
        devices = {assignment.needs(test, ["cuda"]) for test in some}
        if name[0] in "cd":
            assert devices <= {None}
        if name[0] == "a":
            assert "cuda:1" not in devices or any(node.startswith("b+") for node in ran)


@pytest.mark.parametrize("tests", [[], ["f.py::t[cuda-float32]"], ["f.py::t[cpu-float32]"]])
def test_few_tests_end_too(tests: List[str]) -> None:
    ran = scheduled(tests, [Node("a", 0), Node("b", None)])
    assert sum(map(len, ran.values())) == len(tests)
