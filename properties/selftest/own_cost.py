"""What --recipe and --model cost on a large model: time per step, memory beside training.

Each measurement is a process of its own, because memory is its peak:

    python -m frostproof.properties.selftest.own_cost [--million 100]
"""

import argparse
import resource
import subprocess
import sys
import time
from typing import Any, Tuple

import torch
from hypothesis import settings
from torch import nn

from frostproof.properties.harness.own.examination import examine
from frostproof.properties.harness.own.model import build as build_model
from frostproof.properties.harness.own.recipe import build as build_recipe
from frostproof.properties.own import test_model
from frostproof.strategies import OptimizerSpec

# the laws of a model, with plain SGD, so that what comes beside training is the harness's own
LAWS = {
    "model F1": test_model.test_frozen_stay,
    "model F2": test_model.test_gradients_do_not_depend_on_the_mask,
    "model F3": test_model.test_the_rest_trains,
    "model F5": test_model.test_nothing_escapes,
    "model F8": test_model.test_frozen_submodule_stays,
}
# each beside what it is compared with: the same without the harness
COMPARED_WITH = {
    "training": "",
    "recipe": "training",
    "training-decays": "",
    "recipe-finds": "training-decays",
    "training-all": "",
    **{kind: "training-all" for kind in LAWS},
}
STEPS = 3
WIDTH = 1024


def net_of(million: int) -> Any:
    """A stack of square layers of about this many million parameters."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(million * 10**6 // WIDTH**2)))


def recipe(million: int, kind: str) -> Any:
    """Half of the net frozen, or nothing; where it finds, every frozen parameter moves."""
    net = net_of(million)
    half = net[: len(net) // 2]
    half.requires_grad_(kind == "training-all")
    decay = 0.0 if kind == "training-all" else 0.1
    optimizer = torch.optim.SGD(net.parameters(), 1e-3, weight_decay=decay)
    inputs = torch.randn(256, WIDTH)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        if kind in ("training-decays", "recipe-finds"):
            for parameter in half.parameters():
                parameter.grad = torch.zeros_like(parameter)
        net(inputs).square().mean().backward()
        optimizer.step()

    return net, step


def law_of_model(kind: str, million: int) -> Tuple[float, int]:
    """(seconds of a law over a few masks, how often it computed a loss)."""
    net, inputs = net_of(million), torch.randn(256, WIDTH)
    model = build_model("--model", "large", lambda: (net, inputs))
    settings.register_profile("few", max_examples=STEPS, database=None, deadline=None)
    settings.load_profile("few")
    test_model.draw_optimizer = lambda data, model: OptimizerSpec("SGD", (("lr", 1e-3),))
    steps, compute = 0, model.compute_loss

    def counted() -> torch.Tensor:
        nonlocal steps
        steps += 1
        return compute()

    model.compute_loss = counted  # type: ignore[method-assign]
    torch.optim.SGD([nn.Parameter(torch.ones(1))], 1e-3).step()  # imports a lot the first time
    start = time.perf_counter()
    LAWS[kind](model)
    return time.perf_counter() - start, steps


def measure(kind: str, million: int) -> None:
    """Print seconds per step and the peak of memory in bytes."""
    steps = STEPS
    if kind in LAWS:
        seconds, steps = law_of_model(kind, million)
    elif kind.startswith("training"):
        _, step = recipe(million, kind)
        start = time.perf_counter()
        for _ in range(steps):
            step()
        seconds = time.perf_counter() - start
    else:
        mine = build_recipe("--recipe", "large", lambda: recipe(million, kind))
        start = time.perf_counter()
        found = examine(mine, steps)
        seconds = time.perf_counter() - start
        assert found.steps == steps and bool(found.findings) == (kind == "recipe-finds")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
    print(seconds / steps, peak)


def child(kind: str, million: int) -> Tuple[float, int]:
    """A measurement in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "frostproof.properties.selftest.own_cost",
        "--million",
        str(million),
    ]
    out = subprocess.run([*command, "--kind", kind], capture_output=True, text=True, check=True).stdout
    seconds, peak = out.split()[-2:]
    return float(seconds), int(peak)


def main() -> None:
    """Measure all kinds, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--million", type=int, default=100, help="parameters, in millions")
    parser.add_argument("--kind", choices=COMPARED_WITH)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.kind:
        measure(options.kind, options.million)
        return
    size = 4 * sum(p.numel() for p in net_of(options.million).parameters())
    base = {kind: child(kind, options.million) for kind in COMPARED_WITH}
    print("what\tseconds a step\tcost, in steps\tmemory, in parameters")
    for kind, alone in COMPARED_WITH.items():
        seconds, peak = base[kind]
        row = f"{kind}\t{seconds:.2f}"
        if alone:
            row += f"\t{seconds / base[alone][0] - 1:.2f}\t{(peak - base[alone][1]) / size:.2f}"
        print(row)


if __name__ == "__main__":
    main()
