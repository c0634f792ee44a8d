"""Layers beside the linear one broken: convolutions, embeddings, recurrent ones, attention."""

from typing import Any, List

import torch

from frostproof.properties.selftest.faults.fault import fault
from frostproof.properties.selftest.faults.patching import altered, is_frozen, near, wrap

FUNCTIONAL = torch.nn.functional


def _gradients(layer: torch.nn.Module, value: torch.Tensor, frozen: str = "") -> List[Any]:
    """The gradients of the output's sum as lists: input (if it requires one), then parameters."""
    for name, parameter in layer.named_parameters():
        with torch.no_grad():
            parameter.fill_(0.5)
        parameter.requires_grad_(name != frozen)
    output = layer(value)
    (output[0] if isinstance(output, tuple) else output).sum().backward()
    leaves = [*([value] if value.requires_grad else []), *layer.parameters()]
    return [None if leaf.grad is None else leaf.grad.flatten().tolist() for leaf in leaves]


def _conv_bias(frozen: str = "") -> Any:
    value = torch.ones(2, 1, 3, 3, requires_grad=True)
    return _gradients(torch.nn.Conv2d(1, 1, 2), value, frozen)[2]


@fault("F2", "F3", witness=lambda: _conv_bias("weight") == [8.0])
def frozen_conv_weight_starves_its_bias() -> None:
    """A two-dimensional convolution whose weight is frozen gives its bias no gradient."""

    def around(conv: Any, value: Any, weight: Any, bias: Any = None, *rest: Any, **o: Any) -> Any:
        if bias is not None and is_frozen(weight):
            bias = bias.data
        return conv(value, weight, bias, *rest, **o)

    wrap(FUNCTIONAL, "conv2d", around)


@fault(
    "F2", "F3", witness=lambda: near(_gradients(torch.nn.Conv1d(1, 1, 2), torch.ones(1, 1, 4))[1][0], 3)
)
def conv_bias_gradient_is_the_mean() -> None:
    """A one-dimensional convolution divides its bias's gradient by the output's length."""

    def around(conv: Any, value: Any, weight: Any, bias: Any = None, *rest: Any, **o: Any) -> Any:
        length = value.shape[-1] - weight.shape[-1] + 1
        return conv(value, weight, altered(bias, lambda g: g / length), *rest, **o)

    wrap(FUNCTIONAL, "conv1d", around)


def _conv_input(frozen: str) -> Any:
    value = torch.ones(1, 1, 2, 2, 2, requires_grad=True)
    return _gradients(torch.nn.Conv3d(1, 1, 1), value, frozen)[0]


@fault("F2", "F3", witness=lambda: _conv_input("weight") == [0.5] * 8)
def frozen_conv_blocks_gradients() -> None:
    """A three-dimensional convolution whose weight is frozen passes no gradient on."""

    def around(conv: Any, value: Any, weight: Any, *rest: Any, **o: Any) -> Any:
        return conv(value.data if is_frozen(weight) else value, weight, *rest, **o)

    wrap(FUNCTIONAL, "conv3d", around)


def _embedded(**options: Any) -> Any:
    return _gradients(torch.nn.Embedding(3, 1, **options), torch.tensor([2, 0, 2]))[0]


@fault("F2", "F3", witness=lambda: _embedded() == [1.0, 0.0, 2.0])
def embedding_counts_repeats_once() -> None:
    """An embedding's row gets the mean of the gradients of its places, not the sum."""

    def around(embedding: Any, tokens: Any, weight: Any, *rest: Any, **o: Any) -> Any:
        counts = torch.bincount(tokens.flatten(), minlength=len(weight)).clamp(min=1)
        weight = altered(weight, lambda g: g / counts[:, None].to(g.dtype))
        return embedding(tokens, weight, *rest, **o)

    wrap(FUNCTIONAL, "embedding", around)


@fault("F2", "F3", witness=lambda: _embedded(padding_idx=2) == [1.0, 0.0, 0.0])
def embedding_trains_its_padding() -> None:
    """An embedding's padding gets a gradient."""

    def around(
        embedding: Any, tokens: Any, weight: Any, padding: Any = None, *more: Any, **o: Any
    ) -> Any:
        return embedding(tokens, weight, None, *more, **o)

    wrap(FUNCTIONAL, "embedding", around)


def _shortened(frozen: bool) -> List[float]:
    layer = torch.nn.Embedding(3, 1, max_norm=1.0).requires_grad_(not frozen)
    with torch.no_grad():
        layer.weight.fill_(2.0)
    layer(torch.tensor([1]))
    return [round(row[0], 4) for row in layer.weight.tolist()]


@fault("F1", witness=lambda: _shortened(frozen=True) == [2.0, 1.0, 2.0])
def max_norm_shortens_every_row() -> None:
    """An embedding with max_norm shortens the rows that were not looked up too."""

    def around(
        embedding: Any, tokens: Any, weight: Any, padding: Any = None, *more: Any, **o: Any
    ) -> Any:
        norm = more[0] if more else o.get("max_norm")
        if norm is not None:
            with torch.no_grad():
                weight.copy_(torch.renorm(weight, 2, 0, norm))
        return embedding(tokens, weight, padding, *more, **o)

    wrap(FUNCTIONAL, "embedding", around)


