"""Known defects of the modes, written out: each row's program in plain torch, draft, and a list."""

import re
import textwrap
from pathlib import Path
from typing import Dict, List, Sequence

from frostproof.properties.harness.hunting import report
from frostproof.properties.harness.hunting.source import Fact
from frostproof.properties.harness.programs import transforms  # noqa: F401  (adds its modes)
from frostproof.properties.harness.programs.defects import ROWS, Row
from frostproof.properties.harness.programs.modes import MODES
from frostproof.properties.harness.programs.script import script

# Of what an aspect is looked at in most rows' programs.
SUBJECTS: Dict[str, str] = {
    "gradient": "x_leaf",
    "identity": "x, out0",
    "storage": "x, out0",
    "version": "x",
    "input grad_fn": "x",
    "backward": "outputs",
    "structure": "output",
    "error": "call",
    "internal": "call",
}
EAGER = "eager"
ENDING_CALL = r"""
    try:
        \1
    except Exception as problem:
        print(type(problem).__name__)"""
OWN_PROCESS = '''\
# {sentence}
# The program runs in a process of its own, which it ends or spoils.
import subprocess
import sys

PROGRAM = """
{program}"""
done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
print(done.stdout + done.stderr[-300:], "ended with", done.returncode)
shown = done.returncode < 0 or "INTERNAL ASSERT" in done.stderr
sys.exit(1 if shown else 2 * (done.returncode != 0))
'''


def mode_of(row: Row) -> str:
    """The mode in which a row's program is tried; EAGER where eager itself is wrong."""
    return next(name for name in MODES if name.startswith(row.modes[0])) if row.modes[0] else EAGER


def fact_of(row: Row) -> Fact:
    """What a row's program is looked at for."""
    aspect, mode = row.aspects[0], mode_of(row)
    later = mode.startswith(("func-vjp", "func-grad")) and aspect == "value"  # after the gradient
    subject = SUBJECTS.get(aspect, "out1" if later else "out0")
    return Fact(aspect, row.subject or subject, row.sentence, scene=row.scene)


def program_of(row: Row) -> str:
    """Plain torch: exits 1 where the defect shows, 0 where it does not."""
    if not row.ends:
        return script(row.program, mode_of(row), fact_of(row))
    if row.modes[0]:
        inner = script(row.program, mode_of(row), Fact("process", "call", scene=row.scene))
        inner = inner.replace("look(reference), look(way)", "None, look(way)")
        # an error of the call is not what is looked at
        inner = re.sub(r"\n    output = (run\(.*\))\n    outs = .*", ENDING_CALL, inner)
    else:
        inner = row.program.source()
    return OWN_PROCESS.format(sentence=row.sentence, program=inner.replace("\\", "\\\\"))


def _versions(versions: Sequence[str]) -> str:
    return ", ".join(versions) or "none"


def draft_of(row: Row, seen: Dict[str, str]) -> str:
    """A short factual report on a row, as for an upstream issue; seen: a word for each torch."""
    scene = "" if row.scene == "first" else f" (the call: {row.scene})"
    return report.drafted(
        f"{mode_of(row)}: {row.sentence}",
        f"Looked at: {row.aspects[0]}{scene}. What eager does is taken for right.",
        program_of(row),
        seen,
        row.issue,
        f"Row: shown on torch {_versions(row.shown)}; absent on {_versions(row.absent)}.",
    )


def _table(rows: Sequence[Row], last: str) -> List[str]:
    """Rows as a table; last: the name of its last column."""
    lines = [
        f"| row | mode | what goes wrong | shown on | absent on | {last} |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (
            *(row.ident, mode_of(row), row.sentence),
            *(_versions(row.shown), _versions(row.absent), row.apart or row.issue),
        )
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return lines


def listed() -> str:
    """The list of the rows as Markdown, in their order."""
    counted, apart = [row for row in ROWS if not row.apart], [row for row in ROWS if row.apart]
    text = textwrap.fill(
        f"{len(counted)} defects that `harness/programs/defects.py` and its neighbours have rows of, "
        "tried in each run where they were measured. This page is written by "
        "`python -m frostproof.properties.hunt --known --output FOLDER` (as `known.md`), which "
        "writes the program and the draft of a report of each row as well. What is documented to be "
        "otherwise is in [programs.md](programs.md#documented-to-be-otherwise), and is not counted.",
        100,
        break_on_hyphens=False,
    )
    return "\n".join(
        [
            *("# Known defects of the modes", "", text, "", *_table(counted, "upstream"), ""),
            *("## Not counted", "", "Of these a maintainer of torch may say that they are none.", ""),
            *(*_table(apart, "why"), ""),
        ]
    )


def write(folder: Path, pythons: Sequence[str], jobs: int) -> Dict[str, Dict[str, str]]:
    """Write ``programs/ROW.py``, ``drafts/ROW.md`` and ``known.md``.

    Each program is run under each interpreter; gives, for each row, a word for each torch.
    """
    for name in ("programs", "drafts"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    scripts = {row.ident: folder / "programs" / f"{row.ident}.py" for row in ROWS}
    for row in ROWS:
        scripts[row.ident].write_text(program_of(row), encoding="utf-8")
    told = report.told_by(scripts, pythons, jobs)
    for row in ROWS:
        text = draft_of(row, told[row.ident])
        (folder / "drafts" / f"{row.ident}.md").write_text(text, encoding="utf-8")
    (folder / "known.md").write_text(listed(), encoding="utf-8")
    return told
