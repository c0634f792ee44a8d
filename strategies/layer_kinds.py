"""The layers and functions of torch.nn, as code, and cases of them with a freeze mask."""

from dataclasses import dataclass
from functools import cache
from typing import Dict, Tuple

import torch
from hypothesis import strategies as st

from frostproof.strategies.freezing import Mask, freeze_masks
from frostproof.strategies.network_code import layer_code


@dataclass(frozen=True)
class LayerKind:
    """A layer as code, with ``nn`` and ``torch`` in its scope.

    make: builds it; shape: of its input ``x``; call: its output, from ``layer`` and ``x``;
    tokens: 0 where x is floating, else x holds whole numbers below it.
    """

    make: str
    shape: Tuple[int, ...]
    call: str = "layer(x)"
    tokens: int = 0

    @property
    def needs(self) -> str:
        """The public name of the layer, or of the function after a linear one."""
        return f"torch.{(self.call if 'functional' in self.call else self.make).partition('(')[0]}"


# Every family of layers with parameters, in the ways that have kernels of their own.
LAYER_KINDS: Dict[str, LayerKind] = {
    "Linear": LayerKind("nn.Linear(3, 2)", (2, 3, 3)),
    "Bilinear": LayerKind("nn.Bilinear(3, 3, 2)", (4, 3), "layer(x, x)"),
    "PReLU": LayerKind("nn.PReLU(3)", (4, 3)),
    "Conv1d": LayerKind("nn.Conv1d(2, 3, 2)", (3, 2, 5)),
    "Conv2d": LayerKind("nn.Conv2d(3, 2, 1)", (2, 3, 4, 4)),
    "Conv2d-grouped": LayerKind("nn.Conv2d(2, 4, 2, padding=1, groups=2)", (3, 2, 4, 3)),
    "Conv2d-strided": LayerKind("nn.Conv2d(3, 2, 3, stride=2)", (2, 3, 5, 6)),
    "Conv3d": LayerKind("nn.Conv3d(1, 2, 2)", (2, 1, 3, 3, 3)),
    "ConvTranspose1d": LayerKind("nn.ConvTranspose1d(2, 3, 2)", (2, 2, 4)),
    "ConvTranspose2d": LayerKind("nn.ConvTranspose2d(2, 3, 2, stride=2)", (2, 2, 3, 3)),
    "Embedding": LayerKind("nn.Embedding(5, 3)", (4, 3), tokens=5),
    "Embedding-padded": LayerKind("nn.Embedding(5, 3, padding_idx=1)", (4, 3), tokens=5),
    "EmbeddingBag": LayerKind("nn.EmbeddingBag(5, 3)", (4, 3), tokens=5),
    "RNN": LayerKind("nn.RNN(3, 4, batch_first=True)", (2, 3, 3), "layer(x)[0]"),
    "LSTM": LayerKind("nn.LSTM(3, 4, 2)", (3, 2, 3), "layer(x)[0]"),
    "GRU": LayerKind("nn.GRU(3, 4, 2)", (3, 2, 3), "layer(x)[0]"),
    "RNNCell": LayerKind("nn.RNNCell(3, 4)", (3, 3)),
    "LSTMCell": LayerKind("nn.LSTMCell(3, 4)", (3, 3), "layer(x)[0]"),
    "GRUCell": LayerKind("nn.GRUCell(3, 4)", (3, 3)),
    "MultiheadAttention": LayerKind("nn.MultiheadAttention(4, 2)", (3, 2, 4), "layer(x, x, x)[0]"),
    "TransformerEncoderLayer": LayerKind("nn.TransformerEncoderLayer(4, 2, 6, 0.0, 'gelu')", (3, 2, 4)),
    "TransformerDecoderLayer": LayerKind(
        "nn.TransformerDecoderLayer(4, 2, 6, 0.0, 'gelu')", (3, 2, 4), "layer(x, x)"
    ),
    "LayerNorm": LayerKind("nn.LayerNorm((2, 3))", (4, 2, 3)),
    "RMSNorm": LayerKind("nn.RMSNorm(4)", (4, 4)),
    "GroupNorm": LayerKind("nn.GroupNorm(2, 4)", (2, 4, 3)),
    "InstanceNorm": LayerKind("nn.InstanceNorm1d(3, affine=True)", (2, 3, 4)),
    "BatchNorm": LayerKind("nn.BatchNorm2d(3)", (2, 3, 2, 2)),
}
# Functions behind a linear layer, by name, and what they are given: ``y``, its output, and
# ``x``, its input, (4, 3) both.
_FUNCTIONS: Dict[str, str] = {
    "l1_loss": "(y, x)",
    "smooth_l1_loss": "(y, x)",
    "huber_loss": "(y, x, delta=0.5)",
    "mse_loss": "(y, x, reduction='sum')",
    "binary_cross_entropy_with_logits": "(y, x.sigmoid())",
    "cross_entropy": "(y, torch.arange(4, device=x.device) % 3)",
    "nll_loss": "(y.log_softmax(1), torch.arange(4, device=x.device) % 3, reduction='none')",
    "kl_div": "(y.log_softmax(1), x.softmax(1), reduction='batchmean')",
    "cosine_similarity": "(y, x)",
    "softmax": "(y, 1)",
    "logsigmoid": "(y)",
    "mish": "(y)",
    "hardswish": "(y)",
    "selu": "(y)",
    "glu": "(y[:, :2])",
    "normalize": "(y)",
    "max_pool1d": "(y[:, None], 2)",
    "avg_pool1d": "(y[:, None], 2)",
    "interpolate": "(y[:, None], scale_factor=2.0, mode='linear', align_corners=False)",
    "scaled_dot_product_attention": "(y, x, x)",
}
FUNCTION_KINDS = {
    name: LayerKind(
        "nn.Linear(3, 3)", (4, 3), f"nn.functional.{name}{given.replace('y', 'layer(x)', 1)}"
    )
    for name, given in _FUNCTIONS.items()
}
EVERY_KIND = {**LAYER_KINDS, **FUNCTION_KINDS}
NEEDS = {name: kind.needs for name, kind in EVERY_KIND.items()}


