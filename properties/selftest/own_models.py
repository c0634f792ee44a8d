"""Models as users have them: healthy ones of many kinds, and some that break a law."""

import importlib.util
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Tuple

import torch
from torch import nn

Factory = Callable[..., Any]
HEALTHY: Dict[str, Factory] = {}
BROKEN: Dict[str, Tuple[Factory, str]] = {}  # the law's test that must fail
REFUSED: Dict[str, Tuple[Factory, str]] = {}  # words of the usage error


def healthy(factory: Factory) -> Factory:
    HEALTHY[factory.__name__] = factory
    return factory


def broken(test: str) -> Callable[[Factory], Factory]:
    def register(factory: Factory) -> Factory:
        BROKEN[factory.__name__] = (factory, test)
        return factory

    return register


def refused(words: str) -> Callable[[Factory], Factory]:
    def register(factory: Factory) -> Factory:
        REFUSED[factory.__name__] = (factory, words)
        return factory

    return register


def rows(count: int = 6, width: int = 4) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(0))


@healthy
def residual_net_with_batchnorm() -> Any:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()
            )

        def forward(self, inputs: torch.Tensor) -> Any:
            return inputs + self.body(inputs)

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), Block(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    return net, torch.randn(2, 3, 8, 8)


@healthy
def transformer_with_tied_embedding() -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(20, 8)
            self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1)
            self.head = nn.Linear(8, 20, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, words: torch.Tensor) -> Any:
            return {"logits": self.head(self.encoder(self.embedding(words)))}

    torch.manual_seed(0)
    return Net(), {"words": torch.randint(0, 20, (5, 2))}


@healthy
def recurrent_with_own_loss() -> Any:
    torch.manual_seed(0)
    net = nn.LSTM(4, 5, num_layers=2)
    return net, torch.randn(3, 2, 4), lambda output: output[0].square().mean()


@healthy
def dropout_and_groupnorm() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.GroupNorm(2, 8), nn.Dropout(0.5), nn.Linear(8, 2)), rows()


@healthy
def weight_norm_and_spectral_norm() -> Any:
    torch.manual_seed(0)
    norms: Any = nn.utils
    net = nn.Sequential(
        norms.weight_norm(nn.Linear(4, 6))
        if not hasattr(getattr(norms, "parametrizations", None), "weight_norm")
        else norms.parametrizations.weight_norm(nn.Linear(4, 6)),
        nn.Tanh(),
        norms.spectral_norm(nn.Linear(6, 2)),
    )
    return net, rows()


@healthy
def sparse_embedding() -> Any:
    torch.manual_seed(0)
    net = nn.Sequential(nn.EmbeddingBag(10, 4, sparse=True), nn.Linear(4, 2))
    return net, torch.tensor([[0, 1], [2, 2]])


@healthy
def complex_parameters() -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, dtype=torch.complex64))

        def forward(self, inputs: torch.Tensor) -> Any:
            return inputs * self.weight

    torch.manual_seed(0)
    return Net(), rows()


@healthy
def bfloat16_with_integer_parameter() -> Any:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).to(torch.bfloat16)
    net.register_parameter("codes", nn.Parameter(torch.arange(3), requires_grad=False))
    return net, rows().to(torch.bfloat16)


@dataclass
class Output:
    logits: torch.Tensor
    hidden: List[torch.Tensor]
    name: str = "output"


@healthy
def dataclass_output_and_dead_layer() -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.spare = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(2, 2)
            self.register_buffer("seen", torch.zeros(()), persistent=False)

        def forward(self, inputs: torch.Tensor, scale: float) -> Any:
            hidden = torch.tanh(self.first(inputs))
            return Output(self.second(hidden) * scale, [hidden])

    torch.manual_seed(0)
    return Net(), (rows(), 2.0)


@healthy
def frozen_as_it_comes() -> Any:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Softmax(1))
    net[0].bias.requires_grad_(False)
    return net, rows()


@healthy
def inputs_written_in_place() -> Any:
    torch.manual_seed(0)
    net = nn.Sequential(nn.LeakyReLU(0.5, inplace=True), nn.Linear(4, 4), nn.ReLU(inplace=True))
    return net, rows()


@healthy
def statistics_put_into_a_new_tensor() -> Any:
    class Net(TwoLayers):
        mean: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(4))

        def forward(self, inputs: torch.Tensor) -> Any:
            if self.training:
                self.mean = 0.5 * self.mean + 0.5 * inputs.mean(0)
            return super().forward(inputs - self.mean)

    return Net(), rows()


@healthy
def forces_from_an_energy() -> Any:
    class Net(TwoLayers):
        def forward(self, positions: torch.Tensor) -> Any:
            positions = positions.detach().clone().requires_grad_(True)
            energy = super().forward(positions).square().sum()
            (slope,) = torch.autograd.grad(energy, positions, create_graph=True)
            return {"energy": energy, "forces": -slope}

    return Net(), rows()


@healthy
def inputs_that_require_grad() -> Any:
    return TwoLayers(), rows().requires_grad_(True)


@(healthy if importlib.util.find_spec("numpy") else lambda factory: factory)
def noise_from_numpy_and_python() -> Any:
    import random

    import numpy

    class Net(TwoLayers):
        def forward(self, inputs: torch.Tensor) -> Any:
            noise = torch.from_numpy(numpy.random.rand(4)).float() * random.random()
            return super().forward(inputs + noise)

    return Net(), rows()


