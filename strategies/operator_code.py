"""A call of an operator as a program in plain torch: its values as literals, its function by name."""

from typing import Any, List

import torch

from frostproof.strategies import operator_database
from frostproof.strategies.operator_calls import Call
from frostproof.strategies.operators import OperatorCase


def literal(value: torch.Tensor) -> str:
    """A tensor as code: values, dtype, shape, and strides where it is not contiguous."""
    value = value.detach()
    made = f"torch.tensor({value.tolist()!r}, dtype={value.dtype}).reshape({tuple(value.shape)})"
    if value.is_contiguous() or not value.numel():
        return made
    memory = f"torch.empty_strided({tuple(value.shape)}, {value.stride()}, dtype={value.dtype})"
    return f"{memory}.copy_({made})"


def function_code(case: OperatorCase, device: str, dtype: torch.dtype) -> List[str]:
    """Lines that define ``call(x)`` for a list x, and ``others()``."""
    call = case.build(device, dtype)
    names = "".join(f"x{number}, " for number in range(len(call.values)))
    given = "".join(f"y{number}, " for number in range(len(call.others)))
    lines = ["def others():"]
    lines += [f"    return [{', '.join(literal(one) for one in call.others)}]", ""]
    process = ""
    if case.source == "table":
        code = call.code
    else:
        lines = [*_from_database(case, device, dtype), *lines]
        code, process = operator_database.written("function", call), "process"
    lines += ["def call(x):", f"    [{names[:-2]}] = x"]
    lines += [f"    [{given[:-2]}] = others()"] if given else []
    lines += ["    torch.manual_seed(0)", f"    return tensors({process}({code}))", ""]
    return lines


def _from_database(case: OperatorCase, device: str, dtype: torch.dtype) -> List[str]:
    info = operator_database.entry(case.operator)
    call = case.build(device, dtype)
    path = operator_database.qualified(info)
    same = object()
    if path and _plain(info, call) and call.outputs(same) is same:
        return [f"function, process = {path}, lambda output: output", ""]
    number = operator_database.place(case.operator, device, dtype, case.sample)
    return [
        "# as torch's own tests call it",
        "from torch.testing._internal.common_methods_invocations import op_db",
        f"info = next(one for one in op_db if (one.name, one.variant_test_name) == "
        f"({info.name!r}, {info.variant_test_name!r}))",
        "function = lambda *given, **named: info.gradcheck_wrapper(info.get_op(), *given, **named)",
        f"sample = list(info.sample_inputs({device!r}, {dtype}, requires_grad=True))[{number}]",
        "process = sample.output_process_fn_grad or (lambda output: output)",
        "",
    ]


def _plain(info: Any, call: Call) -> bool:
    """Whether the database's function is the operator and nothing else."""
    seen: List[Any] = []

    def probe(*given: Any, **named: Any) -> Any:
        seen.append((given, named))
        return seen

    arguments, named = call.given(call.leaves())
    try:
        made = info.gradcheck_wrapper(probe, *arguments, **named)
    except Exception:
        return False
    if made is not seen or len(seen) != 1 or seen[0][1].keys() != named.keys():
        return False
    return len(seen[0][0]) == len(arguments) and all(a is b for a, b in zip(seen[0][0], arguments))
