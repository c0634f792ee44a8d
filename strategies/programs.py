"""Random small functions over one to three tensors, as plain data that print as Python.

>>> print(Program().source())
"""

from dataclasses import dataclass
from functools import cache
from typing import Dict, FrozenSet, Iterator, List, Optional, Tuple

from hypothesis import strategies as st

from frostproof.strategies.digits import Digits, read_as
from frostproof.strategies.program_inputs import INPUT_SHAPES, OF_FIRST, OF_MODULE, Input
from frostproof.strategies.statements import (
    BLOCKS,
    PREAMBLE,
    VOCABULARY,
    Facts,
    Operation,
    outcome,
)
from frostproof.strategies.words import Words, words

INDENT = "    "
FORMS = ("one", "one", "tuple", "tuple", "dict")


@dataclass(frozen=True)
class Statement:
    """A record of VOCABULARY with its operands, or a block of BLOCKS with its body."""

    operation: str = "double"
    operands: Tuple[str, ...] = ("x",)
    targets: Tuple[str, ...] = ("a",)
    argument: str = ""
    body: Tuple["Statement", ...] = ()

    @property
    def record(self) -> Optional[Operation]:
        """The vocabulary's record; None for a block."""
        return VOCABULARY.get(self.operation)

    @property
    def kind(self) -> str:
        """The record's kind; "block" for a block."""
        record = self.record
        return "block" if record is None else record.kind

    def lines(self) -> List[str]:
        """Python, without indentation of its own."""
        record = self.record
        if record is None:
            inside = [INDENT + line for each in self.body for line in each.lines()]
            return [f"with {BLOCKS[self.operation]}:", *(inside or [f"{INDENT}pass"])]
        source = record.source.format(*self.operands, a=self.argument)
        return [f"{', '.join(self.targets)} = {source}" if self.targets else source]

    def walk(self, inside: Tuple[str, ...] = ()) -> Iterator[Tuple["Statement", Tuple[str, ...]]]:
        """Each statement in order with the names of the blocks that it is in."""
        yield self, inside
        for each in self.body:
            yield from each.walk((*inside, self.operation))


BREAK = "torch._dynamo.graph_break()"


@dataclass(frozen=True)
class Program:
    """A function of tensors as plain values; its repr evaluates back to an equal one.

    inputs: the tensors that it is given; statements: its body, whose variables are single
    letters; returns: the names that it returns; form: "one" (the first of them), "tuple" or "dict".
    """

    inputs: Tuple[Input, ...] = (Input(),)
    statements: Tuple[Statement, ...] = (Statement(),)
    returns: Tuple[str, ...] = ("a",)
    form: str = "one"

    @property
    def arguments(self) -> Tuple[Input, ...]:
        """The inputs that are passed; the others are the module's."""
        return tuple(each for each in self.inputs if each.kind not in OF_MODULE)

    @property
    def stateful(self) -> bool:
        """Whether it is a module's forward."""
        return len(self.arguments) < len(self.inputs)

    def walk(self) -> Iterator[Tuple[Statement, Tuple[str, ...]]]:
        """Each statement, blocks too, in order with the names of the blocks that it is in."""
        for each in self.statements:
            yield from each.walk()

    def body(self, broken: bool = False) -> List[str]:
        """The lines of the function's body; broken: with a graph break in the middle."""
        lines = [f"{each.name} = self.{each.name}" for each in self.inputs if each.kind in OF_MODULE]
        middle = (len(self.statements) + 1) // 2
        for place, statement in enumerate(self.statements):
            if broken and place == middle:
                lines.append(BREAK)
            lines += statement.lines()
        if broken and middle >= len(self.statements):
            lines.append(BREAK)
        if self.form == "one":
            return [*lines, f"return {self.returns[0]}"]
        if self.form == "dict":
            pairs = ", ".join(f'"{place}": {name}' for place, name in enumerate(self.returns))
            return [*lines, f"return {{{pairs}}}"]
        return [*lines, f"return ({', '.join(self.returns)},)"]

    def function(self, broken: bool = False) -> str:
        """Python that defines ``f``, or ``Net`` with ``forward`` where it is a module's."""
        names = ", ".join(each.name for each in self.arguments)
        lines = self.body(broken)
        if not self.stateful:
            return "\n".join([f"def f({names}):", *(INDENT + line for line in lines)]) + "\n"
        head = ["class Net(torch.nn.Module):", f"{INDENT}def forward(self{', ' * bool(names)}{names}):"]
        return "\n".join([*head, *(INDENT * 2 + line for line in lines)]) + "\n"

    def preamble(self) -> str:
        """Python that defines what the statements use beside torch."""
        body = "\n".join(line for each in self.statements for line in each.lines())
        used = [text for word, text in PREAMBLE.items() if word in body]
        if "note(" in body and PREAMBLE["fired"] not in used:
            used.insert(0, PREAMBLE["fired"])
        return "\n\n".join(used)

    def setup(self, device: str = "cpu") -> str:
        """Python that makes the inputs; a module's are put on an existing ``module``."""
        return (
            "\n".join(line for each in self.inputs for line in each.lines(self.inputs[0], device))
            + "\n"
        )

    def source(self, broken: bool = False, device: str = "cpu") -> str:
        """A whole program in plain torch: definitions, inputs and the call, as ``output``."""
        parts = ["import torch\n"]
        preamble = self.preamble()
        parts += [preamble] if preamble else []
        parts.append(self.function(broken))
        setup = ("module = f = Net()\n" if self.stateful else "") + self.setup(device)
        call = f"output = f({', '.join(each.name for each in self.arguments)})\n"
        return "\n\n".join(parts) + "\n\n" + setup + call


