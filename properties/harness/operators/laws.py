"""All laws of an operator by name. Each looks at one trial and adds to it what it finds."""

from typing import Callable, Dict, Sequence, Tuple

import torch

from frostproof.properties.harness.operators.accumulating import accumulation, partners
from frostproof.properties.harness.operators.masks import (
    cloned,
    detached,
    frozen_neighbours,
    inputs_stay,
    layouts,
    sharing,
    without_grad,
)
from frostproof.properties.harness.operators.outputs import given_out, in_place
from frostproof.properties.harness.operators.routes import (
    checkpointed,
    copying_hooks,
    forward_mode,
    functional,
    graph_of_gradients,
    twice,
    without_effect,
)
from frostproof.properties.harness.operators.trial import Trial

# What a law needs of torch, by its name: where it is not there the law is not offered.
NEEDS: Dict[str, Callable[[], bool]] = {
    "copying_hooks": lambda: hasattr(getattr(torch.autograd, "graph", None), "saved_tensors_hooks"),
    "checkpointed": lambda: hasattr(torch, "func"),
    "functional": lambda: hasattr(torch, "func"),
    "forward_mode": lambda: hasattr(torch, "func"),
}


def laws(trial: Trial, masks: Sequence[Tuple[int, ...]]) -> Dict[str, Callable[[], None]]:
    """Each law by its name, ready to be tried."""
    found: Dict[str, Callable[[], None]] = {
        "frozen_neighbours": lambda: frozen_neighbours(trial, masks),
        "detached": lambda: detached(trial, masks),
        "cloned": lambda: cloned(trial),
        "layouts": lambda: layouts(trial),
        "without_grad": lambda: without_grad(trial),
        "inputs_stay": lambda: inputs_stay(trial),
        "sharing": lambda: sharing(trial),
        "accumulation": lambda: accumulation(trial),
        "partners": lambda: partners(trial),
        "copying_hooks": lambda: copying_hooks(trial),
        "checkpointed": lambda: checkpointed(trial),
        "graph_of_gradients": lambda: graph_of_gradients(trial),
        "functional": lambda: functional(trial),
        "forward_mode": lambda: forward_mode(trial),
        "twice": lambda: twice(trial, masks),
        "without_effect": lambda: without_effect(trial),
        "given_out": lambda: given_out(trial),
        "in_place": lambda: in_place(trial),
    }
    return {name: law for name, law in found.items() if NEEDS.get(name, lambda: True)()}
