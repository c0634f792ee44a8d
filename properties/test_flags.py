"""requires_grad through copying, saving, converting and torch's own tools: frozen stays frozen."""

import copy
import io
import pickle
import warnings
from typing import Any, Dict, Optional, Tuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.core.checks import (
    check,
    check_equal,
    check_same_bits,
    count_cases,
    fail,
    snapshot,
)
from frostproof.properties.harness.core.law import FLOATING, cells, law, part
from frostproof.properties.harness.running.trainer import freeze
from frostproof.properties.test_modules import with_other_weights
from frostproof.strategies import MLP, freeze_masks, mlps
from frostproof.strategies.capabilities import assigns, require

# Ways to copy or convert, as code on ``net``; what is a copy, and the dtype that the values get.
CONVERSIONS: Dict[str, Tuple[str, bool, Any]] = {
    "deepcopy": ("copy.deepcopy(net)", True, None),
    "pickle": ("pickle.loads(pickle.dumps(net))", True, None),
    "save": ("load(net)", True, None),
    "to-dtype": ("net.to(torch.float64)", False, torch.float64),
    "to-device": ("net.to(device)", False, None),
    "double": ("net.double()", False, torch.float64),
    "float": ("net.float()", False, torch.float32),
    "bfloat16": ("net.bfloat16()", False, torch.bfloat16),
    "cpu": ("net.cpu()", False, None),
    "share_memory": ("net.share_memory()", False, None),
}


def load(net: torch.nn.Module) -> torch.nn.Module:
    """The module, saved and loaded as a whole."""
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    try:
        loaded: torch.nn.Module = torch.load(file, weights_only=False)
    except TypeError:  # before 1.13
        file.seek(0)
        loaded = torch.load(file)
    return loaded


@law("F8 C5", "torch.nn.Module.to and torch.save documentation", FLOATING)
@part(6, least=10)
@pytest.mark.parametrize("way", list(CONVERSIONS))
@given(data=st.data())
def test_flags_survive(device: str, dtype: torch.dtype, way: str, data: st.DataObject) -> None:
    """F8: copied, saved or converted, a net keeps every flag, its modes, and its values."""
    network: MLP = data.draw(mlps(max_depth=3, max_width=8))
    frozen, train = data.draw(freeze_masks(network)), data.draw(st.booleans())
    net = network.build(device, dtype).train(train)
    freeze(dict(net.named_parameters()), frozen, "method")
    before = {name: (p, read_bits(p)) for name, p in net.named_parameters()}
    code, copies, converted = CONVERSIONS[way]
    scope = {"copy": copy, "pickle": pickle, "torch": torch, "load": load, "device": device}
    other: torch.nn.Module = eval(code, {**scope, "net": net})
    check_equal([n for n, _ in other.named_parameters()], list(before), f"parameters after {code}")
    for name, parameter in other.named_parameters():
        source, bits = before[name]
        where = f"{name} after {code}"
        check_equal(parameter.requires_grad, name not in frozen, f"requires_grad of {where}")
        check(type(parameter) is torch.nn.Parameter, f"{where} is a {type(parameter).__name__}")
        check(parameter.is_leaf, f"{where} is no leaf")
        check((parameter is source) != copies, f"{where}: whether it is the same object")
        if converted in (None, dtype):
            check_same_bits(parameter, bits, where)
        else:
            check_equal(parameter.dtype, converted, f"dtype of {where}")
        if copies:
            check_equal(source.requires_grad, name not in frozen, f"requires_grad of the source {name}")
            check(parameter.data_ptr() != source.data_ptr(), f"{where} shares its source's memory")
    for name, buffer in other.named_buffers():
        check(not buffer.requires_grad, f"the buffer {name} requires grad after {code}")
    modes = {module.training for module in other.modules()}
    check_equal(modes, {train}, f"training modes after {code}")


