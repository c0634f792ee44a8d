"""A difference as a program in plain torch: exits 1 where it shows, 0 where it does not."""

import textwrap
from typing import List

from frostproof.properties.harness.hunting.source import Fact
from frostproof.properties.harness.programs.compare import ZEROS
from frostproof.properties.harness.programs.modes import MODES
from frostproof.strategies.programs import INDENT, OF_MODULE, Program

WEIGHED = """\
def weighed(outs):
    live = [each for each in outs if isinstance(each, torch.Tensor) and each.requires_grad]
    loss = 0
    for place, each in enumerate(live):
        weights = torch.arange(1.0, each.numel() + 1).to(each.device).reshape(each.shape) * (place + 1)
        loss = loss + torch.real((each * weights).sum())
    return loss
"""
SAID = """\
def said(ask):
    try:
        return ask()
    except Exception as problem:
        return type(problem).__name__
"""
SCENES = {
    "no_grad": "with torch.no_grad():",
    "inference": "with torch.inference_mode():",
}
_ONE = {
    "value": "{0}.detach().tolist()",
    "shape": "tuple({0}.shape)",
    "dtype": "{0}.dtype",
    "stride": "{0}.stride()",
    "requires_grad": "{0}.requires_grad",
    "is_leaf": "{0}.is_leaf",
    "grad_fn": "{0}.grad_fn is not None",
    "inference": "{0}.is_inference()",
    "input value": "{0}.detach().tolist()",
    "input shape": "(tuple({0}.shape), {0}.stride())",
    "input flags": "({0}.requires_grad, {0}.is_leaf, {0}.grad_fn is not None)",
    "input grad_fn": "{0}.grad_fn is before",
    "version": "{0}._version != before",
    **dict.fromkeys(("gradient", ZEROS), "None if {0}.grad is None else {0}.grad.tolist()"),
    "identity": "{0} is {1}",
    "storage": "{0}.untyped_storage().data_ptr() == {1}.untyped_storage().data_ptr()",
}


def _subject(name: str) -> str:
    """Python for a subject of an observation."""
    name = name.replace(" later", "")
    if name.startswith("out"):
        return f"outs[{name[3:]}]"
    if name.startswith("noted"):
        return f"[each for each in fired if isinstance(each, torch.Tensor)][{name[5:]}]"
    return "kept.held" if name == "kept" else name


