"""Programs for the laws of what requires_grad survives."""

from typing import List, Sequence

from frostproof.properties.harness.reproducer.case import Case
from frostproof.properties.harness.reproducer.networks import emit_network, program_names
from frostproof.properties.harness.reproducer.registry import reproduces
from frostproof.properties.harness.reproducer.script import Script
from frostproof.properties.test_flags import KEPT, SAFE_LOADING, TOOLS, WAYS
from frostproof.properties.test_modules import with_other_weights
from frostproof.strategies import MLP, Layer

FILE = "test_flags.py::"


def _emit_frozen(script: Script, case: Case, network: MLP, frozen: Sequence[str]) -> List[str]:
    """The net, frozen; the frozen names in the program."""
    names = program_names(network, False)
    emit_network(script, network, case.dtype, blocks=False)
    still = [names[name] for name in frozen]
    if still:
        with script.block("for name, p in net.named_parameters():"):
            script.add(f"p.requires_grad = name not in {still}")
    return still


@reproduces(FILE + "test_flags_survive")
def flags_survive(case: Case, script: Script) -> None:
    """A net, copied or converted."""
    network, frozen, train = case.draws(MLP(1, (Layer(1),)), (), True)
    code, copies, converted = WAYS[case["way"]]
    still = _emit_frozen(script, case, network, frozen)
    script.add(f"net.train({train})")
    script.note("held", "held = dict(net.named_parameters())")
    script.note("before", "before = {name: repr(p.tolist()) for name, p in net.named_parameters()}")
    if case["way"] == "save":
        script.add("file = io.BytesIO()", "torch.save(net, file)", "file.seek(0)")
        code = f"torch.load(file{', weights_only=False' if SAFE_LOADING else ''})"
    script.add(f"other = {code}")
    with script.block("for name, p in other.named_parameters():"):
        script.check(
            f"p.requires_grad is (name not in {still})", "requires_grad of {name} is {p.requires_grad}"
        )
        script.check("type(p) is nn.Parameter and p.is_leaf", "{name} is a {type(p)}, or no leaf")
        script.check(
            f"(p is held[name]) is {not copies}", f"{{name}} is {'the same' if copies else 'another'}"
        )
        if converted in (None, case.dtype):
            script.check("repr(p.tolist()) == before[name]", "{name} is {p.tolist()}")
        else:
            script.check(f"p.dtype is {converted}", "{name} is of {p.dtype}")
        if copies:
            script.check(
                f"held[name].requires_grad is (name not in {still})", "the source's {name} has changed"
            )
            script.check("p.data_ptr() != held[name].data_ptr()", "{name} shares its source's memory")
    script.check("not any(b.requires_grad for b in other.buffers())", "a buffer requires grad")
    script.check(f"all(m.training is {train} for m in other.modules())", "a module is in another mode")


@reproduces(FILE + "test_assigning_keeps_flags")
def assigning_keeps_flags(case: Case, script: Script) -> None:
    """load_state_dict(assign=True) of another net."""
    network, frozen = case.draws(MLP(1, (Layer(1),)), ())
    emit_network(script, with_other_weights(network), case.dtype, blocks=False)
    script.add("given = net.state_dict()")
    script.note("values", "values = {name: repr(v.tolist()) for name, v in given.items()}")
    still = _emit_frozen(script, case, network, frozen)
    script.add("net.load_state_dict(given, assign=True)")
    with script.block("for name, p in net.named_parameters():"):
        script.check(
            f"p.requires_grad is (name not in {still})", "requires_grad of {name} is {p.requires_grad}"
        )
        script.check("type(p) is nn.Parameter and p.is_leaf", "{name} is a {type(p)}, or no leaf")
    with script.block("for name, t in net.state_dict().items():"):
        script.check("repr(t.tolist()) == values[name]", "{name} is {t.tolist()}, given {values[name]}")
        script.check("t.data_ptr() == given[name].data_ptr()", "{name} has other memory")


@reproduces(FILE + "test_tools_keep_flags")
def tools_keep_flags(case: Case, script: Script) -> None:
    """One of torch's tools on a layer."""
    code, lives = TOOLS[case["tool"]]
    script.add("warnings.simplefilter('ignore')")
    with script.block("for weight, bias in ((0, 1), (1, 0), (0, 0), (1, 1)):"):
        script.add(
            "layer = nn.Linear(3, 2).to(device, dtype)",
            "layer.weight.requires_grad, layer.bias.requires_grad = weight > 0, bias > 0",
            *code.split("\n"),
        )
        script.check("len(list(layer.parameters())) >= 2", "a parameter has gone")
        with script.block("for name, p in layer.named_parameters():"):
            wanted = "weight" if lives is KEPT else lives
            script.check(
                f"p.requires_grad == (bias if name == 'bias' else {wanted}) and p.is_leaf",
                "requires_grad of {name} is {p.requires_grad}; it is a leaf: {p.is_leaf}",
            )


@reproduces(FILE + "test_pretrained_embeddings")
def pretrained_embeddings(case: Case, script: Script) -> None:
    """from_pretrained of both kinds."""
    freeze = case["freeze"]
    option = "" if freeze is None else f", freeze={freeze}"
    script.add(
        f"values = torch.full(({case['rows']}, {case['width']}), 0.5, device=device, dtype=dtype)"
    )
    for kind in ("Embedding", "EmbeddingBag"):
        script.add(f"layer = nn.{kind}.from_pretrained(values{option})")
        live = freeze is False
        script.check(
            f"layer.weight.requires_grad is {live}", "requires_grad is {layer.weight.requires_grad}"
        )
        script.check("type(layer.weight) is nn.Parameter", "the weight is a {type(layer.weight)}")
        script.check("layer.weight.data_ptr() == values.data_ptr()", "the weight has other memory")
        script.add("output = layer(torch.zeros(1, 1, dtype=torch.long, device=device))")
        script.check(
            f"output.requires_grad is {live}", "requires_grad of the output: {output.requires_grad}"
        )