@law("F9 C5", "torch.nn.Module.load_state_dict documentation, assign", needs=assigns)
@part(2, least=10)
@given(data=st.data())
def test_assigning_keeps_flags(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F9: load_state_dict(assign=True) takes the given memory, and keeps the module's own flags."""
    # tied weights are given twice, and are two parameters afterwards
    network: MLP = data.draw(mlps(max_depth=3, max_width=8, tied=False))
    frozen = data.draw(freeze_masks(network))
    net = network.build(device, dtype)
    freeze(dict(net.named_parameters()), frozen, "method")
    given = with_other_weights(network).build(device, dtype).state_dict()
    bits = snapshot(given)
    net.load_state_dict(given, assign=True)
    for name, parameter in net.named_parameters():
        check_equal(parameter.requires_grad, name not in frozen, f"requires_grad of {name}")
        check(type(parameter) is torch.nn.Parameter, f"{name} is a {type(parameter).__name__}")
        check(parameter.is_leaf, f"{name} is no leaf")
    held = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    for name, tensor in held.items():
        check_same_bits(tensor, bits[name], f"{name} after loading")
        check_equal(tensor.data_ptr(), given[name].data_ptr(), f"the memory of {name}")


# torch's own tools, as code on ``layer``, a Linear(3, 2), and whether the weight is live after
# them: as before, or whatever it was before (a trap).
KEPT: Any = None
PRUNED = "from torch.nn.utils import prune\nprune.l1_unstructured(layer, 'weight', 1)"
TOOLS: Dict[str, Tuple[str, Any]] = {
    "normal_": ("nn.init.normal_(layer.weight)", KEPT),
    "uniform_": ("nn.init.uniform_(layer.weight)", KEPT),
    "constant_": ("nn.init.constant_(layer.weight, 0.5)", KEPT),
    "xavier_uniform_": ("nn.init.xavier_uniform_(layer.weight)", KEPT),
    "kaiming_normal_": ("nn.init.kaiming_normal_(layer.weight)", KEPT),
    "orthogonal_": ("nn.init.orthogonal_(layer.weight)", KEPT),
    "reset_parameters": ("layer.reset_parameters()", KEPT),
    "data": ("layer.weight.data = torch.zeros_like(layer.weight)", KEPT),
    "vector_to_parameters": (
        "vector = nn.utils.parameters_to_vector(layer.parameters())\n"
        "nn.utils.vector_to_parameters(vector, layer.parameters())",
        KEPT,
    ),
    "l1_unstructured": (PRUNED, KEPT),
    "prune.remove": (PRUNED + "\nprune.remove(layer, 'weight')", KEPT),
    "old-spectral_norm": ("nn.utils.spectral_norm(layer)", KEPT),
    "old-weight_norm": ("nn.utils.weight_norm(layer)", True),
    "old-remove_weight_norm": ("nn.utils.weight_norm(layer)\nnn.utils.remove_weight_norm(layer)", True),
    "parametrize": ("nn.utils.parametrize.register_parametrization(layer, 'weight', nn.Tanh())", KEPT),
    "parametrize-and-back": (
        "nn.utils.parametrize.register_parametrization(layer, 'weight', nn.Tanh())\n"
        "nn.utils.parametrize.remove_parametrizations(layer, 'weight')",
        KEPT,
    ),
    "spectral_norm": ("nn.utils.parametrizations.spectral_norm(layer)", KEPT),
    "weight_norm": ("nn.utils.parametrizations.weight_norm(layer)", KEPT),
}
NEEDS = {
    "parametrize": "torch.nn.utils.parametrize.register_parametrization",
    "parametrize-and-back": "torch.nn.utils.parametrize.register_parametrization",
    "spectral_norm": "torch.nn.utils.parametrizations.spectral_norm",
    "weight_norm": "torch.nn.utils.parametrizations.weight_norm",
}


@law("F8", "torch.nn.init and torch.nn.utils documentation", "float32")
@pytest.mark.parametrize("tool", cells(TOOLS, NEEDS))
def test_tools_keep_flags(device: str, dtype: torch.dtype, tool: str) -> None:
    """F8: torch's tools leave each flag as it was, but for the old weight_norm (a trap)."""
    code, lives = TOOLS[tool]
    for weight, bias in ((False, True), (True, False), (False, False), (True, True)):
        layer = torch.nn.Linear(3, 2).to(device, dtype)
        layer.weight.requires_grad = weight
        layer.bias.requires_grad = bias
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the old ones are deprecated
            try:
                exec(code, {"torch": torch, "nn": torch.nn, "layer": layer})
            except Exception as problem:  # such as parameters() that leave some out
                fail(f"{code} raised {type(problem).__name__}: {problem}")
        held = dict(layer.named_parameters())
        check(len(held) >= 2, f"{code}: the layer has only the parameters {sorted(held)}")
        for name, parameter in held.items():
            wanted = bias if name == "bias" else weight if lives is KEPT else lives
            check_equal(parameter.requires_grad, wanted, f"requires_grad of {name} after {code}")
            check(parameter.is_leaf, f"{name} is no leaf after {code}")
        count_cases(1)


@law("F8 F1", "torch.nn.Embedding.from_pretrained documentation", FLOATING)
@part(6, least=10)
@given(rows=st.integers(1, 5), width=st.integers(1, 5), freeze=st.sampled_from((True, False, None)))
def test_pretrained_embeddings(
    device: str, dtype: torch.dtype, rows: int, width: int, freeze: Optional[bool]
) -> None:
    """F8: Embedding.from_pretrained shares the given memory, frozen where it is not told otherwise."""
    require("embedding_bag", device, dtype)
    for kind in (torch.nn.Embedding, torch.nn.EmbeddingBag):
        values = torch.full((rows, width), 0.5, device=device, dtype=dtype)
        options: Dict[str, Any] = {} if freeze is None else {"freeze": freeze}
        layer = kind.from_pretrained(values, **options)
        live = freeze is False
        check_equal(layer.weight.requires_grad, live, f"requires_grad of the weight, freeze={freeze}")
        check(type(layer.weight) is torch.nn.Parameter, "the weight is no Parameter")
        check_equal(layer.weight.data_ptr(), values.data_ptr(), "the memory of the weight")
        output = layer(torch.zeros(1, 1, dtype=torch.long, device=device))
        check_equal(output.requires_grad, live, f"requires_grad of the output, freeze={freeze}")
