"""Programs of laws as people write them: bare asserts, hooks, classes of their own, any keyword."""

from typing import Any, Callable, Dict

import pytest
import torch

from frostproof.properties.harness.core.checks import check_equal
from frostproof.properties.harness.reproducer.replay import found_by, outcome
from frostproof.properties.harness.running.case import Case


def hook_of_a_module() -> None:
    net, seen = torch.nn.Linear(1, 1), []
    net.register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))
    check_equal(len(seen), 1, "calls of the hook")


def test_a_modules_hook_that_never_ran_is_written_out() -> None:
    program = found_by(hook_of_a_module, Case("hook")).program
    assert ".append(output.requires_grad)" in program, program
    assert outcome(program.replace(" == 1 or", " == 0 or")) is None, program


def keywords() -> None:
    made: Dict[str, Any] = dict(name=torch.ones(1), held=2, function=3, owner=4, self=5)
    check_equal(made["name"].tolist(), [0.0], "the tensor")


def test_a_law_may_use_any_keyword() -> None:
    assert "torch.ones(1).tolist() == [0.0]" in found_by(keywords, Case("keywords")).program


def what_trains() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))
    net[0].requires_grad_(False)
    trains = [name for name, p in net.named_parameters() if p.requires_grad]
    check_equal(trains, ["0.weight", "1.weight", "1.bias"], "what trains")


def bare_assert() -> None:
    layer = torch.nn.Linear(1, 1)
    assert all(p.grad is not None for p in layer.parameters()), "each has a gradient"


class Triple(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        return value * 3

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return gradient * 2


def own_function() -> None:
    x = torch.ones(1, requires_grad=True)
    Triple.apply(x).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad == 3


class Sign(torch.optim.Optimizer):
    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 1.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for p in self.param_groups[0]["params"]:
            p.sub_(p.grad.sign())


def own_optimizer() -> None:
    p = torch.nn.Parameter(torch.ones(1))
    p.sum().backward()
    Sign([p]).step()
    assert p.item() == 1


def decorated() -> None:
    @torch.no_grad()
    def called(value: torch.Tensor) -> torch.Tensor:
        return value * 2

    assert called(torch.ones(1, requires_grad=True)).requires_grad


def counted() -> None:
    layer = torch.nn.Linear(1, 1)
    layer.bias.requires_grad_(False)
    assert sum(1 for p in layer.parameters() if p.requires_grad) == 2


def added_in_place() -> None:
    x = torch.ones(1)
    alias = x.detach()
    alias += 1
    assert x._version == 0


@pytest.mark.parametrize(
    "law, condition",
    [
        (own_function, "Triple.apply(x).sum().backward()"),
        (own_optimizer, "p.sub_(p.grad.sign())"),
        (decorated, "@torch.no_grad()"),
        (counted, "sum((1 for p in layer.parameters() if p.requires_grad)) == 2 or"),
        (added_in_place, "alias += 1"),
        (
            what_trains,
            "[name for name, p in net.named_parameters() if p.requires_grad] == ['0.weight', ",
        ),
        (bare_assert, "nn.Linear(1, 1).weight.grad is not None or sys.exit("),
    ],
)
def test_a_law_as_people_write_it_has_a_program(law: Callable[[], None], condition: str) -> None:
    program = found_by(law, Case(law.__name__)).program
    assert condition in program and outcome(program) is not None, program
    *body, end = program.strip().split("\n")
    healthy = "\n".join([*body, "bool(" + end.replace(" or sys.exit", ") and sys.exit")])
    assert outcome(healthy) is None, program


def first_steps() -> None:
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = (parameter * 3).sum()
        loss.backward()
        return loss

    parameter.requires_grad = True
    optimizer.zero_grad()
    optimizer.step(closure)
    optimizer.step(closure)
    check_equal(parameter.tolist(), [0.0], "the parameter")


def test_what_is_so_already_is_not_set() -> None:
    program = found_by(first_steps, Case("steps")).program
    assert "requires_grad" not in program and program.count("    optimizer.zero_grad()") >= 1, program
    assert "\noptimizer.zero_grad()" not in program, program
