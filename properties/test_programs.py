"""A function run in another way does what eager does: values, aliases, flags, versions, gradients."""

import functools

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from frostproof.properties.harness.core.checks import check, fail
from frostproof.properties.harness.core.law import law, part, thorough
from frostproof.properties.harness.defects.known import release
from frostproof.properties.harness.hunting.shrink import small_program
from frostproof.properties.harness.hunting.source import source_of
from frostproof.properties.harness.programs.defects import ROWS, Row, ends
from frostproof.properties.harness.programs.judge import Refused, judge
from frostproof.properties.harness.programs.modes import CHEAP, MODES
from frostproof.properties.harness.programs.source import facts_of
from frostproof.strategies.capabilities import NotOffered
from frostproof.strategies.programs import programs

# cheap modes of which each hour of the hunt still finds something new: not in the default run
HUNTED = ("dispatch-mode", "functionalize", "jit-trace", "jit-script", "func-vmap-1", "func-vmap-3")
CHEAP_MODES = sorted(name for name, mode in MODES.items() if mode.cost == CHEAP and name not in HUNTED)
COMPILED_MODES = sorted(name for name in MODES if name not in CHEAP_MODES)


def agrees(mode: str, data: st.DataObject) -> None:
    """One program, drawn of what a mode takes, differs from eager in no way that is not known."""
    missing = MODES[mode].missing()
    if missing:
        raise NotOffered(missing)
    program = data.draw(programs(frozenset(MODES[mode].without)))
    if ends(program, mode):
        event("a known defect would end or spoil this process")
        return
    try:
        new, rows = facts_of(program, mode)
    except Refused:
        event("refused")
        return
    event("known defect" if rows else "agrees")
    if new:
        shown = functools.partial(small_program, source_of("programs"), program, mode, new[0])
        fail(f"{mode}: {new[0].sentence}\n{program.source()}", shown)
    check(True, "it agrees")


@law("P1", "PyTorch documentation of each mode", "float64")
@part(4, 5)
@given(data=st.data())
@pytest.mark.parametrize("mode", CHEAP_MODES)
def test_modes_agree(mode: str, data: st.DataObject) -> None:
    """P1: a function in a mode, transformed, traced or checkpointed does what eager does."""
    agrees(mode, data)


@law("P1", "PyTorch documentation, torch.compile and torch.export", "float64")
@part(20, 2)
@given(data=st.data())
@pytest.mark.parametrize("mode", COMPILED_MODES)
def test_compiled_modes_agree(mode: str, data: st.DataObject) -> None:
    """P1: a compiled or exported function does what eager does."""
    if not thorough():
        pytest.skip("modes that compile run in the nightly profile and in the hunt")
    agrees(mode, data)


@law("P1", "the rows of known defects", "float64")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.ident)
def test_known_defects(row: Row) -> None:
    """P1: a known defect shows where it was measured to show, and nowhere else."""
    mode = next(name for name in MODES if name.startswith(row.modes[0]))
    if MODES[mode].missing():
        raise NotOffered(MODES[mode].missing())
    if row.ends:
        pytest.skip("it would end or spoil this process")
    if MODES[mode].cost != CHEAP and not thorough():
        pytest.skip("modes that compile run in the nightly profile and in the hunt")
    now = release()
    if now not in row.shown + row.absent:
        pytest.skip(f"not measured on torch {now}")
    scenes = list(dict.fromkeys(("first", row.scene)))
    shown = any(each.aspect == row.aspects[0] for each in judge(row.program, mode, scenes))
    check(
        shown == (now in row.shown),
        f"{row.ident}: it {'shows' if shown else 'does not show'} here: mend its row in "
        "properties/harness/programs (defects.py and its neighbours)",
    )
