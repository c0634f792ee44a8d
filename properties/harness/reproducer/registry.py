"""Which template writes the program of which law."""

import importlib
import pkgutil
from typing import Any, Callable, Dict, Iterable, List, Optional

from frostproof.properties.harness.reproducer.case import Case
from frostproof.properties.harness.reproducer.script import Raised, Script, outcome

Template = Callable[[Case, Script], None]
TEMPLATES: Dict[str, List[Template]] = {}


def reproduces(test: str) -> Callable[[Template], Template]:
    """Register a function as template of a law, "test_file.py::test_name".

    A law may have several: the first whose program shows the fault is taken.
    """

    def register(template: Template) -> Template:
        TEMPLATES.setdefault(test, []).append(template)
        return template

    return register


def templates() -> Dict[str, List[Template]]:
    """Every template, by law."""
    package = importlib.import_module("frostproof.properties.harness.reproducer.laws")
    for found in sorted(module.name for module in pkgutil.iter_modules(package.__path__)):
        importlib.import_module(f"frostproof.properties.harness.reproducer.laws.{found}")
    return TEMPLATES


def scripts(case: Case) -> Iterable[Script]:
    """The programs of a case, simplest first."""
    for template in templates()[case.test]:
        script = Script(case.headline())
        script.header = [f'device = "{case.device}"', f"dtype = {case.dtype}"]
        template(case, script)
        yield script


class Program:
    """A program, and how it ended when it was run here (None: it did not show the fault).

    run: the training run that it shows, where it is one.
    """

    def __init__(self, text: str, ends: Optional[str], run: Any = None) -> None:
        self.text = text
        self.ends = ends
        self.run = run


def program(case: Case) -> Program:
    """The shortest program that shows what broke the law."""
    text, run = "", None
    for script in scripts(case):
        text, run = script.text(), script.run
        ends = outcome(text)
        if ends is not None:
            script.hooked = isinstance(ends, Raised)
            return Program(script.shortened(outcome), ends, run)
    return Program(text, None, run)