MAX_INPUTS, MAX_STATEMENTS = 3, 8
PER_INPUT, PER_STATEMENT = 4, 9
DIGITS = 3 + PER_INPUT * MAX_INPUTS + PER_STATEMENT * MAX_STATEMENTS + 5
DENSE_TURNS = 6  # records that a dense program tries before it leaves a statement out
ALIASING = ("view", "views", "same", "detach")


class _Writer:
    """Writes one program statement by statement, and keeps what it must know of each variable."""

    def __init__(self, inputs: Tuple[Input, ...], vocabulary: Words) -> None:
        self.vocabulary, self.dense = vocabulary, vocabulary.dense
        self.touched: Tuple[str, ...] = (inputs[0].name,)  # what was made or written last, and of what
        self.last: Optional[Operation] = None
        self.facts: Dict[str, Facts] = {each.name: (each.shape, each.dtype) for each in inputs}
        # what autograd lets nobody write to: leaves that require grad, and their views
        self.fixed = {each.name for each in inputs if each.kind in ("live", "parameter")}
        if inputs[0].name in self.fixed:
            self.fixed |= {each.name for each in inputs if each.kind in ("same", "view_of")}
        self.fixed |= {each.name for each in inputs if each.layout == "expanded"}
        self.live = {each.name for each in inputs if each.live}
        if inputs[0].live:
            self.live |= {each.name for each in inputs if each.kind in ("same", "view_of")}
        self.recent = [each.name for each in inputs]
        # whose memory it is
        self.roots = {n.name: inputs[0].name if n.kind in OF_FIRST else n.name for n in inputs}
        self.made = 0

    def statement(self, digits: Digits, inside: Tuple[str, ...]) -> Optional[Statement]:
        kind = digits.one_of(self.vocabulary.kinds)
        place, bold = digits.below(64), digits.below(16) == 15
        argument_at, ats = digits.below(64), [digits.below(64) for _ in range(3)]
        again = bool(self.dense and self.last and self.last.kind == kind and ats[2] % 2)
        if self.dense and self.last and self.last.kind in ALIASING:  # what one does to an alias
            follow = ats[2] // 2 % 8
            kind = "write" if follow > 5 and "write" in self.vocabulary.by_kind else kind
            again = (again and kind == self.last.kind) or follow in (4, 5)
            kind = self.last.kind if again else kind
        fitting = self.vocabulary.by_kind[kind]
        if self.dense and place % 4:  # what people write most
            fitting, place = self.vocabulary.common.get(kind) or fitting, place // 4
        if kind == "hook" and "inference_mode" in inside:
            return None  # a hook there ends the process: see the known defects
        free = bold or bool(inside and inside[-1] in ("no_grad", "set_grad_off", "inference_mode"))
        for turn in range(DENSE_TURNS if self.dense else 1):
            record = fitting[(place + turn) % len(fitting)]
            if again and turn == 0 and self.last:
                record = self.last  # once more
            argument = record.arguments[(argument_at + turn) % len(record.arguments)]
            operands = self._operands(record, argument, ats, free, bold, ())
            if operands is not None:
                break
        else:
            return None
        told = outcome(record.name, argument, tuple(self.facts[name] for name in operands))
        if told is None:
            return None
        results, after = told
        self.facts.update(zip(operands, after))
        targets = tuple(chr(ord("a") + self.made + number) for number in range(record.results))
        self.made += len(targets)
        for name, facts in zip(targets, results):
            self.facts[name] = facts
            self.recent.append(name)
            alias = kind in ALIASING
            self.roots[name] = self.roots[operands[0]] if alias else name
        changed = (*targets, *(operands[at] for at in record.writes))
        self.touched = (*changed[:1], *operands[:1]) if changed else self.touched
        self.last = record
        if kind in ("view", "views", "same", "function") and self.fixed & set(operands) and not inside:
            self.fixed |= set(targets)
        if kind == "views":
            self.fixed |= set(targets)
        if kind == "flag":
            (self.live.discard if record.name == "freeze" else self.live.add)(operands[0])
        off = bool(inside) and inside[-1] not in ("enable_grad", "set_grad_on", "inference_off")
        if kind not in ("detach", "gradient") and not off and self.live & set(operands):
            self.live |= set(targets)
            self.live |= {operands[place] for place in record.writes}
        return Statement(record.name, operands, targets, argument)

    def _operands(
        self,
        record: Operation,
        argument: str,
        ats: List[int],
        free: bool,
        bold: bool,
        chosen: Tuple[str, ...],
    ) -> Optional[Tuple[str, ...]]:
        """Operands that the record takes; None where there are none.

        A dense program prefers what was touched last, and goes back where nothing fits.
        """
        number = len(chosen)
        if number == record.arity:
            return chosen
        choices = [
            name
            for name in reversed(self.recent)
            if self._possible(record, argument, (*chosen, name))
            and (free or number not in record.writes or name not in self.fixed)
            and (bold or record.kind not in ("hook", "gradient") or name in self.live)
        ]
        if not choices:
            return None
        if not self.dense:
            name = choices[ats[number] % len(choices)]
            return self._operands(record, argument, ats, free, bold, (*chosen, name))
        near, at = ats[number] % 4, ats[number] // 4 % len(choices)
        choices = choices[at:] + choices[:at]
        if number and record.writes:  # a write is seldom of a tensor to itself
            written = self.roots[chosen[0]]
            if ats[number] % 16 and all(self.roots[name] == written for name in choices):
                return None
            joins = chosen[0] in self.live  # most of them change whether it has a history
            choices.sort(
                key=lambda n: (self.roots[n] == written, near < 3 and (n in self.live) == joins)
            )
        else:
            nearest = near // 2 if near < 3 else 2
            if record.writes and self.last and self.last.kind in ALIASING:
                nearest = near % 2  # the alias or what it is of
            near_by = self.touched[nearest : nearest + 1]
            choices = [name for name in near_by if name in choices] + choices
        for name in choices:
            found = self._operands(record, argument, ats, free, bold, (*chosen, name))
            if found is not None:
                return found
        return None

    def _possible(self, record: Operation, argument: str, operands: Tuple[str, ...]) -> bool:
        if len(operands) < record.arity:
            return True
        return outcome(record.name, argument, tuple(self.facts[name] for name in operands)) is not None


