"""Freezing changes no output: transformer layers in eval mode have a fast path for what is frozen."""

from typing import Any, Callable, Dict, List

import pytest
import torch
from torch import nn

from frostproof.properties.harness.core.checks import check, check_close, check_equal
from frostproof.properties.harness.core.law import law
from frostproof.properties.harness.running.attempts import attempt
from frostproof.strategies.capabilities import NotOffered, accepts

SOURCE = "torch.nn.TransformerEncoder and MultiheadAttention documentation: the fast path"
SOME = torch.tensor([[False, False, False], [False, False, True]])
TAIL = torch.tensor([[False, False, True], [False, False, True]])
WHOLE = torch.tensor([[False, False, False], [True, True, True]])
CAUSAL = torch.triu(torch.ones(3, 3), 1).bool()


class Adapter(nn.Linear):
    """A linear layer with a part of its own, as adapters have."""

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return super().forward(value) + 1


def layer_of(**options: Any) -> nn.Module:
    """An encoder layer, width 4, two heads, without dropout unless asked for."""
    given = {"dropout": 0.0, "batch_first": True, **options}
    return nn.TransformerEncoderLayer(4, 2, 6, **given)


def encoder_of(layer: Any, **options: Any) -> nn.Module:
    """An encoder of two such layers."""
    return nn.TransformerEncoder(layer, 2, **options)


def _with_adapter() -> nn.Module:
    layer: Any = layer_of()
    layer.linear1 = Adapter(4, 6)
    return layer


def _call(net: Any, inputs: torch.Tensor, **masks: Any) -> torch.Tensor:
    made: torch.Tensor = net(inputs, **masks)
    return made


def _attend(net: Any, inputs: torch.Tensor, **masks: Any) -> torch.Tensor:
    made: torch.Tensor = net(inputs, inputs, inputs, need_weights=False, **masks)[0]
    return made


# A net, how it is called, and the masks that it is given.
CASES: Dict[str, Any] = {
    "layer": (layer_of, _call, {}),
    "layer, gelu": (lambda: layer_of(activation="gelu"), _call, {}),
    "layer, norm first": (lambda: layer_of(norm_first=True), _call, {}),
    "layer, causal": (layer_of, _call, {"src_mask": CAUSAL}),
    "layer, padded": (layer_of, _call, {"src_key_padding_mask": SOME}),
    "layer, a padded row": (layer_of, _call, {"src_key_padding_mask": WHOLE}),
    "layer, adapter": (_with_adapter, _call, {}),
    "encoder": (lambda: encoder_of(layer_of()), _call, {}),
    "encoder, causal": (lambda: encoder_of(layer_of()), _call, {"mask": CAUSAL}),
    "encoder, padded": (lambda: encoder_of(layer_of()), _call, {"src_key_padding_mask": SOME}),
    "encoder, a padded tail": (lambda: encoder_of(layer_of()), _call, {"src_key_padding_mask": TAIL}),
    "encoder, not nested": (
        lambda: encoder_of(layer_of(), enable_nested_tensor=False),
        _call,
        {"src_key_padding_mask": SOME},
    ),
    "attention": (lambda: nn.MultiheadAttention(4, 2, batch_first=True), _attend, {}),
    "attention, causal": (
        lambda: nn.MultiheadAttention(4, 2, batch_first=True),
        _attend,
        {"attn_mask": CAUSAL},
    ),
    "attention, padded": (
        lambda: nn.MultiheadAttention(4, 2, batch_first=True),
        _attend,
        {"key_padding_mask": SOME},
    ),
    "attention, a padded row": (
        lambda: nn.MultiheadAttention(4, 2, batch_first=True),
        _attend,
        {"key_padding_mask": WHOLE},
    ),
}


def filled(make: Callable[[], nn.Module]) -> nn.Module:
    """The net in eval mode, every value from a generator of its own."""
    if not accepts(lambda: nn.TransformerEncoderLayer(2, 1, 2, batch_first=True)):
        raise NotOffered("the transformer layers of this torch have no batch_first, and no fast path")
    net = make().eval()
    generator = torch.Generator()
    generator.manual_seed(3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator) - 0.5)
    return net


def inputs_of() -> torch.Tensor:
    """Two sequences of three tokens: (2, 3, 4)."""
    generator = torch.Generator()
    generator.manual_seed(4)
    return torch.rand(2, 3, 4, generator=generator) * 2 - 1


@law("E1 F8", SOURCE, "float32")
@pytest.mark.parametrize("case", list(CASES))
def test_freezing_changes_no_output(device: str, dtype: torch.dtype, case: str) -> None:
    """E1: in eval mode a layer gives the same output with its parameters frozen as with them live."""
    make, call, masks = CASES[case]
    net, inputs = attempt(lambda: filled(make), case), inputs_of()
    live = call(net, inputs, **masks).detach()
    net.requires_grad_(False)
    frozen = attempt(lambda: call(net, inputs, **masks), f"{case}, frozen,")
    check(not frozen.requires_grad, f"{case}: the frozen layer's output requires grad")
    check_equal(tuple(frozen.shape), tuple(live.shape), f"{case}: the shape of the output once frozen")
    real = ~live.isnan()
    check_equal(int(frozen[real].isnan().sum()), 0, f"{case}: NaN once frozen, and none before")
    check_close(frozen[real], live[real], f"{case}: the output once frozen", 1e-4, 1e-5)


@law("E1 F8", "torch.nn.Module.train documentation", "float32")
def test_dropout_in_train_mode_drops_when_frozen(device: str, dtype: torch.dtype) -> None:
    """E1: dropout left in train mode, in a layer in eval mode, drops frozen or not."""
    net: Any = filled(lambda: layer_of(dropout=0.5))
    net.dropout.train()
    net.dropout1.train()
    inputs = inputs_of()
    for frozen in (False, True):
        net.requires_grad_(not frozen)
        outputs = [net(inputs).detach() for _ in range(4)]
        same = all(torch.equal(outputs[0], other) for other in outputs[1:])
        check(not same, f"four outputs are equal, frozen: {frozen}")


@law("E1 F8", "torch.nn.Module.register_forward_hook documentation", "float32")
def test_hooks_run_when_frozen(device: str, dtype: torch.dtype) -> None:
    """E1: the forward hooks of a layer's parts run whether or not it is frozen."""
    seen: List[str] = []
    net = filled(layer_of)
    for name, module in net.named_modules():
        module.register_forward_hook(lambda *_, name=name: seen.append(name))  # type: ignore[misc]
    net(inputs_of())
    live = sorted(seen)
    seen.clear()
    net.requires_grad_(False)
    net(inputs_of())
    check_equal(sorted(seen), live, "the hooks that ran once frozen")