@dataclass(frozen=True)
class LayerCase:
    """One layer by the name of its kind, what is frozen of it, its mode, the seed of its values.

    input_learns: the input requires grad (where it is floating).
    """

    kind: str
    frozen: Mask = ()
    train: bool = True
    input_learns: bool = False
    seed: int = 0

    def code(self, device: str, dtype: torch.dtype) -> Tuple[str, Tuple[str, ...]]:
        """``build`` as plain torch code, and the names that it defines."""
        return layer_code(self, device, dtype), ("layer", "x")

    def build(self, device: str, dtype: torch.dtype) -> Tuple[torch.nn.Module, torch.Tensor]:
        """The layer, frozen as described, and its input; every value from -1 to 1."""
        kind = EVERY_KIND[self.kind]
        layer: torch.nn.Module = eval(kind.make, {"nn": torch.nn})
        layer.to(device, dtype).train(self.train)
        generator = torch.Generator()
        generator.manual_seed(self.seed)
        for name, parameter in layer.named_parameters():
            drawn = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
            with torch.no_grad():
                parameter.copy_(drawn * 2 - 1)
            parameter.requires_grad_(name not in self.frozen)
        if kind.tokens:
            return layer, torch.randint(0, kind.tokens, kind.shape, generator=generator).to(device)
        drawn = torch.rand(kind.shape, generator=generator, dtype=torch.float64) * 2 - 1
        return layer, drawn.to(device, dtype).requires_grad_(self.input_learns)


@cache
def _masks(kind: str) -> st.SearchStrategy[Mask]:
    return freeze_masks(LayerCase(kind).build("cpu", torch.float32)[0])


def layer_cases(kind: str, device: str = "cpu") -> st.SearchStrategy[LayerCase]:
    """Cases of a kind of layer, a key of ``EVERY_KIND``.

    device: recurrent layers are drawn in train mode only for an accelerator, whose kernels
    have no backward in eval mode ("cudnn RNN backward can only be called in training mode").
    Shrinks towards nothing frozen, train mode, an input that requires no grad, seed 0.
    """
    trains_only = kind in ("RNN", "LSTM", "GRU") and torch.device(device).type != "cpu"
    return st.builds(
        LayerCase,
        kind=st.just(kind),
        frozen=_masks(kind),
        train=st.just(True) if trains_only else st.booleans().map(lambda evaluates: not evaluates),
        input_learns=st.booleans(),
        seed=st.integers(0, 1023),
    )