def _look(program: Program, fact: Fact, device: str, several: bool) -> List[str]:
    """The lines of ``look``: inputs, the call, and what is looked at.

    several: the mode returns a tuple, whatever the program returns.
    """
    setup = program.setup(device).rstrip().splitlines()
    names = [each.name for each in program.arguments]
    call = f"output = run({', '.join(names)})"
    lines = ["module = f = Net()"] if program.stateful else []
    lines += ["run = make(f)", *setup]
    lines += [f"{each.name} = module.{each.name}" for each in program.inputs if each.kind in OF_MODULE]
    if fact.scene == "flipped":
        first = next((n for n in _leaves(program)), names[0] if names else "x")
        lines.append(f"{first}.requires_grad_(not {first}.requires_grad)")
    if fact.scene == "changed" and names:
        lines.append(f"{names[0]}.data.mul_(3)")
    if fact.scene == "again":
        lines += [call, *(["fired.clear()"] if "fired" in program.preamble() else [])]
    subjects = [_subject(name) for name in fact.subject.split(", ")]
    if fact.aspect in ("input grad_fn", "version"):
        what = "grad_fn" if fact.aspect == "input grad_fn" else "_version"
        lines.append(f"before = {subjects[0]}.{what}")
    if fact.aspect in ("error", "accepts", "internal"):
        inner = [call] if fact.scene not in SCENES else [SCENES[fact.scene], INDENT + call]
        if fact.aspect == "internal":  # it may be made to fail as well
            lines.remove("run = make(f)")
            inner = ["run = make(f)", *inner]
        return [
            *lines,
            "try:",
            *(INDENT + line for line in inner),
            "except Exception as problem:",
            f"{INDENT}print(type(problem).__name__, str(problem)[:300])",
            f'{INDENT}return "raises"',
            'return "runs"',
        ]
    calling = [call] if fact.scene not in SCENES else [SCENES[fact.scene], INDENT + call]
    if fact.aspect == "mode":  # what it raises, where it does, is not looked at
        mode = "inference_mode" if fact.subject == "inference" else "grad"
        return [
            *(*lines, "try:", *(INDENT + line for line in calling)),
            *("except Exception as problem:", f"{INDENT}print(type(problem).__name__)"),
            f"enabled = torch.is_{mode}_enabled()",
            "torch.set_grad_enabled(True)",
            "return enabled",
        ]
    lines += calling
    if any(each.operation == "leak_no_grad" for each, _ in program.walk()):
        lines.append("torch.set_grad_enabled(True)")
    lines.append(
        "outs = list(output.values() if isinstance(output, dict) else output)"
        if several or program.form != "one"
        else "outs = [output]"
    )
    late = (
        "later write",
        "backward",
        "backward accepts",
        "gradient",
        ZEROS,
        "fired",
        "write",
        "write version",
    )
    if fact.scene == "written" and (fact.aspect in late or " later" in fact.subject):
        first = "outs[0]"
        if fact.aspect == "later write":
            return [*lines, f"return said(lambda: {first}.mul_(2) is {first})"]
        lines.append(f"said(lambda: {first}.mul_(2))")
    if fact.aspect in ("backward", "backward accepts"):
        return [*lines, "return said(lambda: weighed(outs).backward())"]
    if fact.aspect in ("gradient", ZEROS, "fired"):
        lines += [
            "loss = weighed(outs)",
            "if isinstance(loss, torch.Tensor):",
            f"{INDENT}loss.backward()",
        ]
    if fact.aspect == "fired":
        return [*lines, "return sorted(each for each in fired if isinstance(each, str))"]
    if fact.aspect == "structure":
        return [
            *lines,
            'return ["tensor" if isinstance(each, torch.Tensor) else repr(each) for each in outs]',
        ]
    if fact.aspect in ("write", "write version"):
        everything = [each.name for each in program.inputs]
        listed = ", ".join(everything)
        read = "each.detach().tolist()" if fact.aspect == "write" else "each._version"
        return [
            *lines,
            f"everything = [{listed}, *(each for each in outs if isinstance(each, torch.Tensor))]",
            f"before = [{read} for each in everything]",
            f"alias = {subjects[0]}.detach()",
            "with torch.no_grad():",
            f"{INDENT}said(lambda: alias[(0,) * alias.dim()].fill_(97))",
            f"return [{read} != was for each, was in zip(everything, before)]",
        ]
    if fact.aspect == "process":  # that this process is still there, and can go on, is all
        return [
            *lines,
            f"return torch.ones(2, device={device!r}).requires_grad_().mul(2).sum().backward()",
        ]
    expression = _ONE[fact.aspect].format(*subjects)
    if "flags" in fact.aspect or fact.aspect in ("is_leaf", "grad_fn", "requires_grad"):
        return [*lines, f"return said(lambda: {expression})"]  # autograd may refuse to say
    return [*lines, f"return {expression}"]


def _leaves(program: Program) -> List[str]:
    """Names of leaf inputs as the harness meets them, the first first."""
    first = program.inputs[0]
    found = []
    for each in program.inputs:
        if each.kind == "result":
            found.append(f"{each.name}_leaf")
        elif each.kind == "view_of" and first.live:
            continue
        else:
            found.append(each.name)
    return found


def script(program: Program, name: str, fact: Fact, device: str = "cpu") -> str:
    """The whole program; it prints what eager and the mode gave."""
    mode = MODES[name]
    looking = _look(program, fact, device, bool(mode.reference))
    code = "\n".join(line for line in mode.code.split("\n") if line != "import torch").strip("\n")
    parts = [
        f"# {name}, {fact.scene} call: {fact.aspect} of {fact.subject} differs from eager.\n"
        "import sys\nimport warnings\n\nimport torch\n",
        'warnings.simplefilter("ignore")\n',
        program.preamble(),
        program.function(mode.broken),
        code,
        mode.reference.partition("\n\n\n")[2]
        if mode.reference
        else "def reference(f):\n    return f\n",
        SAID if any("said(" in line for line in looking) else "",
        WEIGHED if any(word in fact.aspect for word in ("backward", "gradient", "fired")) else "",
        "def look(make):\n" + textwrap.indent("\n".join(looking), INDENT) + "\n",
    ]
    way = "way"
    if mode.traced:
        setup = textwrap.indent(program.setup(device), INDENT)
        names = ", ".join(each.name for each in program.arguments)
        parts.append(f"def traced(f):\n{setup}{INDENT}return way(f, {names})\n")
        way = "traced"
    parts.append(
        f"eager, other = look(reference), look({way})\n"
        f'print("eager:", eager)\nprint("{name}:", other)\n'
        "sys.exit(eager != other)\n"
    )
    return "\n\n".join(part.rstrip() + "\n" for part in parts if part)