def _lstm_input_bias(frozen: str) -> Any:
    return _gradients(torch.nn.LSTM(1, 1), torch.ones(3, 1, 1), frozen)[2]


@fault("F2", "F3", witness=lambda: _lstm_input_bias("bias_hh_l0") == _lstm_input_bias(""))
def frozen_lstm_bias_starves_the_other() -> None:
    """An LSTM of which one bias is frozen gives the other half of its gradient."""

    def around(lstm: Any, value: Any, state: Any, weights: Any, *rest: Any) -> Any:
        if isinstance(weights, (list, tuple)) and any(is_frozen(one) for one in weights):
            weights = [
                altered(one, lambda g: g / 2) if one.dim() == 1 and one.requires_grad else one
                for one in weights
            ]
        return lstm(value, state, weights, *rest)

    wrap(torch._VF, "lstm", around)


def _attention(frozen: str) -> Any:
    layer = torch.nn.MultiheadAttention(2, 1)
    value = torch.tensor([[[1.0, 2.0]], [[3.0, -1.0]]], requires_grad=True)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.arange(parameter.numel()).sin().view(parameter.shape))
    dict(layer.named_parameters())[frozen].requires_grad_(False)
    layer(value, value, value)[0][0, 0, 0].backward()
    assert value.grad is not None
    return [round(one, 4) for one in value.grad.flatten().tolist()]


@fault("F2", "F3", witness=lambda: _attention("in_proj_weight") == _attention("out_proj.bias"))
def frozen_attention_detaches_its_keys() -> None:
    """Attention whose projection is frozen passes no gradient on through its keys."""

    def around(
        attention: Any, query: Any, key: Any, value: Any, heads: Any, *rest: Any, **o: Any
    ) -> Any:
        size, weight, *more = rest
        return attention(
            query, key.data if is_frozen(weight) else key, value, heads, size, weight, *more, **o
        )

    wrap(FUNCTIONAL, "multi_head_attention_forward", around)


def _group_norm_weight() -> Any:
    return _gradients(torch.nn.GroupNorm(1, 2), torch.tensor([[1.0, 3.0], [1.0, 3.0]]))[0]


@fault("F2", "F3", witness=lambda: near(_group_norm_weight()[0], -2, 1e-3))
def group_norm_weight_misses_a_row() -> None:
    """A GroupNorm's weight gets the gradient of the batch without its last element."""

    def around(norm: Any, value: Any, groups: Any, weight: Any = None, *rest: Any, **o: Any) -> Any:
        if weight is None or not weight.requires_grad or len(value) < 2:
            return norm(value, groups, weight, *rest, **o)
        whole = norm(value[:-1], groups, weight, *rest, **o)
        last = norm(value[-1:], groups, weight.data, *rest, **o)
        return torch.cat((whole, last))

    wrap(FUNCTIONAL, "group_norm", around)


def _prelu() -> Any:
    return _gradients(torch.nn.PReLU(), torch.tensor([-2.0, -1.0, 3.0]))[0]


@fault("F2", "F3", witness=lambda: near(_prelu()[0], -3))
def prelu_slope_counts_positive_inputs() -> None:
    """PReLU's weight gets the gradient of positive inputs as well."""

    def around(prelu: Any, value: Any, weight: Any) -> Any:
        shape = [1, -1] + [1] * (value.dim() - 2) if value.dim() > 1 else [-1]
        more = (weight - weight.data).view(shape) * value.data.clamp(min=0)
        return prelu(value, weight) + more

    wrap(FUNCTIONAL, "prelu", around)


def _loss_slopes(loss: Any, value: float, target: Any) -> Any:
    made = torch.full((2, 3), value, dtype=torch.float64, requires_grad=True)
    loss(made, target).backward()
    assert made.grad is not None
    return made.grad.flatten().tolist()


@fault(
    "F3",
    "F2",
    witness=lambda: near(_loss_slopes(FUNCTIONAL.cross_entropy, 0.5, torch.tensor([0, 1]))[0], -1 / 3),
)
def cross_entropy_sums_its_gradient() -> None:
    """cross_entropy passes the gradient of the sum over the batch, where it gives the mean."""

    def around(loss: Any, value: Any, target: Any, *rest: Any, **options: Any) -> Any:
        return loss(altered(value, lambda g: g * len(value)), target, *rest, **options)

    wrap(FUNCTIONAL, "cross_entropy", around)


@fault(
    "F3",
    "F2",
    witness=lambda: near(
        _loss_slopes(FUNCTIONAL.smooth_l1_loss, 0.5, torch.zeros(2, 3, dtype=torch.float64))[0], 0.5 / 6
    ),
)
def smooth_l1_loss_has_the_slope_of_l1() -> None:
    """smooth_l1_loss passes the slope of l1_loss where the distance is below one."""

    def around(loss: Any, value: Any, target: Any, *rest: Any, **options: Any) -> Any:
        gap = (value - target).data

        def sharpened(gradient: torch.Tensor) -> torch.Tensor:
            small = (gap.abs() < 1) & (gap != 0)
            return torch.where(small, gradient / torch.where(small, gap.abs(), gap * 0 + 1), gradient)

        return loss(altered(value, sharpened), target, *rest, **options)

    wrap(FUNCTIONAL, "smooth_l1_loss", around)