@healthy
def batch_as_one_dictionary() -> Any:
    class Net(TwoLayers):
        def forward(self, batch: Any, scale: float = 1.0) -> Any:
            return super().forward(batch["x"]) * scale

    return Net(), {"x": rows(), "labels": [1, 2]}


@healthy
def works_only_as_it_is_frozen() -> Any:
    class Net(TwoLayers):
        def __init__(self) -> None:
            super().__init__()
            self.centre = nn.Parameter(torch.zeros(4), requires_grad=False)

        def forward(self, inputs: torch.Tensor) -> Any:
            self.centre.mul_(0.9).add_(inputs.mean(0), alpha=0.1)
            return super().forward(inputs - self.centre.detach().clone())

    return Net(), rows()


@healthy
def table_made_when_it_is_needed() -> Any:
    class Net(TwoLayers):
        table: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.first.register_buffer("table", torch.zeros(0), persistent=False)

        def forward(self, inputs: torch.Tensor) -> Any:
            if len(self.first.table) < len(inputs):  # type: ignore[arg-type]
                self.first.table = torch.arange(float(len(inputs))).cos()
            return super().forward(inputs * self.first.table[: len(inputs), None])  # type: ignore[index]

    return Net(), rows()


@healthy
def shared_layers_and_loose_parameters() -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            shared = nn.Linear(4, 4)
            self.layers = nn.ModuleList([shared, nn.LayerNorm(4), shared])
            self.loose = nn.ParameterDict({"shift": nn.Parameter(torch.zeros(4))})
            self.list = nn.ParameterList([nn.Parameter(torch.ones(()))])
            self.attention = nn.MultiheadAttention(4, 2)

        def forward(self, inputs: torch.Tensor) -> Any:
            for layer in self.layers:
                inputs = layer(inputs)
            inputs = (inputs * self.list[0] + self.loose["shift"]).unsqueeze(1)
            return self.attention(inputs, inputs, inputs)

    torch.manual_seed(0)
    return Net(), rows()


if hasattr(torch, "compile"):

    @healthy
    def compiled_in_double_with_a_checkpoint() -> Any:
        from torch.utils.checkpoint import checkpoint

        class Net(TwoLayers):
            def forward(self, inputs: torch.Tensor) -> Any:
                hidden = checkpoint(self.first, inputs, use_reentrant=False)
                return self.second(torch.tanh(hidden)), None

        return torch.compile(Net().double(), backend="eager"), rows().double()


class TwoLayers(nn.Module):
    """What the broken ones are made of."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, inputs: torch.Tensor) -> Any:
        return self.second(torch.tanh(self.first(inputs)))


@broken("test_frozen_stay")
def forward_writes_into_its_weight() -> Any:
    class Net(TwoLayers):
        def forward(self, inputs: torch.Tensor) -> Any:
            with torch.no_grad():
                self.first.weight.mul_(0.9)
            return super().forward(inputs)

    return Net(), rows()


@broken("test_gradients_do_not_depend_on_the_mask")
def gradient_depends_on_the_mask() -> Any:
    class Net(TwoLayers):
        def forward(self, inputs: torch.Tensor) -> Any:
            hidden = torch.tanh(self.first(inputs))
            return self.second(hidden if self.second.weight.requires_grad else hidden.detach())

    return Net(), rows()


@broken("test_nothing_escapes")
def layers_in_a_list() -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.rest = [nn.Linear(4, 2)]

        def forward(self, inputs: torch.Tensor) -> Any:
            return self.rest[0](self.first(inputs))

    torch.manual_seed(0)
    return Net(), rows()


@broken("test_frozen_submodule_stays")
def statistics_move_in_eval_mode() -> Any:
    class Net(TwoLayers):
        def __init__(self) -> None:
            super().__init__()
            self.first.register_buffer("mean", torch.zeros(4))

        def forward(self, inputs: torch.Tensor) -> Any:
            with torch.no_grad():
                self.first.mean.mul_(0.9).add_(inputs.mean(0), alpha=0.1)  # type: ignore[union-attr, operator]
            return super().forward(inputs)

    return Net(), rows()


@broken("test_frozen_submodule_stays")
def requires_grad_forgets_the_bias() -> Any:
    class Net(TwoLayers):
        def requires_grad_(self, requires_grad: bool = True) -> Any:
            for name, parameter in self.named_parameters():
                if not name.endswith("bias"):
                    parameter.requires_grad_(requires_grad)
            return self

    return Net(), rows()


@broken("test_gradients_do_not_depend_on_the_mask")
def checkpoint_that_loses_gradients() -> Any:
    from torch.utils.checkpoint import checkpoint

    class Net(TwoLayers):
        def forward(self, inputs: torch.Tensor) -> Any:
            options: Any = {"use_reentrant": True} if hasattr(torch, "compile") else {}
            return checkpoint(self.second, torch.tanh(self.first(inputs)), **options)

    return Net(), rows()


SCALE = torch.ones(2, requires_grad=True)


@broken("test_nothing_escapes")
def a_tensor_outside_the_module() -> Any:
    class Net(TwoLayers):
        def forward(self, inputs: torch.Tensor) -> Any:
            return super().forward(inputs) * SCALE

    return Net(), rows()


@broken("test_frozen_stay")
def embedding_that_shortens_its_rows() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(5, 4, max_norm=0.5), nn.Linear(4, 2)), torch.tensor([0, 1])


@broken("test_frozen_stay")
def weights_clamped_in_forward() -> Any:
    class Net(TwoLayers):
        def forward(self, inputs: torch.Tensor) -> Any:
            self.first.weight.data.clamp_(-0.1, 0.1)
            return super().forward(inputs)

    return Net(), rows()
