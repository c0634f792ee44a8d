"""Training runs as plain torch code."""

import contextlib
import dataclasses
import re
from typing import Any, Dict, Iterator, Optional, Tuple

from frostproof.properties.harness.reproducer.case import Case
from frostproof.properties.harness.reproducer.literals import FEW, numbers
from frostproof.properties.harness.reproducer.networks import (
    emit_forward,
    emit_freeze,
    emit_network,
    in_code,
    program_names,
)
from frostproof.properties.harness.reproducer.script import Script
from frostproof.properties.harness.running.known_defects import known
from frostproof.properties.harness.running.workarounds import EMPTY_STEP, sound
from frostproof.strategies import OptimizerSpec, TrainingRun


class Recipe:
    """Emits the parts of one run in order; names are those of the program.

    net: defined by ``setup``; output: the expression of the net's output.
    """

    def __init__(self, script: Script, case: Case, run: TrainingRun) -> None:
        run = dataclasses.replace(run, optimizer=sound(run.optimizer, case.device, case.dtype))
        self.script, self.case, self.run = script, case, run
        self.names = program_names(run.network)
        self.frozen: Tuple[str, ...] = tuple(self.names[name] for name in run.frozen)
        self.output = ""
        self.alone: Dict[str, str] = {}  # snapshots of one parameter: its program name
        self.clean = True  # no backward has given a gradient yet
        script.run = run

    # what exists

    def ordered(self, names: Any) -> Tuple[str, ...]:
        """Program names of a set of the description's, in parameter order."""
        return tuple(self.names[n] for n in self.run.network.parameter_names() if n in names)

    def gets(self) -> Tuple[str, ...]:
        """Program names of the parameters that get a gradient."""
        return self.ordered(self.run.gets_gradient())

    def place(self, name: str, net: str = "net") -> str:
        """A parameter of a description's name, as an expression."""
        return in_code(self.names[name], net)

    # setting up

    def network(self) -> "Recipe":
        """``net``, with its weights."""
        emit_network(self.script, self.run.network, self.case.dtype)
        return self

    def data(self) -> "Recipe":
        """``x`` and ``target``."""
        emit_data(self.script, self.run, self.case)
        return self

    def freeze(self, net: str = "net") -> "Recipe":
        """Freeze what the run freezes; ``frozen`` has the names."""
        emit_freeze(self.script, self.frozen, self.run.freezing, net)
        return self

    def forward(self, **options: Any) -> "Recipe":
        """The expression of the output, with the run's cuts."""
        self.output = emit_forward(self.script, self.run.network, self.run.cuts, **options)
        return self

    def optimizer(self, **options: Any) -> "Recipe":
        """``optimizer`` over the listed parameters."""
        emit_optimizer(self.script, self.run, self.run.optimizer, **options)
        return self

    def setup(self, optimizer: bool = True) -> "Recipe":
        """Everything before the first step."""
        self.network().data().freeze().forward()
        return self.optimizer() if optimizer else self

    # acting

    @property
    def loss(self) -> str:
        return f"nn.functional.mse_loss({self.output}, target)"

    def clear(self) -> None:
        """Clear gradients as the run does."""
        if self.run.clearing == "keep":
            return
        line = f"optimizer.zero_grad(set_to_none={self.run.clearing == 'none'})"
        if self.clean and not self.script.loops:
            self.script.optional(line)
        else:
            self.script.add(line)

    def backward(self) -> None:
        """Forward and backward, where anything gets a gradient."""
        self.clean = False
        if self.run.gets_gradient():
            self.script.add(f"{self.loss}.backward()")
        else:
            self.script.check(
                f"not {self.loss}.requires_grad",
                "the loss requires grad though it reaches nothing that does",
            )

    def apply(self) -> None:
        """The optimizer's step; see ``Trainer.apply``."""
        run = self.run
        if known(EMPTY_STEP) and (run.groups > 1 or not run.gets_gradient()):
            emit_guarded_step(self.script)
        else:
            self.script.add("optimizer.step()")

    def step(self) -> None:
        """One whole step."""
        if self.run.optimizer.needs_closure:
            with self.script.block("def closure():"):
                self.clear()
                self.script.add(f"loss = {self.loss}")
                if self.run.gets_gradient():
                    self.script.add("loss.backward()")
                self.script.add("return loss")
            self.script.add("optimizer.step(closure)")
        else:
            self.clear()
            self.backward()
            self.apply()

    def steps(self, count: Optional[int] = None) -> None:
        """Steps in a loop, or one alone."""
        count = self.run.steps if count is None else count
        if count == 1:
            self.step()
        else:
            with self.script.block(f"for step in range({count}):"):
                self.step()

    def with_run(self, **changes: Any) -> "Recipe":
        """The same program under a changed run."""
        other = Recipe(self.script, self.case, dataclasses.replace(self.run, **changes))
        other.output, other.alone, other.clean = self.output, self.alone, self.clean
        return other

    # snapshots and checks

    def before(self, name: str = "before") -> None:
        """The parameters' values, exactly, by name; those of the frozen one, where it is one."""
        self.script.note(
            name, f"{name} = {{name: repr(p.tolist()) for name, p in net.named_parameters()}}"
        )
        if len(self.frozen) == 1:
            self.alone[name] = self.frozen[0]
            self.script.note(_one(name), f"{_one(name)} = repr({in_code(self.frozen[0])}.tolist())")

    def small(self) -> bool:
        """Whether values can be printed in a sentence."""
        return all(
            width * self.run.network.width_at(index) <= 4
            for index, width in enumerate(layer.width for layer in self.run.network.layers)
        )

    def if_small(self, text: str) -> str:
        """Text that prints values, or nothing where they are many."""
        return text if self.small() else ""

    def check_stays(self, names: Tuple[str, ...], what: str, before: str = "before") -> None:
        """These parameters (program names) have the values of ``before``."""
        old = f"{before}[name]"
        if names == (self.alone.get(before),):
            old = _one(before)
        seen = self.if_small(f" from {{{old}}} to {{p.tolist()}}")
        self.each(names, f"repr(p.tolist()) == {old}", f"{what} moved{seen}")

    def each(self, names: Tuple[str, ...], condition: str, sentence: str) -> None:
        """A check of each named parameter: ``name`` and ``p`` in the condition and in {fields}."""
        if len(names) == 1:
            self.script.check(_of_one(condition, names[0]), _sentence_of_one(sentence, names[0]))
        elif names:
            everything = len(names) == len(set(self.names.values()))
            guard = "" if everything else f"name not in {names} or "
            with self.script.block("for name, p in net.named_parameters():"):
                self.script.check(guard + condition, sentence)

    @contextlib.contextmanager
    def counted_steps(self) -> Iterator[str]:
        """The body of each step; gives what stands for its number in a sentence."""
        if self.run.steps == 1:
            yield "1"
        else:
            with self.script.block(f"for step in range(1, {self.run.steps + 1}):"):
                yield "{step}"


