"""Programs a step simpler, for making one small; and the shape of a program."""

import dataclasses
from collections import Counter
from typing import Dict, Iterator, List, Tuple

from frostproof.strategies.programs import OF_FIRST, OF_MODULE, Input, Program, Statement
from frostproof.strategies.statements import BY_KIND, STATEMENT_KINDS

Body = Tuple[Statement, ...]


def _renamed(body: Body, names: Dict[str, str]) -> Body:
    return tuple(
        dataclasses.replace(
            each,
            operands=tuple(names.get(name, name) for name in each.operands),
            body=_renamed(each.body, names),
        )
        for each in body
    )


def _variants(body: Body) -> Iterator[Tuple[Body, Dict[str, str]]]:
    """(a body a step simpler, what each variable that is gone is now)."""
    for place, each in enumerate(body):
        before, after = body[:place], body[place + 1 :]
        if each.kind == "block":
            gone = {t: "" for inner, _ in each.walk() for t in inner.targets}
            yield (*before, *after), gone
            yield (*before, *each.body, *after), {}
            for inside, names in _variants(each.body):
                block = (dataclasses.replace(each, body=inside),) if inside else ()
                yield (*before, *block, *_renamed(after, names)), names
            if each.operation != "no_grad":
                yield (*before, dataclasses.replace(each, operation="no_grad"), *after), {}
            continue
        names = dict.fromkeys(each.targets, each.operands[0] if each.operands else "")
        yield (*before, *_renamed(after, names)), names
    for place, each in enumerate(body):
        record = each.record
        if record is None:
            continue
        alike = [
            other
            for other in BY_KIND[record.kind]
            if other.arity <= record.arity and other.results == record.results
        ]
        for other in alike[: 1 + alike.index(record)][:4]:
            argument = each.argument if other is record else other.arguments[0]
            for wanted in dict.fromkeys((other.arguments[0], argument)):
                simple = dataclasses.replace(
                    each, operation=other.name, operands=each.operands[: other.arity], argument=wanted
                )
                yield (*body[:place], simple, *body[place + 1 :]), {}


def _defined(program: Program) -> bool:
    """Whether every variable that it uses is an input or made before."""
    known = {each.name for each in program.inputs}
    for each, _ in program.walk():
        if not known.issuperset(each.operands):
            return False
        known.update(each.targets)
    return known.issuperset(program.returns)


def simpler(program: Program) -> Iterator[Program]:
    """Programs a step simpler, the boldest first; all of them are whole."""
    for candidate in _simpler(program):
        if candidate != program and _defined(candidate):
            yield candidate


def _simpler(program: Program) -> Iterator[Program]:
    inputs, body = program.inputs, program.statements
    half = len(body) // 2
    if half:
        yield dataclasses.replace(program, statements=body[half:])
        yield dataclasses.replace(program, statements=body[:half])
    for less, names in _variants(body):
        returns = tuple(names.get(name, name) for name in program.returns)
        yield dataclasses.replace(program, statements=less, returns=returns)
    if len(program.returns) > 1:
        for name in program.returns:
            yield dataclasses.replace(program, returns=(name,), form="one")
        for place in range(len(program.returns)):
            rest = program.returns[:place] + program.returns[place + 1 :]
            yield dataclasses.replace(program, returns=rest)
    if program.form != "one":
        if len(program.returns) == 1:
            yield dataclasses.replace(program, form="one")
        elif program.form != "tuple":
            yield dataclasses.replace(program, form="tuple")
    used = {name for each, _ in program.walk() for name in each.operands} | set(program.returns)
    for place, each in enumerate(inputs):
        if each.name not in used and len(inputs) > 1:
            rest_of = inputs[:place] + inputs[place + 1 :]
            if place or not any(other.kind in OF_FIRST for other in rest_of):
                yield dataclasses.replace(program, inputs=rest_of)
    for place, each in enumerate(inputs):
        for other in _simpler_inputs(each):
            yield dataclasses.replace(program, inputs=(*inputs[:place], other, *inputs[place + 1 :]))
    for shape in ((2,), (1,), (2, 2)):
        if size_of_shape(shape) < size_of_shape(inputs[0].shape):
            alike = tuple(dataclasses.replace(each, shape=shape) for each in inputs)
            yield dataclasses.replace(program, inputs=alike)
    if inputs[0].dtype != "float64":
        alike = tuple(dataclasses.replace(each, dtype="float64") for each in inputs)
        yield dataclasses.replace(program, inputs=alike)
    for place, each in enumerate(inputs):
        for other in inputs[:place]:
            yield _merged(program, each, other)


def _merged(program: Program, each: Input, other: Input) -> Program:
    """The program with one input used in place of another."""
    names = {each.name: other.name}
    returns = tuple(names.get(name, name) for name in program.returns)
    return dataclasses.replace(program, statements=_renamed(program.statements, names), returns=returns)


def _simpler_inputs(each: Input) -> Iterator[Input]:
    if each.layout != "contiguous":
        yield dataclasses.replace(each, layout="contiguous")
    for kind in ("live", "frozen", "result", "parameter", "buffer"):
        if each.kind == kind:
            break
        yield dataclasses.replace(each, kind=kind)


def size_of_shape(shape: Tuple[int, ...]) -> int:
    """(2,) is the simplest; then few elements."""
    count = 1
    for extent in shape:
        count *= extent
    return 0 if shape == (2,) else 1 + count


def size(program: Program) -> Tuple[int, ...]:
    """What is smaller for a simpler program."""
    walked = list(program.walk())
    order = {
        name: place
        for kind in STATEMENT_KINDS
        for place, name in enumerate(o.name for o in BY_KIND[kind])
    }
    return (
        len(walked),
        len(program.inputs) + len(program.returns) + (program.form != "one") + (program.form == "dict"),
        sum(each.layout != "contiguous" for each in program.inputs)
        + sum(each.dtype != "float64" for each in program.inputs)
        + sum(
            ("live", "frozen", "result").index(each.kind)
            if each.kind in ("live", "frozen", "result")
            else 4
            for each in program.inputs
        )
        + sum(size_of_shape(each.shape) for each in program.inputs),
        sum(
            order.get(each.operation, each.operation != "no_grad") + bool(each.argument)
            for each, _ in walked
        ),
        len({name for each, _ in walked for name in each.operands}),
    )


# kinds whose statements behave alike; of the others the operation's name tells more
ALIKE = ("arithmetic", "same", "view", "views", "clone", "write")


def skeleton(program: Program) -> Tuple[str, ...]:
    """Kinds of statements with the blocks that they are in, special inputs, inputs returned."""
    found: List[str] = []
    for each, inside in program.walk():
        if each.kind == "block":
            continue
        word = each.kind if each.kind in ALIKE else each.operation
        found.append(">".join((*inside, word)))
    for each_input in program.inputs:
        if each_input.kind in (*OF_FIRST, *OF_MODULE):
            found.append(f"{each_input.kind} input")
        if each_input.layout != "contiguous":
            found.append(f"{each_input.layout} input")
        if each_input.dtype.startswith("complex"):
            found.append("complex")
    names = {each.name for each in program.inputs}
    found += ["returns an input"] * any(name in names for name in program.returns)
    found += ["returns twice"] * (len(set(program.returns)) < len(program.returns))
    return tuple(sorted(found))


def contains(program: Program, shape: Tuple[str, ...]) -> bool:
    """Whether a program has all that a skeleton has."""
    return not Counter(shape) - Counter(skeleton(program))
