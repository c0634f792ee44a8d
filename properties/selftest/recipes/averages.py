"""Averages, momentum encoders, target networks, teachers, and what is kept: right and wrong."""

import copy
from typing import Any, Dict, List

import pytest
import torch
from torch import nn
from torch.nn import functional

from frostproof.properties.selftest.recipes.mistakes import data, mistake, stepper, two_layers
from frostproof.properties.selftest.recipes.right import right


class Encoders(nn.Module):
    """An online encoder and a frozen one that follows it, each with a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.online = two_layers(nn.BatchNorm1d(6))
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.predictor = nn.Linear(2, 2)

    def loss(self, inputs: torch.Tensor) -> Any:
        with torch.no_grad():
            wanted = self.target(inputs + 0.1)
        return functional.mse_loss(self.predictor(self.online(inputs)), wanted)

    @torch.no_grad()
    def follow(self, rate: float) -> None:
        for slow, fast in zip(self.target.parameters(), self.online.parameters()):
            slow.mul_(1 - rate).add_(fast, alpha=rate)


@right
def momentum_encoder_after_the_step() -> Any:
    net = Encoders()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    inputs = data()

    def step() -> None:
        optimizer.zero_grad()
        net.loss(inputs).backward()
        optimizer.step()
        net.follow(0.01)

    return net, step


@right
def momentum_encoder_before_the_forward_pass() -> Any:
    net = Encoders()
    optimizer = torch.optim.AdamW(net.parameters(), 0.01)
    inputs = data()

    def step() -> None:
        net.follow(0.004)
        optimizer.zero_grad()
        net.loss(inputs).backward()
        optimizer.step()

    return net, step


@right
def target_network_copied_now_and_then() -> Any:
    net: Any = nn.ModuleDict({"online": two_layers(), "offline": two_layers()})
    net["offline"].requires_grad_(False)
    optimizer = torch.optim.Adam(net["online"].parameters(), 0.01)
    inputs = data()
    count = [0]

    def step() -> Any:
        if count[0] % 3 == 2:
            net["offline"].load_state_dict(net["online"].state_dict())
        count[0] += 1
        optimizer.zero_grad()
        with torch.no_grad():
            wanted = 1 + 0.9 * net["offline"](inputs).amax(1)
        loss = functional.smooth_l1_loss(net["online"](inputs).amax(1), wanted)
        loss.backward()
        optimizer.step()
        return loss.item()

    return net, step


@right
def average_with_buffers_for_evaluation() -> Any:
    net = two_layers(nn.BatchNorm1d(6))
    average = copy.deepcopy(net)
    inner = stepper(net, torch.optim.SGD(net.parameters(), 0.1))

    def step() -> Any:
        net.train()
        loss = inner()
        with torch.no_grad():
            for slow, fast in zip(average.state_dict().values(), net.state_dict().values()):
                if slow.is_floating_point():
                    slow.lerp_(fast, 0.1)
                else:
                    slow.copy_(fast)
        return {"loss": loss, "validation": average.eval()(data()).sum().item()}

    return net, step


@right
def weights_swapped_with_the_average_and_back() -> Any:
    net = two_layers()
    net[0].requires_grad_(False)
    inner = stepper(net, torch.optim.SGD(net.parameters(), 0.1))
    average = {name: value.clone() for name, value in net.state_dict().items()}

    def step() -> None:
        inner()
        for name, value in net.state_dict().items():
            average[name].lerp_(value, 0.1)
        mine = copy.deepcopy(net.state_dict())
        net.load_state_dict(average)
        with torch.no_grad():
            net(data())
        net.load_state_dict(mine)

    return net, step


@right
def stochastic_weight_averaging() -> Any:
    from torch.optim.swa_utils import SWALR, AveragedModel, update_bn

    net = two_layers(nn.BatchNorm1d(6))
    average = AveragedModel(net)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    inner, scheduler = stepper(net, optimizer), SWALR(optimizer, swa_lr=0.05)

    def step() -> None:
        inner()
        average.update_parameters(net)
        scheduler.step()
        update_bn([data()], average)

    return net, step


@right
def distillation_from_a_frozen_teacher() -> Any:
    net, teacher = two_layers(), two_layers(nn.BatchNorm1d(6)).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters())
    inputs = data()

    def step() -> Any:
        optimizer.zero_grad()
        loss = functional.kl_div(
            net(inputs).log_softmax(1), teacher(inputs).softmax(1), reduction="batchmean"
        )
        loss.backward()
        optimizer.step()
        return loss

    return net, step, teacher


@right
def teacher_inside_the_module_and_kept() -> Any:
    net: Any = nn.ModuleDict({"student": two_layers(), "teacher": two_layers()})
    optimizer = torch.optim.Adam(net["student"].parameters())
    inputs = data() * 2

    def step() -> None:
        optimizer.zero_grad()
        with torch.no_grad():
            wanted = net["teacher"](inputs).softmax(1)
        functional.mse_loss(net["student"](inputs).softmax(1) * 0.5, wanted).backward()
        optimizer.step()

    return net, step, [net["teacher"]]


@right
def teacher_hidden_in_a_list() -> Any:
    class Student(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = two_layers()
            self.teacher = [two_layers()]  # so that state_dict leaves it out

        def forward(self, inputs: torch.Tensor) -> Any:
            with torch.no_grad():
                wanted = self.teacher[0](inputs) * 0.5
            return self.body(inputs) - wanted

    net = Student()
    return net, stepper(net, torch.optim.Adam(net.parameters()))


@right
def reference_policy_kept_with_numbers() -> Any:
    net = two_layers()
    reference = copy.deepcopy(net).eval()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    inputs = data()

    def step() -> None:
        optimizer.zero_grad()
        with torch.no_grad():
            old = reference(inputs).log_softmax(1)
        new = net(inputs).log_softmax(1)
        ((new - old).square().mean() - new[:, 0].mean()).backward()
        optimizer.step()

    kept: Dict[str, Any] = {"reference": reference, "epoch": 3, "history": [(1, torch.ones(2))]}
    return net, step, kept


@mistake("R4", "shared storage")
def best_weights_in_a_nested_dictionary() -> Any:
    net = two_layers(nn.BatchNorm1d(6))
    checkpoint = {"epoch": 1, "model": {k: v.detach() for k, v in net.state_dict().items()}}
    return net, stepper(net, torch.optim.Adam(net.parameters())), checkpoint


@mistake("R4", "shared storage")
def best_weights_in_a_shallow_copy() -> Any:
    net = two_layers()
    best = copy.copy(net.state_dict())
    return net, stepper(net, torch.optim.Adam(net.parameters())), [best]


@mistake("R4", "shared storage")
def best_weights_as_numpy() -> Any:
    pytest.importorskip("numpy")
    net = two_layers()
    best: List[Any] = [parameter.detach().numpy() for parameter in net.parameters()]
    return net, stepper(net, torch.optim.Adam(net.parameters())), best


@mistake("R4", "SGD trains it")
def teacher_in_the_optimizer() -> Any:
    net, teacher = two_layers(), two_layers()
    optimizer = torch.optim.SGD([*net.parameters(), *teacher.parameters()], 0.1)
    inputs = data()

    def step() -> None:
        optimizer.zero_grad()
        functional.mse_loss(net(inputs) * 2, teacher(inputs)).backward()
        optimizer.step()

    return net, step, {"teacher": teacher}


@mistake("R1", "in-place write")
def average_written_into_the_wrong_network() -> Any:
    torch.manual_seed(0)
    net: Any = nn.ModuleDict({"body": nn.Linear(4, 4), "head": nn.Linear(4, 2)})
    net["body"].requires_grad_(False)
    other = [torch.zeros_like(p) for p in net.parameters()]
    full = nn.Sequential(net["body"], net["head"])
    inner = stepper(full, torch.optim.SGD(net.parameters(), 0.1))

    def step() -> None:
        inner()
        with torch.no_grad():
            for fast, slow in zip(net.parameters(), other):
                fast.lerp_(slow, 0.01)

    return net, step


@right
def average_of_torch_inside_the_module() -> Any:
    from torch.optim.swa_utils import AveragedModel

    net = two_layers(nn.BatchNorm1d(6))
    average = AveragedModel(net)
    average.requires_grad_(False)
    both = nn.ModuleDict({"net": net, "average": average})
    inner = stepper(net, torch.optim.AdamW(net.parameters(), 0.01))

    def step() -> None:
        inner()
        average.update_parameters(net)

    return both, step


@right
def momentum_encoder_in_bfloat16_through_data() -> Any:
    net: Any = nn.ModuleDict({"online": nn.Linear(4, 6), "offline": nn.Linear(4, 6)})
    net.to(torch.bfloat16)
    net["offline"].load_state_dict(net["online"].state_dict())
    net["offline"].requires_grad_(False)
    optimizer = torch.optim.SGD(net["online"].parameters(), 0.5)
    inputs = data().to(torch.bfloat16)

    def step() -> None:
        optimizer.zero_grad()
        with torch.no_grad():
            wanted = 1 + net["offline"](inputs).float()
        functional.mse_loss(net["online"](inputs).float(), wanted).backward()
        optimizer.step()
        for slow, fast in zip(net["offline"].parameters(), net["online"].parameters()):
            slow.data = slow.data * 0.9 + fast.data * 0.1

    return net, step


@right
def best_weights_saved_again_when_better() -> Any:
    net = two_layers()
    inner = stepper(net, torch.optim.SGD(net.parameters(), 0.1))
    best: Dict[str, Any] = {}
    lowest = [float("inf")]

    def step() -> Any:
        loss = inner().item()
        if loss < lowest[0]:
            lowest[0] = loss
            best.update(copy.deepcopy(net.state_dict()))
        return {"loss": loss, "best_loss": float("inf"), "auc": float("nan")}

    return net, step, best


@mistake("R4", "shared storage")
def best_weights_saved_later_without_a_copy() -> Any:
    net = two_layers()
    inner = stepper(net, torch.optim.SGD(net.parameters(), 0.1))
    best: Dict[str, Any] = {}

    def step() -> None:
        inner()
        if not best:
            best.update(net.state_dict())

    return net, step, best


@mistake("R4", "the state of Adam")
def optimizer_state_without_a_copy() -> Any:
    net = two_layers()
    optimizer = torch.optim.Adam(net.parameters())
    step = stepper(net, optimizer)
    step()
    return net, step, optimizer.state_dict()
