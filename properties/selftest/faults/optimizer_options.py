"""Optimizers that ignore one of their options, or read it wrongly, as a table."""

from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional, Tuple

import torch

from frostproof.properties.selftest.faults.fault import fault
from frostproof.properties.selftest.faults.patching import Change, near, option_seen_as, trained, wrap

GRADIENTS = (1.0, 0.1, -0.3, 0.2, 0.1, 0.1, 0.5)


@dataclass(frozen=True)
class Misread:
    """An option that ``step`` reads as ``change(option)``.

    options: with which the witness trains a value from 1.0 by GRADIENTS, which on a
    healthy torch ends at ``healthy``; when: the groups that are affected.
    """

    name: str
    optimizer: str
    option: str
    change: Change
    sentence: str
    options: Dict[str, Any]
    healthy: float
    since: Tuple[int, int] = (1, 8)
    smoke: bool = False
    when: Optional[Callable[[Any], bool]] = None


def _to(value: Any) -> Change:
    return lambda option: value


MISREADS: Tuple[Misread, ...] = (
    Misread(
        "sgd_ignores_nesterov",
        "SGD",
        "nesterov",
        _to(False),
        "SGD takes plain momentum for Nesterov's.",
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
        0.2804726,
        smoke=True,
    ),
    Misread(
        "sgd_ignores_dampening",
        "SGD",
        "dampening",
        _to(0.0),
        "SGD ignores dampening.",
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.5},
        0.43385545,
    ),
    Misread(
        "sgd_ignores_maximize",
        "SGD",
        "maximize",
        _to(False),
        "SGD minimizes where it was told to maximize.",
        {"lr": 0.1, "maximize": True},
        1.17,
        since=(1, 12),
    ),
    Misread(
        "sgd_flips_weight_decay",
        "SGD",
        "weight_decay",
        lambda decay: -decay,
        "SGD grows weights where it should decay them.",
        {"lr": 0.1, "weight_decay": 0.1},
        0.768118333,
    ),
    Misread(
        "adam_ignores_amsgrad",
        "Adam",
        "amsgrad",
        _to(False),
        "Adam ignores amsgrad.",
        {"lr": 0.1, "betas": (0.5, 0.9), "amsgrad": True},
        0.713142003,
    ),
    Misread(
        "adam_foreach_ignores_maximize",
        "Adam",
        "maximize",
        _to(False),
        "Adam ignores maximize, only in its foreach implementation.",
        {"lr": 0.1, "maximize": True, "foreach": True},
        1.38012452,
        since=(2, 0),
        when=lambda group: bool(group["foreach"]),
    ),
    Misread(
        "adam_fused_flips_weight_decay",
        "Adam",
        "weight_decay",
        lambda decay: -decay,
        "Adam grows weights where it should decay them, only in its fused implementation.",
        {"lr": 0.1, "weight_decay": 0.5, "fused": True},
        0.433658777,
        since=(2, 4),
        when=lambda group: bool(group["fused"]),
    ),
    Misread(
        "adam_decouples_decay",
        "Adam",
        "decoupled_weight_decay",
        _to(True),
        "Adam decays weights as AdamW does.",
        {"lr": 0.1, "weight_decay": 0.5},
        0.433658777,
        since=(2, 7),
    ),
    Misread(
        "adam_ignores_eps",
        "Adam",
        "eps",
        _to(1e-8),
        "Adam uses the default eps whatever it was given.",
        {"lr": 0.1, "eps": 1e-3},
        0.620498838,
    ),
    Misread(
        "adam_swaps_betas",
        "Adam",
        "betas",
        lambda betas: betas[::-1],
        "Adam averages with its two betas swapped.",
        {"lr": 0.1},
        0.619875485,
    ),
    Misread(
        "adamw_couples_decay",
        "AdamW",
        "decoupled_weight_decay",
        _to(False),
        "AdamW adds weight decay to the gradient as Adam does.",
        {"lr": 0.1},
        0.614247976,
        since=(2, 7),
    ),
    Misread(
        "adamw_forgets_default_decay",
        "AdamW",
        "weight_decay",
        lambda decay: 0.0 if decay == 0.01 else decay,
        "AdamW no longer decays weights by default.",
        {"lr": 0.1},
        0.614247976,
    ),
    Misread(
        "adamax_swaps_betas",
        "Adamax",
        "betas",
        lambda betas: betas[::-1],
        "Adamax averages with its two betas swapped.",
        {"lr": 0.1},
        0.744494639,
    ),
    Misread(
        "adamax_ignores_eps",
        "Adamax",
        "eps",
        _to(1e-8),
        "Adamax uses the default eps whatever it was given.",
        {"lr": 0.1, "eps": 1e-3},
        0.744749887,
    ),
    Misread(
        "nadam_ignores_momentum_decay",
        "NAdam",
        "momentum_decay",
        _to(0.004),
        "NAdam uses the default momentum decay whatever it was given.",
        {"lr": 0.1, "momentum_decay": 0.1},
        0.762427198,
        since=(1, 10),
    ),
    Misread(
        "nadam_couples_decay",
        "NAdam",
        "decoupled_weight_decay",
        _to(False),
        "NAdam ignores decoupled_weight_decay.",
        {"lr": 0.1, "weight_decay": 0.5, "decoupled_weight_decay": True},
        0.494034063,
        since=(2, 1),
    ),
    Misread(
        "radam_couples_decay",
        "RAdam",
        "decoupled_weight_decay",
        _to(False),
        "RAdam ignores decoupled_weight_decay.",
        {"lr": 0.1, "weight_decay": 0.5, "decoupled_weight_decay": True},
        0.528104226,
        since=(2, 1),
    ),
    Misread(
        "radam_never_rectifies",
        "RAdam",
        "betas",
        lambda betas: (betas[0], 0.5),
        "RAdam never divides by its second moment, which it should from the sixth step on.",
        {"lr": 0.1},
        0.782320705,
        since=(1, 10),
    ),
    Misread(
        "adagrad_ignores_lr_decay",
        "Adagrad",
        "lr_decay",
        _to(0.0),
        "Adagrad ignores lr_decay.",
        {"lr": 0.1, "lr_decay": 0.1},
        0.861213919,
    ),
    Misread(
        "adagrad_foreach_ignores_eps",
        "Adagrad",
        "eps",
        _to(1e-10),
        "Adagrad uses the default eps, only in its foreach implementation.",
        {"lr": 0.1, "eps": 1e-3, "foreach": True},
        0.839357182,
        since=(2, 0),
        when=lambda group: bool(group["foreach"]),
    ),
    Misread(
        "adadelta_takes_the_complement_of_rho",
        "Adadelta",
        "rho",
        lambda rho: 1 - rho,
        "Adadelta averages with 1 - rho.",
        {"lr": 0.1},
        0.999346148,
    ),
    Misread(
        "adadelta_foreach_flips_weight_decay",
        "Adadelta",
        "weight_decay",
        lambda decay: -decay,
        "Adadelta grows weights, only in its foreach implementation.",
        {"lr": 0.1, "weight_decay": 0.5, "foreach": True},
        0.998580995,
        since=(2, 0),
        when=lambda group: bool(group["foreach"]),
    ),
    Misread(
        "rmsprop_ignores_centered",
        "RMSprop",
        "centered",
        _to(False),
        "RMSprop ignores centered.",
        {"lr": 0.1, "centered": True},
        -0.633306893,
    ),
    Misread(
        "rmsprop_foreach_ignores_momentum",
        "RMSprop",
        "momentum",
        _to(0),
        "RMSprop ignores momentum, only in its foreach implementation.",
        {"lr": 0.1, "momentum": 0.9, "foreach": True},
        -5.02550282,
        since=(2, 0),
        when=lambda group: bool(group["foreach"]),
    ),
    Misread(
        "asgd_ignores_lambd",
        "ASGD",
        "lambd",
        _to(1e-4),
        "ASGD uses the default lambd whatever it was given.",
        {"lr": 0.1, "lambd": 0.1},
        0.772244034,
    ),
    Misread(
        "asgd_flips_weight_decay",
        "ASGD",
        "weight_decay",
        lambda decay: -decay,
        "ASGD grows weights where it should decay them.",
        {"lr": 0.1, "weight_decay": 0.1},
        0.768062651,
    ),
    Misread(
        "rprop_ignores_etas",
        "Rprop",
        "etas",
        _to((0.5, 1.2)),
        "Rprop uses the default etas whatever it was given.",
        {"lr": 0.1, "etas": (0.3, 1.5)},
        0.384375,
    ),
    Misread(
        "rprop_ignores_largest_step",
        "Rprop",
        "step_sizes",
        lambda sizes: (sizes[0], 50.0),
        "Rprop lets its steps grow beyond the largest it was given.",
        {"lr": 0.1, "step_sizes": (1e-3, 0.05)},
        0.7658,
    ),
    Misread(
        "adafactor_ignores_beta2_decay",
        "Adafactor",
        "beta2_decay",
        _to(-0.8),
        "Adafactor uses the default beta2_decay whatever it was given.",
        {"lr": 0.1, "beta2_decay": -0.5},
        0.731447537,
        since=(2, 5),
    ),
    Misread(
        "adafactor_ignores_clipping",
        "Adafactor",
        "d",
        _to(1e9),
        "Adafactor does not clip its updates.",
        {"lr": 0.1},
        0.76178067,
        since=(2, 5),
    ),
    Misread(
        "adafactor_ignores_maximize",
        "Adafactor",
        "maximize",
        _to(False),
        "Adafactor minimizes where it was told to maximize.",
        {"lr": 0.1, "maximize": True},
        1.27790696,
        since=(2, 5),
    ),
)


