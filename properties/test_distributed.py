"""Two processes: replicas are equal, what is frozen stays, the rest trains to the plain result."""

import contextlib
from functools import cache, partial
from typing import Any, Dict, List

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from frostproof.properties.harness.core.bits import describe_difference, from_bits, read_bits
from frostproof.properties.harness.core.checks import check, check_close, check_equal, fail
from frostproof.properties.harness.core.law import law, part
from frostproof.properties.harness.running.distributed_training import (
    PAIR,
    WRAPPINGS,
    Result,
    accumulate,
    distributed,
    plainly,
    result_of,
    train_wrapped,
)
from frostproof.properties.harness.running.trainer import Trainer
from frostproof.properties.harness.running.worker_processes import WorkerDied
from frostproof.properties.harness.session import evidence
from frostproof.strategies import MLP, TrainingRun, training_runs
from frostproof.strategies.capabilities import NotOffered, accepts, lacks

SOURCE = "torch.nn.parallel.DistributedDataParallel documentation"
# elementwise rules
OPTIMIZERS = [
    name
    for name in ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam")
    if hasattr(torch.optim, name)
]

# Parameters that lie end to end in a bucket meet vectorised kernels at other places: another
# rounding, which only a linear rule does not make larger.
ROUNDED = ("partitioned optimizer, bucket views",)


def offers(how: str) -> None:
    """Raise NotOffered where this torch cannot train so."""
    module = distributed()
    if module is None:
        raise NotOffered("this torch is built without torch.distributed and gloo")
    if how == "shards" or how.startswith("partitioned"):
        if missing(how):
            raise NotOffered(missing(how))
    if how == "static graph":
        wrapper: Any = torch.nn.parallel.DistributedDataParallel
        if not accepts(lambda: wrapper(torch.nn.Linear(1, 1), static_graph=True)):
            raise NotOffered("DistributedDataParallel of this torch has no static_graph")


@cache
def missing(how: str) -> str:
    """``lacked``, as the processes of the group say, which have imported what is asked for."""
    return str(asked(lacked, how)[0])


def lacked(rank: int, how: str) -> str:
    """In a process of the group: what this torch lacks for shards, or for partitioned optimizers."""
    name = "fsdp.fully_shard" if how == "shards" else "optim.ZeroRedundancyOptimizer"
    without = lacks(f"torch.distributed.{name}")
    if without or how == "shards":
        return without
    from torch.distributed.optim import ZeroRedundancyOptimizer

    layer, kind = torch.nn.Linear(1, 1), torch.optim.SGD
    partitioned: Any = partial(ZeroRedundancyOptimizer, layer.parameters(), optimizer_class=kind)
    if accepts(lambda: partitioned(parameters_as_bucket_view=True, lr=0.1)):
        return ""
    return "ZeroRedundancyOptimizer of this torch has no parameters_as_bucket_view"


def asked(task: Any, *arguments: Any) -> List[Any]:
    """What both processes answer; an error or a death of theirs breaks the law by name."""
    __tracebackhide__ = True
    try:
        return PAIR.ask(evidence.Current.plugins, task, *arguments)
    except (WorkerDied, RuntimeError) as problem:
        fail(f"with {arguments[-1]}: {problem}")


def check_result(
    found: Result, expected: Result, run: TrainingRun, dtype: torch.dtype, what: str
) -> None:
    """Every parameter and gradient has the bits of the plain run; of ROUNDED, nearly its values."""
    __tracebackhide__ = True
    check_equal(sorted(found), sorted(expected), f"{what}: the parameters")
    like = torch.empty(0, dtype=dtype)
    rounded = what.startswith(ROUNDED)
    for name, (bits, gradient) in expected.items():
        if rounded:
            for ours, theirs in zip(found[name], (bits, gradient)):
                check_equal(ours is None, theirs is None, f"{what}: {name} has no gradient")
                if ours is not None and theirs is not None:
                    one, two = flat(ours, dtype), flat(theirs, dtype)
                    check_close(one, two, f"{what}: {name}", rtol=1e-5, atol=1e-6)
            continue
        if found[name][0] != bits:
            fail(f"{what}: {name}: {flat_difference(bits, found[name][0], like)}")
        has = [each is not None for each in (found[name][1], gradient)]
        check_equal(has[0], has[1], f"{what}: {name} has a gradient")
        if gradient is not None and not same_average(found[name][1] or b"", gradient, dtype):
            fail(
                f"{what}: gradient of {name}: {flat_difference(gradient, found[name][1] or b'', like)}"
            )
        check(True, what)


