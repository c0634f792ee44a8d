"""Records of made-up runs, for the self-tests of the report."""

from pathlib import Path
from typing import Any, List
from xml.sax.saxutils import escape, quoteattr

from frostproof.properties.harness.report.drawing import network_of
from frostproof.properties.harness.report.record import Entry, Record, Run
from frostproof.strategies import MLP, Cuts, Layer, TrainingRun

EVIL = "<script>document.title='stolen'</script>&\"'"
KNOWN = "known defect: a step without gradients raises (pytorch/pytorch#1)"
# about as long as real ones
MESSAGE = f"""\
expected  F{{}}: after every step a frozen parameter has its bits, no gradient, no state, its version.
seen      frozen layers.0.linear.weight {EVIL} after step 1 of SGD: element (0, 0): 1.88 became 1.87
example   draw 1: TrainingRun(network=MLP(inputs=1, layers=(Layer(width=1),)), frozen=('0.weight',))
on        cpu, float32; torch 2.13.0+cpu, Hypothesis 6.170.17, Python 3.11.7
rerun     pytest "properties/test_freeze.py::test_frozen_stay[cpu-float32]" --hypothesis-seed=0
program   .frostproof/test_freeze.test_frozen_stay.cpu-float32.py"""
PROGRAM = f"""\
# {EVIL}
import torch
from torch import nn

net = nn.Sequential(nn.Linear(1, 1)).to("cpu", torch.float32)
{"optimizer = torch.optim.SGD(net.parameters(), lr=0.1)  # a line as long as it may be" * 4}
"""


def record(laws: int, broken: int, versions: int = 1, cells: int = 3) -> Record:
    """A made-up record with so many broken cells."""
    run = TrainingRun(MLP(3, (Layer(2), Layer(1, skip=0))), ("layers.0.linear.weight",), Cuts((1,)))
    network = network_of([run], {"layers.0.linear.weight": "moved"})
    entries: List[Entry] = []
    dtypes = ("float32", "float64", "bfloat16", "float16", "complex64", "int8", "bool")
    for version in range(versions):
        for law in range(laws):
            for cell in range(cells):
                bad = len(entries) < broken
                entries.append(
                    Entry(
                        test=f"test_file{law // 10}.py::test_law_{law}",
                        law=f"F{law}",
                        cell=f"cpu-{dtypes[cell % len(dtypes)]}",
                        device=f"cuda:{cell // len(dtypes)}" if cell >= len(dtypes) else "cpu",
                        dtype=dtypes[cell % len(dtypes)],
                        torch=f"2.{version}.0",
                        outcome="broken" if bad else "known" if law == 1 else "held",
                        sentence=f"F{law}: what must hold.",
                        examples=60,
                        seconds=0.31,
                        message=MESSAGE.format(law) if bad else KNOWN if law == 1 else "",
                        reproducer=PROGRAM if bad else "",
                        network=network if bad else None,
                    )
                )
    runs = [
        Run(
            name=f"record{version}.xml",
            torch=f"2.{version}.0",
            date="2026-11-27 04:07 UTC",
            machine="Linux x86_64, 2 cores",
            seed="3",
            command=f"pytest -k {EVIL}",
        )
        for version in range(versions)
    ]
    return Record(entries, runs)


def junit(path: Path, *, properties: Any = (("examples", "3"),)) -> Path:
    inner = "".join(f"<property name={quoteattr(k)} value={quoteattr(v)}/>" for k, v in properties)
    path.write_text(
        f'<testsuites><testsuite name="pytest"><testcase classname="properties.test_x" '
        f'name="test_a[cpu-float32]" time="0.5"><properties>{inner}</properties>'
        f'<failure message="bad">{escape(EVIL)}</failure></testcase></testsuite></testsuites>'
    )
    return path