def _read_inputs(digits: Digits, vocabulary: "Words") -> Tuple[Input, ...]:
    dtypes, kinds, dense = vocabulary.dtypes, vocabulary.inputs, vocabulary.dense
    count = ((1, 2, 2, 2, 3, 3) if dense else (1, 1, 2, 2, 2, 3))[digits.below(6)]
    dtype = dtypes[digits.below(8) % len(dtypes)]
    found: List[Input] = []
    for place in range(MAX_INPUTS):
        kind = digits.one_of(kinds if place else [each for each in kinds if each not in OF_FIRST])
        shape = digits.one_of(INPUT_SHAPES)
        layout = vocabulary.layouts[digits.below(10)]
        likeness = digits.below(4)  # operands of one shape meet more often
        if place >= count:
            continue
        first = found[0] if found else None
        if dense and kind in ("live", "parameter", "result") and layout == "expanded":
            layout = "contiguous"  # a leaf that nobody can write to
        if first is not None and (kind in OF_FIRST or likeness < 3):
            row = dense and likeness == 2 and kind not in OF_FIRST
            shape = first.shape[1:] if row else first.shape
        if first is not None and kind in OF_FIRST:
            layout = "contiguous"
            whole = first.layout == "slice" and bool(first.shape) and first.kind not in OF_MODULE
            if first.kind in OF_MODULE or (
                kind == "neighbour" and not (whole and first.kind != "result")
            ):
                kind = next(each for each in ("frozen", *kinds) if each in kinds)
        found.append(Input("xyz"[place], kind, shape, layout, dtype))
    return tuple(found)


