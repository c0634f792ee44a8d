"""Optimizers, wrappers, hooks, checkpoints and precision, as training code uses them."""

import copy
import io
import pickle
from typing import Any, Dict, List

import torch
from torch import nn

from frostproof.properties.selftest.recipes.mistakes import closing, data, mistake, stepper, two_layers
from frostproof.properties.selftest.recipes.right import right

TORCH = tuple(int(part) for part in str(torch.__version__).split(".")[:2])


class SharpnessAware(torch.optim.Optimizer):
    """Climbs to the worst point nearby, then steps from where it was."""

    def __init__(self, params: Any, base: Any, rho: float = 0.05, **options: Any) -> None:
        super().__init__(params, {"rho": rho, **options})
        self.base = base(self.param_groups, **options)
        self.param_groups = self.base.param_groups

    def _live(self) -> List[torch.Tensor]:
        return [p for group in self.param_groups for p in group["params"] if p.grad is not None]

    @torch.no_grad()
    def step(self, closure: Any) -> Any:  # type: ignore[override]
        closure = torch.enable_grad()(closure)
        loss = closure()
        norm = sum(float((p.grad**2).sum()) for p in self._live()) ** 0.5 + 1e-12  # type: ignore
        before = [(p, p.clone()) for p in self._live()]
        for p, _ in before:
            p.add_(p.grad, alpha=self.param_groups[0]["rho"] / norm)  # type: ignore[arg-type]
        closure()
        for p, was in before:
            p.copy_(was)
        self.base.step()
        return loss


class Lookahead:
    """No torch optimizer itself: slow weights behind a fast one."""

    def __init__(self, fast: torch.optim.Optimizer, every: int = 2) -> None:
        self.fast, self.every, self.count = fast, every, 0
        self.param_groups = fast.param_groups
        self.slow = {p: p.detach().clone() for g in fast.param_groups for p in g["params"]}

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.fast.zero_grad(set_to_none=set_to_none)

    @torch.no_grad()
    def step(self) -> None:
        self.fast.step()
        self.count += 1
        if self.count % self.every == 0:
            for p, slow in self.slow.items():
                p.copy_(slow.add_(p - slow, alpha=0.5))


@right
def sharpness_aware_over_all() -> Any:
    net = two_layers()
    net[0].requires_grad_(False)
    optimizer = SharpnessAware(net.parameters(), torch.optim.SGD, lr=0.1)
    closure = closing(net, optimizer)
    return net, lambda: optimizer.step(closure)


@right
def lookahead_over_all() -> Any:
    net = two_layers()
    net[0].weight.requires_grad_(False)
    optimizer: Any = Lookahead(torch.optim.Adam(net.parameters(), 0.01))
    return net, stepper(net, optimizer)


@right
def lbfgs_over_what_trains() -> Any:
    net = two_layers()
    net[0].requires_grad_(False)
    optimizer = torch.optim.LBFGS(net[2].parameters(), lr=0.1, max_iter=3)
    closure = closing(net, optimizer)
    return net, lambda: optimizer.step(closure)


@right
def gradients_by_autograd_grad_and_a_rule_by_hand() -> Any:
    net = two_layers()
    net[0].requires_grad_(False)
    live = [p for p in net.parameters() if p.requires_grad]

    def step() -> None:
        gradients = torch.autograd.grad(net(data()).square().mean(), live)
        with torch.no_grad():
            for parameter, gradient in zip(live, gradients):
                parameter -= 0.1 * gradient

    return net, step


@right
def gradient_hooks_that_scale_and_mask() -> Any:
    net = two_layers()
    net[2].weight.register_hook(lambda gradient: gradient * torch.tensor([[1.0], [0.0]]))
    net[0].bias.register_hook(lambda gradient: gradient.clamp(-0.1, 0.1))
    net.register_forward_hook(lambda module, inputs, output: output * 2)
    return net, stepper(net, torch.optim.Adam(net.parameters()))


