"""What goes to another process and comes back: nets, samples, flags, memory, gradients."""

import functools
import importlib
import pickle
import warnings
from multiprocessing.reduction import ForkingPickler
from typing import Any, Callable, Dict, List, Sequence, Tuple

import pytest
import torch
import torch.multiprocessing  # which teaches pickle to share memory
from torch import nn
from torch.utils.data import DataLoader, Dataset

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.core.checks import (
    check,
    check_equal,
    check_raises,
    check_same_bits,
    check_unchanged,
    count_cases,
    fail,
    snapshot,
)
from frostproof.properties.harness.core.law import law, thorough
from frostproof.properties.harness.running.trainer import Trainer
from frostproof.properties.harness.running.worker_processes import WorkerDied, Workers, context
from frostproof.properties.harness.session import evidence
from frostproof.properties.test_across import varied_runs
from frostproof.strategies import TrainingRun

SHARING = "PyTorch documentation: multiprocessing best practices"
LOADING = "torch.utils.data documentation: multi-process data loading"
PATIENCE = 20.0  # seconds that a loader waits for a sample


def train_sent(run: TrainingRun, dtype: torch.dtype, network: nn.Module) -> Tuple[Any, Any]:
    """Train a net that was sent here; its flags as they came, and its bits at the end."""
    trainer = Trainer(run, "cpu", dtype)
    trainer.network, trainer.named = network, dict(network.named_parameters())  # type: ignore[assignment]
    trainer.optimizer = trainer.build_optimizer()
    flags = {name: each.requires_grad for name, each in trainer.named.items()}
    return flags, trainer.train().bits()


@law("W7 F1 F8", SHARING + ": Hogwild", "float32")
def test_shared_nets_train_in_another_process(device: str, dtype: torch.dtype) -> None:
    """W7: trained by the process that it was sent to, a net here has the plain run's bits."""
    with Workers(1, evidence.Current.plugins) as workers:
        for run in varied_runs(evidence.Current.seed)[:4]:
            here, plain = Trainer(run, "cpu", dtype), Trainer(run, "cpu", dtype).train()
            here.network.share_memory()
            try:
                ((flags, bits),) = workers.ask(train_sent, run, dtype, here.network)
            except (WorkerDied, RuntimeError) as problem:
                fail(f"a net that was sent: {problem}")
            expected = plain.bits()
            for name, parameter in here.named.items():
                check_equal(flags[name], name not in run.frozen, f"requires_grad of {name}, sent,")
                check(bits[name] == expected[name], f"{name} has other bits, trained where it was sent")
                check_same_bits(parameter, bits[name], f"{name} here, trained there")
                check(parameter.grad is None, f"{name} got a gradient from the other process")
            for name in run.frozen:
                check_same_bits(here.named[name], here.before[name], f"frozen {name}")
            count_cases(1)


def sent(value: Any) -> Any:
    """A value as another process gets it."""
    return pickle.loads(ForkingPickler.dumps(value))


LEAF = torch.ones(2, requires_grad=True)
NOT_LEAVES: Dict[str, Callable[[], torch.Tensor]] = {
    "a product": lambda: LEAF * 2,
    "a clone": lambda: LEAF.clone(),
    "a view": lambda: LEAF[:1],
    "a net's output": lambda: nn.Linear(2, 2)(LEAF),
    "of a frozen net": lambda: nn.Linear(2, 2).requires_grad_(False)(LEAF),
}


@law("W7 F5 D2", SHARING + "; torch.Tensor.detach", "float32")
@pytest.mark.parametrize("what", list(NOT_LEAVES))
def test_what_has_a_graph_is_not_sent(device: str, dtype: torch.dtype, what: str) -> None:
    """W7: what is no leaf and requires grad is refused, also within a list; detached it is sent."""
    value = NOT_LEAVES[what]()
    for each in (value, [LEAF, value]):
        check_raises(RuntimeError, lambda: ForkingPickler.dumps(each), f"sending {what}", "non-leaf")  # noqa: B023
    check(value.requires_grad, f"{what} does not require grad any more")
    found = sent(value.detach())
    check_same_bits(found, value.detach(), f"{what}, detached and sent,")
    check(not found.requires_grad, f"{what} requires grad, detached and sent")


@law("W7 F8", SHARING, "float32")
@pytest.mark.parametrize("kind", ["tensor", "parameter", "frozen parameter"])
def test_what_is_sent_is_shared(device: str, dtype: torch.dtype, kind: str) -> None:
    """W7: a leaf that is sent keeps class, flag and bits, and a write to one is seen in the other."""
    here: Any = torch.tensor([1.0, -0.0, float("nan")], requires_grad=kind == "tensor")
    if kind != "tensor":
        here = nn.Parameter(here, requires_grad=kind == "parameter")
    there, before = sent(here), read_bits(here.detach())
    check_equal(type(there), type(here), f"the class of a {kind}, sent,")
    check_equal(there.requires_grad, here.requires_grad, f"requires_grad of a {kind}, sent,")
    check(there.is_leaf and there.grad is None, f"a {kind}, sent, is no leaf, or has a gradient")
    check_same_bits(there, before, f"a {kind}, sent,")
    with torch.no_grad():
        there.add_(1)
    check_same_bits(here, read_bits(there), f"a {kind} here, after a write there")