def read_program(digits: Digits, vocabulary: Optional[Words] = None) -> Program:
    """A program from ``DIGITS`` bytes; vocabulary: all of it by default."""
    vocabulary = vocabulary or words()
    inputs = _read_inputs(digits, vocabulary)
    writer = _Writer(inputs, vocabulary)
    count = 1 + digits.below(MAX_STATEMENTS)
    if vocabulary.dense:
        count = min(count + 2, MAX_STATEMENTS)
    written: List[Tuple[Tuple[str, ...], Statement]] = []
    inside: Tuple[str, ...] = ()
    for place in range(MAX_STATEMENTS):
        if place >= count:
            digits.skip(PER_STATEMENT)
            continue
        block, stays = digits.one_of(vocabulary.blocks), digits.below(3)
        outer = inside[:-1] if vocabulary.dense else ()  # a block inside another is left alone
        inside = inside if stays == 2 else outer if stays and outer else block
        before = digits.left
        made = writer.statement(digits, inside)
        digits.skip(PER_STATEMENT - 2 - (before - digits.left))
        if made is not None:
            written.append((inside, made))
    if not written:
        written = [((), Statement("double", (inputs[0].name,)))]
        writer.recent.append("a")
    names = list(reversed(writer.recent))
    forms = ("one", "tuple", "tuple", "tuple", "dict") if vocabulary.dense else FORMS
    form = digits.one_of(forms)
    number = 1 + digits.below(3)
    chosen = tuple(names[digits.below(64) % len(names)] for _ in range(3))
    returns = chosen[:1] if form == "one" else chosen[:number]
    if vocabulary.dense and form != "one":
        returns = tuple(reversed(names))
    return Program(inputs, tuple(_blocks(written)), returns, form)


def _blocks(written: List[Tuple[Tuple[str, ...], Statement]]) -> List[Statement]:
    """Statements that follow each other in one block share it."""
    found: List[Statement] = []
    place = 0
    while place < len(written):
        inside = written[place][0]
        if not inside:
            found.append(written[place][1])
            place += 1
            continue
        end = place
        while end < len(written) and written[end][0][:1] == inside[:1]:
            end += 1
        body = _blocks([(names[1:], each) for names, each in written[place:end]])
        found.append(Statement(inside[0], (), (), "", tuple(body)))
        place = end
    return found


@cache
def programs(without: FrozenSet[str] = frozenset(), dense: bool = False) -> st.SearchStrategy[Program]:
    """Random functions of one to eight statements: see ``VOCABULARY`` of ``statements``.

    without: names of statements, kinds of them, blocks ("block": all), dtypes and kinds
    of inputs that are not drawn; dense: statements go on with what the last one touched, those
    that fit no operand give way to others, and many programs return everything.
    Shapes and dtypes fit; what autograd refuses is drawn now and then, and is a case too.
    Shrinks towards ``x * 2`` of one leaf of two numbers that requires grad.
    """
    vocabulary = words(without, dense)
    return read_as(DIGITS, lambda digits: read_program(digits, vocabulary))
