"""The verdict on a pass over operators: every alarm in words, and the program of the smallest."""

import functools

from frostproof.properties.harness.core.checks import fail
from frostproof.properties.harness.hunting.shrink import small_program
from frostproof.properties.harness.hunting.source import Refused
from frostproof.properties.harness.operators.passes import Alarm, Found
from frostproof.properties.harness.operators.source import Case, Operators
from frostproof.properties.harness.operators.trial import Trial
from frostproof.strategies.operators import OperatorCase

SHOWN = 12  # alarms that a message names


def judge(found: Found) -> None:
    """Fail with every alarm, the first ones in words."""
    __tracebackhide__ = True
    if not found.alarms:
        return
    more = len(found.alarms) - SHOWN
    said = "\n".join(alarm.sentence for alarm in found.alarms[:SHOWN])
    said += f"\nand {more} more" if more > 0 else ""
    printed = sorted((alarm for alarm in found.alarms if alarm.call.source), key=_size)
    fail(said, functools.partial(_program, printed[0]) if printed else None)


def _size(alarm: Alarm) -> int:
    return sum(one.numel() for one in alarm.call.values)


def _program(alarm: Alarm) -> str:
    """The program of the first mask under which the alarm comes again."""
    call, problem = alarm.call, alarm.problem
    source = Operators(alarm.device, kind=call.source)
    dtype = str(alarm.dtype).rpartition(".")[2]
    for mask in [(), *(alarm.masks or Trial(call).masks())]:
        case = Case(
            OperatorCase(alarm.operator, call.sample, mask, alarm.transform, call.source), dtype
        )
        try:
            facts = source.judge(case, problem.mode)
        except Refused:
            continue
        for fact in facts:
            if (fact.aspect, fact.subject) == (problem.law, problem.route):
                return small_program(source, case, problem.mode, fact)
    raise LookupError(f"{alarm.operator} alone does not show it again")