@right
def gradient_penalty_through_the_input() -> Any:
    net = nn.Sequential(nn.Linear(4, 6), nn.Softplus(), nn.Linear(6, 1))
    net[0].bias.requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters())

    def step() -> None:
        optimizer.zero_grad()
        inputs = data().requires_grad_(True)
        output = net(inputs)
        (slope,) = torch.autograd.grad(output.sum(), inputs, create_graph=True)
        ((slope.norm(dim=1) - 1).square().mean() + output.mean()).backward()
        optimizer.step()

    return net, step


@right
def saved_and_loaded_in_every_step() -> Any:
    net = two_layers(nn.BatchNorm1d(6))
    net[0].requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters())
    inner = stepper(net, optimizer)

    def step() -> None:
        inner()
        file = io.BytesIO()
        torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, file)
        file.seek(0)
        saved = torch.load(file)
        net.load_state_dict(saved["net"])
        optimizer.load_state_dict(saved["optimizer"])
        pickle.loads(pickle.dumps(net))
        copy.deepcopy(net)(data()).sum().backward()

    return net, step


@right
def wrapped_in_data_parallel() -> Any:
    net = nn.DataParallel(two_layers())
    net.module[0].requires_grad_(False)
    return net, stepper(net, torch.optim.SGD(net.parameters(), 0.1))


@right
def recurrent_with_clipping() -> Any:
    torch.manual_seed(0)
    net: Any = nn.ModuleDict(
        {"body": nn.LSTM(4, 5, num_layers=2, dropout=0.1), "head": nn.Linear(5, 2)}
    )
    for name, parameter in net["body"].named_parameters():
        parameter.requires_grad = "l1" in name
    optimizer = torch.optim.RMSprop(net.parameters())

    def step() -> Any:
        net["body"].flatten_parameters()
        optimizer.zero_grad(set_to_none=True)
        output, _ = net["body"](data(6).reshape(6, 1, 4))
        loss = net["head"](output).square().mean()
        loss.backward()
        nn.utils.clip_grad_value_(net.parameters(), 0.01)
        optimizer.step()
        return loss

    return net, step


class Mixture(nn.Module):
    """Each row goes to the expert that the router likes best: some get none."""

    def __init__(self, experts: int = 8) -> None:
        super().__init__()
        self.router = nn.Linear(4, experts, bias=False)
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(experts))

    def forward(self, inputs: torch.Tensor) -> Any:
        chances, chosen = self.router(inputs).softmax(1).max(1)
        output = torch.zeros_like(inputs)
        for index, expert in enumerate(self.experts):
            rows = (chosen == index).nonzero()[:, 0]
            if len(rows):
                output = output.index_add(0, rows, expert(inputs[rows]) * chances[rows, None])
        return output


@right
def mixture_with_idle_experts() -> Any:
    torch.manual_seed(0)
    net = nn.Sequential(Mixture(), nn.Linear(4, 2))
    return net, stepper(net, torch.optim.Adam(net.parameters()), inputs=data(3))


@mistake("R3", "unused in forward")
def a_mixture_that_forgets_its_experts() -> Any:
    class Forgetful(Mixture):
        def forward(self, inputs: torch.Tensor) -> Any:
            return inputs * self.router(inputs).softmax(1).amax(1, keepdim=True)

    torch.manual_seed(0)
    net = nn.Sequential(Forgetful(), nn.Linear(4, 2))
    return net, stepper(net, torch.optim.Adam(net.parameters()))


@mistake("R3", "unused in forward")
def last_layer_of_a_list_left_out() -> Any:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))
            self.head = nn.Linear(4, 2)

        def forward(self, inputs: torch.Tensor) -> Any:
            for index in range(len(self.layers) - 1):
                inputs = torch.tanh(self.layers[index](inputs))
            return self.head(inputs)

    torch.manual_seed(0)
    net = Deep()
    return net, stepper(net, torch.optim.Adam(net.parameters()))


@right
def bias_before_a_batchnorm() -> Any:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2)
    )
    images = torch.randn(4, 3, 8, 8)
    optimizer = torch.optim.SGD(net.parameters(), 0.01)

    def step() -> None:
        optimizer.zero_grad()
        (net(images) - 1).pow(4).mean().backward()
        optimizer.step()

    return net, step