def flat(bits: bytes, dtype: torch.dtype) -> torch.Tensor:
    """The numbers of a snapshot, 1-dim."""
    return from_bits(bits, (len(bits) // torch.empty(0, dtype=dtype).element_size(),), dtype)


def same_average(found: bytes, expected: bytes, dtype: torch.dtype) -> bool:
    """Whether bits agree; two halves of a subnormal number, added, may lack its last bit."""
    if found == expected:
        return True
    if len(found) != len(expected):
        return False
    one, two = (flat(each, dtype).to(torch.float64) for each in (found, expected))
    least = torch.finfo(dtype).tiny
    halved = (one.abs() + two.abs() < 4 * least) & (
        (one - two).abs() <= 2 * least * torch.finfo(dtype).eps
    )
    return bool((halved | (one == two)).all())


def flat_difference(before: bytes, after: bytes, like: torch.Tensor) -> str:
    """Where two snapshots differ, by the place in row-major order."""
    count = len(before) // like.element_size()
    return describe_difference(before, after, torch.empty(count, dtype=like.dtype))


@law("W2 F1 F3 K1", SOURCE, "float32")
@part(10, least=8)
@pytest.mark.parametrize("how", WRAPPINGS)
@given(data=st.data())
def test_two_processes_train_to_the_plain_result(
    device: str, dtype: torch.dtype, how: str, data: st.DataObject
) -> None:
    """W2: two processes on the same data end, buffers too, with the bits of one without a wrapper."""
    offers(how)
    run: TrainingRun = plainly(
        data.draw(
            training_runs(
                names=["SGD"] if how in ROUNDED else OPTIMIZERS,
                device="cpu",
                dtype=dtype,
                max_depth=4,
                max_steps=3,
                learns=True,
            )
        )
    )
    if how == "shards" and tied(run.network):
        return  # its documentation wants one name for each parameter
    plain = Trainer(run, "cpu", dtype)
    if how == "accumulated":
        accumulate(plain, contextlib.nullcontext)
    else:
        plain.train()
    expected = result_of(plain)
    for rank, found in enumerate(asked(train_wrapped, run, dtype, how)):
        check_result(found, expected, run, dtype, f"{how}, process {rank}")


def tied(network: MLP) -> bool:
    """Whether a parameter has two names."""
    module = network.build("cpu", torch.float32)
    held = module.state_dict(keep_vars=True).values()
    return len({id(value) for value in held}) < len(held)


def train_apart(rank: int, masks: Any, what: str) -> Dict[str, bytes]:
    """Two layers, each process with data of its own; masks: which layers are frozen, by process."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    with torch.no_grad():
        for number, each in enumerate(net.parameters()):
            each.fill_(0.5 + number / 4)
    for place in masks[rank]:
        net[place].requires_grad_(False)
    wrapper = torch.nn.parallel.DistributedDataParallel(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        wrapper(torch.full((1, 2), rank + 1.0)).sum().backward()
        optimizer.step()
    if what == "unfrozen after wrapping":
        net[0].requires_grad_(True)
        optimizer.zero_grad()
        wrapper(torch.full((1, 2), rank + 1.0)).sum().backward()
        optimizer.step()
    return {name: read_bits(parameter) for name, parameter in net.named_parameters()}


CASES = {
    "one mask": ((0,), (0,)),
    "masks that differ": ((0,), (1,)),
    "unfrozen after wrapping": ((0,), (0,)),
}


@law("W2", SOURCE, "float32")
@pytest.mark.parametrize("case", list(CASES))
def test_replicas_are_equal(device: str, dtype: torch.dtype, case: str) -> None:
    """W2: on data of their own, replicas stay equal; unfrozen after wrapping they part (a trap)."""
    offers("as wrapped")
    one, two = asked(train_apart, CASES[case], case)
    apart = sorted(name for name, bits in one.items() if bits != two[name])
    if case == "unfrozen after wrapping":
        # documented: flags must not change once the module is wrapped
        check_equal(apart, ["0.weight"], "what differs once a layer is unfrozen after wrapping")
    else:
        check_equal(apart, [], f"{case}: what differs between the replicas")


def normed(rank: int, live: bool = True) -> torch.nn.Sequential:
    """A layer and a norm; live: the norm is trained; the statistics begin with the rank."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    with torch.no_grad():
        for number, each in enumerate(net.parameters()):
            each.copy_(torch.arange(1.0, 1 + each.numel()).view_as(each) / (4 + number))
        net[1].running_mean.fill_(float(rank))  # type: ignore[union-attr, operator]
    net[1].train(live).requires_grad_(live)
    return net


Values = Dict[str, Any]  # of buffers, by name


def buffers_of(net: torch.nn.Module) -> Values:
    """The buffers' values now."""
    return {name: each.tolist() for name, each in net.named_buffers()}


def watched(net: torch.nn.Module, wrapper: Any, rank: int, case: str) -> List[Values]:
    """The buffers as each forward finds them, and at the end; each process has data of its own."""
    found: List[Values] = []

    def look(*_: Any) -> None:
        found.append(buffers_of(net))

    handle = net.register_forward_pre_hook(look)
    inputs = torch.tensor([[1.0, 2.0], [3.0, 5.0]]) * (rank + 1)
    for number in range(4):
        apart: Any = contextlib.nullcontext()
        if number == 1 and case == "after no_sync" and wrapper is not net:
            apart = wrapper.no_sync()
        if number == 1 and case == "after no_grad":
            with torch.no_grad():
                wrapper(inputs)
            continue
        with apart:
            wrapper(inputs).pow(2).sum().backward()
    handle.remove()
    look()
    return found


def watch_wrapped(rank: int, case: str) -> List[Values]:
    """``watched`` of a wrapped net."""
    net = normed(rank, live=case != "frozen, in eval mode")
    options: Dict[str, Any] = {}
    if case == "broadcast_buffers=False":
        options["broadcast_buffers"] = False
    return watched(net, torch.nn.parallel.DistributedDataParallel(net, **options), rank, case)


BUFFERS = ("as wrapped", "after no_sync", "after no_grad", "frozen, in eval mode")


@law("W2 F8", SOURCE + ": broadcast_buffers", "float32")
@pytest.mark.parametrize("case", BUFFERS)
def test_buffers_are_those_of_the_first_process(device: str, dtype: torch.dtype, case: str) -> None:
    """W2: every forward begins with process 0's buffers, in all of them; a frozen norm's stay."""
    offers("as wrapped")
    net = normed(0, live=case != "frozen, in eval mode")
    alone = watched(net, net, 0, case)
    one, two = asked(watch_wrapped, case)
    for number, expected in enumerate(alone):
        check_equal(one[number], expected, f"{case}: process 0's buffers at forward {number}")
        if number < len(alone) - 1 or case == "frozen, in eval mode":  # the end is no forward
            check_equal(two[number], expected, f"{case}: process 1's buffers at forward {number}")


@law("W2 F8", SOURCE + ": broadcast_buffers", "float32")
def test_buffers_that_are_not_broadcast(device: str, dtype: torch.dtype) -> None:
    """W2: with broadcast_buffers=False each process has the statistics of its own data alone."""
    offers("as wrapped")
    case = "broadcast_buffers=False"
    for rank, found in enumerate(asked(watch_wrapped, case)):
        net = normed(rank)
        if found[0] != buffers_of(net):
            net = normed(0)  # older ones broadcast once, when the net is wrapped
        check_equal(found, watched(net, net, rank, case), f"{case}: buffers of process {rank}")
