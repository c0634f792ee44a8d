"""The tutorial and README examples are run: each mistake is told as printed, each fix is right."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
import torch
from torch import nn

from frostproof.properties.harness.own.examination import examine
from frostproof.properties.harness.own.factory import load
from frostproof.properties.harness.own.findings import told
from frostproof.properties.harness.own.recipe import build
from frostproof.properties.selftest import ROOT

TUTORIAL = ROOT / "properties" / "own" / "README.md"
BLOCK = re.compile(r"```(python|text|fix)\n(.*?)```", re.DOTALL)


def blocks() -> List[Tuple[str, str]]:
    """(kind, text) of the tutorial's blocks, in order."""
    return BLOCK.findall(TUTORIAL.read_text())


def lessons() -> Dict[str, Tuple[str, str, str]]:
    """Program, printed output and fix of each worked example, by the name of its file."""
    found, rest = {}, blocks()
    for (kind, program), (second, output), (third, fix) in zip(rest, rest[1:], rest[2:]):
        if (kind, second, third) == ("python", "text", "fix"):
            found[program.split("\n")[0][2:]] = program, output, fix
    return found


def corrected(program: str, fix: str) -> str:
    """The program with the fix: lines marked > follow the unmarked one, or replace the likest."""
    lines = program.split("\n")
    place = None
    for line in filter(None, fix.split("\n")):
        if not line.startswith(">"):
            place = lines.index(line)
            continue
        new = line.replace(">", " ", 1)
        if place is not None:
            lines.insert(place + 1, new)
        else:
            target = new.split("=")[0].strip()
            index = next(i for i, old in enumerate(lines) if old.strip().startswith(f"{target} ="))
            lines[index] = new
    return "\n".join(lines)


def words(text: str) -> List[str]:
    """Lines, without the numbers that differ between builds of torch."""
    return [re.sub(r"\d+\.\d+", "N", line) for line in text.strip("\n").split("\n")]


@pytest.mark.parametrize("name", sorted(lessons()))
def test_a_mistake_is_told_as_the_tutorial_prints_it(name: str, tmp_path: Path) -> None:
    program, output, _ = lessons()[name]
    (tmp_path / name).write_text(program)
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            f"--recipe={tmp_path / name}:factory",
        ],
        cwd=str(ROOT),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 1, result.stdout + result.stderr
    printed = words(result.stdout)
    start = printed.index(words(output)[0])
    assert printed[start : start + len(words(output))] == words(output), result.stdout


@pytest.mark.parametrize("name", sorted(lessons()))
def test_the_fix_in_the_tutorial_is_right(name: str, tmp_path: Path) -> None:
    program, _, fix = lessons()[name]
    (tmp_path / name).write_text(corrected(program, fix))
    recipe = build("--recipe", name, load("--recipe", f"{name}:factory", tmp_path))
    found = examine(recipe).findings
    assert not found, told(found)


def run_tests(program: str, **known: Any) -> int:
    """Run a program and the tests in it; how many there were."""
    space: Dict[str, Any] = dict(known)
    exec(compile(program, "an example", "exec"), space)
    tests = [value for key, value in space.items() if key.startswith("test_")]
    for test in tests:
        test()
    return len(tests)


def test_the_assertions_in_the_tutorial() -> None:
    (program,) = (text for kind, text in blocks() if kind == "python" and "test_mine.py" in text)
    assert run_tests(program) == 2


def readme_block(word: str) -> str:
    """The indented block of the README that holds a word, without its indentation."""
    text = (ROOT / "README.md").read_text()
    found = [b for b in re.findall(r"(?:^    .*\n|^\n+(?=    ))+", text, re.MULTILINE) if word in b]
    return "\n".join(line[4:] for line in found[0].split("\n"))


def test_the_page_of_laws_has_every_law() -> None:
    page = (ROOT / "properties" / "laws.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:4] for line in page.splitlines() if line.startswith("| ")]
    known = set()
    for idents, _, files in rows:
        for first, last in re.findall(r"([A-Z]\d)(?:-([A-Z]\d))?", idents):
            numbers = range(int(first[1]), int((last or first)[1]) + 1)
            known |= {
                (f"{first[0]}{n}", file) for n in numbers for file in re.findall(r"\((.*?)\)", files)
            }
    for path in sorted((ROOT / "properties").glob("test_*.py")):
        for idents in re.findall(r'@law\(\s*"([A-Z0-9 ]+)"', path.read_text(encoding="utf-8")):
            first, *others = idents.split()
            assert (first, path.name) in known, (path.name, idents)
            assert {*others} <= {ident for ident, _ in known}, (path.name, idents)


def test_the_assertions_in_the_readme() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential()
            self.encoder.add_module("first", nn.Linear(4, 4))
            self.encoder.add_module("norm", nn.LayerNorm(4))
            self.head = nn.Linear(4, 2)

        def forward(self, inputs: torch.Tensor) -> Any:
            return self.head(self.encoder(inputs))

    def train_one_epoch(model: Any) -> None:
        optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.1)
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()

    model = Model()
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    run_tests(
        readme_block("assert_frozen(model.encoder)"), model=model, train_one_epoch=train_one_epoch
    )


def test_the_masks_in_the_readme() -> None:
    assert run_tests(readme_block("@given(mask=freeze_masks(model))")) == 1
