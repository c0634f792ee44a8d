"""A call of an operator as a program in plain torch: its values as literals, its function by name."""

from typing import Any, List

import torch

from frostproof.strategies import operator_database, operator_table
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


def function_code(case: OperatorCase, device: str, dtype: torch.dtype, variant: str = "") -> List[str]:
    """Lines that define ``call(x)`` for a list x, ``others()``, and ``process`` of an output.

    variant: "into" for ``into(x, **given)`` too, which takes ``out=``; "change" for ``change(x)``,
    the in-place variant, which writes to the first argument. Both give the output unprocessed.
    """
    call = case.build(device, dtype)
    lines = ["def others():"]
    lines += [f"    return [{', '.join(literal(one) for one in call.others)}]", ""]
    if case.source == "table":
        code = call.code
        lines = ["process = lambda output: output", "", *lines]
    else:
        lines = [*_from_database(case, device, dtype, variant == "change"), *lines]
        code = operator_database.written("function", call)
    lines += _defined("call(x)", f"tensors(process({code}))", call)
    if variant == "into":
        lines += _defined("into(x, **given)", f"{_raw(case, call, code)[:-1]}, **given)", call)
    elif variant == "change":
        lines += _defined("change(x)", _changing(case, call), call)
    return lines


def _defined(head: str, code: str, call: Call) -> List[str]:
    """A function of a list x that unpacks it, seeds, and returns what the code gives."""
    names = ", ".join(f"x{number}" for number in range(len(call.values)))
    given = ", ".join(f"y{number}" for number in range(len(call.others)))
    lines = [f"def {head}:", f"    [{names}] = x"]
    lines += [f"    [{given}] = others()"] if given else []
    return [*lines, "    torch.manual_seed(0)", f"    return {code}", ""]


def _raw(case: OperatorCase, call: Call, code: str) -> str:
    """The operator itself, without what torch's own tests put around it."""
    if case.source == "table":
        return code
    info = operator_database.entry(case.operator)
    path = operator_database.qualified(info)
    return operator_database.written(path if _plain(info, call) and path else "info.get_op()", call)


def _changing(case: OperatorCase, call: Call) -> str:
    """The call of the in-place variant."""
    if case.source == "table":
        return operator_table.OPERATORS[case.operator].inplace
    info = operator_database.entry(case.operator)
    return operator_database.written(_in_place_path(info) or "info.get_inplace()", call)


def _in_place_path(info: Any) -> str:
    """The public path of the in-place variant; "" where it is another function."""
    public = getattr(torch.Tensor, f"{info.name}_", None)
    return f"torch.Tensor.{info.name}_" if public and public is info.get_inplace() else ""


def _from_database(
    case: OperatorCase, device: str, dtype: torch.dtype, in_place: bool = False
) -> List[str]:
    info = operator_database.entry(case.operator)
    call = case.build(device, dtype)
    path = operator_database.qualified(info)
    same = object()
    if (
        path
        and _plain(info, call)
        and call.outputs(same) is same
        and not (in_place and not _in_place_path(info))
    ):
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