def _register(misread: Misread) -> None:
    def apply() -> None:
        option_seen_as(
            misread.optimizer,
            misread.option,
            misread.change,
            misread.when or (lambda group: True),
        )

    def witness() -> bool:
        return near(trained(misread.optimizer, *GRADIENTS, **misread.options)[-1], misread.healthy)

    apply.__name__, apply.__doc__ = misread.name, misread.sentence
    fault("F3", witness=witness, smoke=misread.smoke, since=misread.since)(apply)


for _misread in MISREADS:
    _register(_misread)


@fault(
    "F3",
    witness=lambda: near(
        trained("Adagrad", *GRADIENTS, lr=0.1, initial_accumulator_value=0.5)[-1], 0.866586939
    ),
)
def adagrad_ignores_initial_value() -> None:
    """Adagrad starts its sums at zero whatever it was given."""

    def around(init: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        kwargs.pop("initial_accumulator_value", None)
        init(self, *args, **kwargs)

    wrap(torch.optim.Adagrad, "__init__", around)


def _matrix_after_muon(**options: Any) -> torch.Tensor:
    made = torch.nn.Parameter(torch.tensor([[1.0, 2.0], [0.0, 1.0], [1.0, 1.0]]))
    live = torch.optim.Muon([made], lr=0.1, **options)
    for factor in (1.0, -0.5):
        made.grad = factor * torch.tensor([[1.0, 0.0], [0.0, 0.5], [factor, 1.0]])
        live.step()
    return made


@fault(
    "F3",
    witness=lambda: (
        not bool((_matrix_after_muon(nesterov=True) == _matrix_after_muon(nesterov=False)).all())
    ),
    since=(2, 9),
)
def muon_ignores_nesterov() -> None:
    """Muon takes plain momentum for Nesterov's."""
    option_seen_as("Muon", "nesterov", _to(False))


@fault(
    "F3",
    witness=lambda: (
        not bool((_matrix_after_muon(weight_decay=0.1) == _matrix_after_muon(weight_decay=0.0)).all())
    ),
    since=(2, 9),
)
def muon_ignores_weight_decay() -> None:
    """Muon ignores weight decay."""
    option_seen_as("Muon", "weight_decay", _to(0.0))


@fault(
    "F3",
    witness=lambda: (
        not bool((_matrix_after_muon(adjust_lr_fn="match_rms_adamw") == _matrix_after_muon()).all())
    ),
    since=(2, 9),
)
def muon_ignores_rate_adjustment() -> None:
    """Muon adjusts its rate in the original way, whatever it was told."""
    option_seen_as("Muon", "adjust_lr_fn", _to("original"))


def _after_lbfgs(**options: Any) -> float:
    made = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))

    def closure() -> torch.Tensor:
        made.grad = None
        loss = (made**4 * torch.tensor([1.0, 2.0, 3.0])).sum()
        loss.backward()
        return loss

    torch.optim.LBFGS([made], **options).step(closure)  # type: ignore[arg-type]
    return float(made[0])


@fault("F3", witness=lambda: _after_lbfgs(lr=0.1, max_iter=2) != _after_lbfgs(lr=1.0, max_iter=2))
def lbfgs_ignores_rate() -> None:
    """LBFGS steps with a rate of 1 whatever it was given."""
    option_seen_as("LBFGS", "lr", _to(1.0))


@fault(
    "F3",
    witness=lambda: (
        _after_lbfgs(lr=0.1, max_iter=8, history_size=1)
        != _after_lbfgs(lr=0.1, max_iter=8, history_size=9)
    ),
)
def lbfgs_ignores_history_size() -> None:
    """LBFGS keeps all of its history whatever it was told."""
    option_seen_as("LBFGS", "history_size", _to(100))


def _sparse_after(**options: Any) -> float:
    made = torch.nn.Parameter(torch.ones(2, 1))
    made.grad = torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1, 1), (2, 1))
    torch.optim.SparseAdam([made], lr=0.1, **options).step()
    return float(made[0, 0])


@fault("F3", witness=lambda: _sparse_after(maximize=True) > 1.0, since=(2, 0))
def sparse_adam_ignores_maximize() -> None:
    """SparseAdam minimizes where it was told to maximize."""
    option_seen_as("SparseAdam", "maximize", _to(False))