@right
def attention_with_a_key_bias() -> Any:
    torch.manual_seed(0)

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, inputs: torch.Tensor) -> Any:
            scores = self.query(inputs) @ self.key(inputs).transpose(0, 1)
            return scores.softmax(1) @ self.value(inputs)

    net = Attention()
    return net, stepper(net, torch.optim.SGD(net.parameters(), 0.001))


@right
def autocast_and_a_scaler() -> Any:
    net = two_layers(nn.LayerNorm(6))
    net[0].requires_grad_(False)
    optimizer = torch.optim.AdamW(net.parameters())
    scaler = torch.cuda.amp.GradScaler(enabled=False) if TORCH < (2, 4) else torch.amp.GradScaler("cpu")

    def step() -> Any:
        optimizer.zero_grad(set_to_none=True)
        if TORCH < (1, 11):
            loss = net(data()).square().mean()
        else:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = net(data()).float().square().mean()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        return loss

    return net, step


class KeepsDecaying(torch.optim.Optimizer):
    """Decays whatever it holds."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.01})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                p.mul_(1 - group["lr"])
                if p.grad is not None:
                    p.sub_(p.grad, alpha=group["lr"])


@mistake("R1", "KeepsDecaying moves parameters that have no gradient")
def an_optimizer_that_decays_what_has_no_gradient() -> Any:
    net = two_layers()
    net[0].requires_grad_(False)
    return net, stepper(net, KeepsDecaying(net.parameters()))


if TORCH >= (2, 0):

    @right
    def compiled() -> Any:
        net: Any = two_layers(nn.BatchNorm1d(6))
        net[0].requires_grad_(False)
        fast: Any = torch.compile(net, backend="eager")
        return fast, stepper(fast, torch.optim.SGD(fast.parameters(), 0.1))

    @right
    def functional_call_on_a_template() -> Any:
        net = two_layers()
        net[0].requires_grad_(False)
        inputs = data()

        def loss(live: Dict[str, torch.Tensor]) -> torch.Tensor:
            return torch.func.functional_call(net, live, (inputs,)).square().mean()

        def step() -> None:
            live = {n: p.detach() for n, p in net.named_parameters() if p.requires_grad}
            gradients = torch.func.grad(loss)(live)
            with torch.no_grad():
                for name, gradient in gradients.items():
                    net.get_parameter(name).sub_(gradient, alpha=0.1)

        return net, step

    @right
    def step_in_the_backward_pass() -> Any:
        net = two_layers()
        net[0].weight.requires_grad_(False)
        optimizers = {p: torch.optim.Adam([p], 0.01) for p in net.parameters()}
        for parameter in net.parameters():
            if parameter.requires_grad:

                def apply(p: Any) -> None:
                    optimizers[p].step()
                    optimizers[p].zero_grad()

                parameter.register_post_accumulate_grad_hook(apply)
        return net, lambda: net(data()).square().mean().backward()

    @right
    def checkpoint_without_reentry() -> Any:
        from torch.utils.checkpoint import checkpoint

        net: Any = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Dropout(0.3), nn.Linear(4, 2))
        net[0].requires_grad_(False)
        optimizer = torch.optim.SGD(net.parameters(), 0.1)

        def step() -> None:
            optimizer.zero_grad()
            net[3](checkpoint(net[1:3], net[0](data()), use_reentrant=False)).square().mean().backward()
            optimizer.step()

        return net, step


@right
def inner_loop_on_a_copy() -> Any:
    net = two_layers()
    net[0].requires_grad_(False)

    def step() -> None:
        fast = copy.deepcopy(net)
        inner = stepper(fast, torch.optim.SGD(fast.parameters(), 0.1))
        for _ in range(3):
            inner()
        with torch.no_grad():
            for slow, quick in zip(net.parameters(), fast.parameters()):
                slow.lerp_(quick, 0.5)

    return net, step