@law("W7 G2", SHARING + ": grad is shared where there is one", "float32")
def test_gradients_are_sent_along(device: str, dtype: torch.dtype) -> None:
    """W7: a leaf that is sent takes its gradient along, in shared memory, as documented."""
    here = nn.Parameter(torch.ones(2))
    here.grad = torch.full((2,), 3.0)
    there = sent(here)
    check(there.grad is not None, "a parameter that was sent has lost its gradient")
    check_same_bits(there.grad, here.grad, "the gradient of a parameter that was sent")


class Features(Dataset):  # type: ignore[type-arg]
    """Samples that a net makes, as data sets of features do, cut from its graph in some ways.

    kinds: "detached", "under no_grad", "a leaf", or "live", which is not cut.
    """

    def __init__(self, run: TrainingRun, dtype: torch.dtype, kinds: Sequence[str]) -> None:
        trainer = Trainer(run, "cpu", dtype)
        self.kinds, self.network, self.inputs = kinds, trainer.network.eval(), trainer.inputs

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, place: int) -> Dict[str, torch.Tensor]:
        flags = [each.requires_grad for each in self.network.parameters()]
        made = {"flags": torch.tensor(flags), "grad mode": torch.tensor(torch.is_grad_enabled())}
        for kind in self.kinds:
            with torch.set_grad_enabled(kind != "under no_grad"):
                output = self.network(self.inputs[place : place + 1])[0]
            if kind in ("detached", "a leaf"):
                output = output.detach().requires_grad_(kind == "a leaf")
            made[kind] = output
        return made


def load_plugins(names: Sequence[str], worker: int) -> None:
    """What a loader's worker imports first."""
    for name in names:
        importlib.import_module(name)


def loaded(samples: Features, workers: int, batch: Any, patience: float = PATIENCE) -> List[Any]:
    """Everything that a loader gives, made by so many workers."""
    options: Dict[str, Any] = {}
    if workers:
        begin = functools.partial(load_plugins, tuple(evidence.Current.plugins))
        options = {"multiprocessing_context": context(), "timeout": patience, "worker_init_fn": begin}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as that there are few cores
        return list(DataLoader(samples, batch_size=batch, num_workers=workers, **options))


SAMPLE_KINDS = {"batched": ("detached", "under no_grad"), "one by one": ("detached", "a leaf")}


@law("W7 F8 D2", LOADING, "float32")
@pytest.mark.parametrize("how", list(SAMPLE_KINDS))
def test_loaders_workers_make_the_same(device: str, dtype: torch.dtype, how: str) -> None:
    """W7: a sample made by a worker has the bits and flags of one made here, and no graph."""
    samples = Features(varied_runs(evidence.Current.seed)[0], dtype, SAMPLE_KINDS[how])
    named = dict(samples.network.named_parameters())
    before, flags = snapshot(named), [each.requires_grad for each in named.values()]
    batch = 4 if how == "batched" else None
    here, there = loaded(samples, 0, batch), loaded(samples, 1, batch)
    check_equal(len(there), len(here), "the number of batches")
    for one, two in zip(here, there):
        for name, found in two.items():
            check_same_bits(found, one[name], f"{name}, of a worker,")
            check_equal(found.requires_grad, name == "a leaf", f"requires_grad of {name}, of a worker,")
            check(found.is_leaf, f"{name}, of a worker, has a graph")
        count_cases(1)
    check_unchanged(named, before, "loading moved")
    check_equal([each.requires_grad for each in named.values()], flags, "the flags after loading")


@law("W7 F5", LOADING, "float32")
@pytest.mark.parametrize("batched", [True, False], ids=["batched", "not batched"])
def test_loaders_refuse_what_has_a_graph(device: str, dtype: torch.dtype, batched: bool) -> None:
    """W7: a worker's sample that has a graph is refused, by an exception where it is waited for."""
    if not thorough():
        pytest.skip("a loader that fails waits for seconds: in the nightly profile")
    samples = Features(varied_runs(evidence.Current.seed)[0], dtype, ["live"])
    try:
        loaded(samples, 1, 2 if batched else None, patience=5.0)
    except RuntimeError as problem:
        told = "requires grad" in str(problem) or "requires_grad" in str(problem)
        check(told, f"the loader does not say why: {str(problem).strip().split(chr(10))[-1][:100]}")
        return
    fail("samples that have a graph came out of a worker")