def _one(before: str) -> str:
    """The name of a snapshot of one parameter."""
    return "was" if before == "before" else f"{before}_one"


def _of_one(code: str, name: str) -> str:
    """Code about ``name`` and ``p``, of one parameter."""
    code = re.sub(r"\bname\b", f'"{name}"', code)
    return re.sub(r"\bp\b", in_code(name), code)


def _sentence_of_one(sentence: str, name: str) -> str:
    """A sentence with fields about ``name`` and ``p``, of one parameter."""
    sentence = sentence.replace("{name}", name)
    return re.sub(r"\{[^{}]*\}", lambda field: _of_one(field.group(), name), sentence)


def emit_guarded_step(script: Script) -> None:
    """A step without the groups that torch 1.8 cannot step: see ``workarounds.step``."""
    script.add(
        "groups = optimizer.param_groups",
        'optimizer.param_groups = [g for g in groups if any(p.grad is not None for p in g["params"])]',
        "optimizer.step()",
        "optimizer.param_groups = groups",
    )


def emit_data(script: Script, run: TrainingRun, case: Case) -> None:
    """Lines that define ``x`` (batch, inputs) and ``target`` (batch, last width)."""
    inputs, targets = run.data("cpu", case.dtype)
    if inputs.numel() + targets.numel() <= FEW:
        for name, tensor in (("x", inputs), ("target", targets)):
            script.note(name, f"{name} = torch.tensor({numbers(tensor)}, dtype=dtype, device=device)")
        return
    script.note("generator", f"generator = torch.Generator().manual_seed({run.seed + 1_000_003})")
    for name, tensor in (("x", inputs), ("target", targets)):
        shape = ", ".join(map(str, tensor.shape))
        drawn = f"torch.empty({shape}, dtype=torch.float64)"
        drawn = f"{drawn}.uniform_(-1.5, 1.5, generator=generator)"
        script.note(name, f"{name} = {drawn}.to(device, dtype)")


def options_text(spec: OptimizerSpec, more: Optional[Dict[str, Any]] = None) -> str:
    """The options as keyword arguments, each after a comma."""
    options = {**dict(spec.options), **(more or {})}
    return "".join(f", {option}={value!r}" for option, value in sorted(options.items()))


def emit_optimizer(
    script: Script,
    run: TrainingRun,
    spec: OptimizerSpec,
    *,
    listed: Optional[str] = None,
    backwards: bool = False,
    groups: Optional[int] = None,
    net: str = "net",
    more: Optional[Dict[str, Any]] = None,
    call: Optional[str] = None,
    over: Optional[str] = None,
) -> None:
    """The line that defines ``optimizer``, as ``Trainer`` builds it; or ``over`` an expression."""
    listed = run.listed if listed is None else listed
    groups = run.groups if groups is None else groups
    conditions = []
    names = list(run.network.parameter_names())
    if spec.matrices_only:
        conditions.append("p.dim() == 2")
        names = [name for name in names if name.endswith("linear.weight")]
    if listed == "trainable" and [name for name in names if name not in run.frozen]:
        conditions.append("p.requires_grad")
        names = [name for name in names if name not in run.frozen]
    parameters = f"{net}.parameters()"
    if conditions:
        parameters = f"[p for p in {net}.parameters() if {' and '.join(conditions)}]"
    if backwards:
        parameters = f"list({parameters})[::-1]" if not conditions else f"{parameters}[::-1]"
    split = len(names) // 2
    if groups > 1 and split and over is None:
        script.note("parameters", f"parameters = list({parameters})")
        parameters = f'[{{"params": parameters[:{split}]}}, {{"params": parameters[{split}:]}}]'
    options = options_text(spec, more) if call is None else call
    parameters = parameters if over is None else over
    script.note("optimizer", f"optimizer = torch.optim.{spec.name}({parameters}{options})")
