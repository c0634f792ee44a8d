"""A run of the user's recipes: what pytest's hooks do for their laws, without Hypothesis."""

import os
import platform
import shlex
import time
from pathlib import Path
from typing import Any, Generator, List

import pytest
import torch

from frostproof.properties.harness.core import law_files
from frostproof.properties.harness.core.checks import Tally
from frostproof.properties.harness.core.options import value
from frostproof.properties.harness.core.shown import shown
from frostproof.properties.harness.own import options as own
from frostproof.properties.harness.session.state import KEY, Session, of


def is_recipes(item: Any) -> bool:
    """Whether a test is a law of a user's recipe."""
    return own.FIXTURES["recipe"] in getattr(item, "fixturenames", ())


def begin(config: pytest.Config, laws: Path) -> None:
    """Start a run of recipes alone. Raises UsageError for a wrong option.

    laws: the folder of the laws.
    """
    session = config.stash[KEY] = Session(laws)
    session.own = own.configure(config, laws, value(config, "device"))
    if value(config, "report") or os.environ.get("GITHUB_STEP_SUMMARY"):
        from frostproof.properties.harness.session import reporting as report

        report.configure(config)
    config.pluginmanager.register(law_files.LawFiles(laws), "frostproof-law-files")
    config.pluginmanager.register(Hooks(), "frostproof-recipes")
    config.pluginmanager.register(Header(), "frostproof-header")
    hypothesis = config.pluginmanager.get_plugin("hypothesispytest")
    if hypothesis is not None and law_files.alone(config):
        # nothing draws, but its summary imports all of Hypothesis: 0.2 s and more
        config.pluginmanager.unregister(hypothesis)


def _sentence(item: Any) -> str:
    return " ".join((item.obj.__doc__ or "").split())


def _rerun(item: pytest.Item) -> str:
    config = item.config
    text = getattr(item, "callspec", None) and item.callspec.params[own.FIXTURES["recipe"]]  # type: ignore[attr-defined]
    texts = [text] if text else value(config, "recipe")
    words = ["pytest", *own.plugins(config), *(shlex.quote(f"--recipe={text}") for text in texts)]
    if value(config, "steps") != 6:
        words.append(f"--steps={value(config, 'steps')}")
    return " ".join(words)


def write_notes(terminal: Any, brought: own.Own) -> None:
    """What a user should know of the own models and recipes, where any were verified."""
    notes = brought.notes()
    if notes:
        terminal.write_sep("-", "frostproof: your code")
        for note in notes:
            terminal.write_line(note)


class Hooks:
    """pytest's hooks for the laws of recipes, beside those of a run of other laws, if there is one."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Each law runs on each recipe."""
        of(metafunc.config).own.parametrize(metafunc, "recipe")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Note for the record what was checked."""
        if not is_recipes(item):
            return (yield)
        before, started = Tally.assertions, time.monotonic()
        mark = item.get_closest_marker("law")
        try:
            return (yield)
        finally:
            item.user_properties += [
                ("examples", str(int(Tally.assertions > before))),
                ("seconds", f"{time.monotonic() - started:.3f}"),
                ("torch", str(torch.__version__)),
                ("law", mark.args[0] if mark else ""),
                ("sentence", _sentence(item)),
            ]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: Any) -> Generator[None, Any, Any]:
        """A broken law is shown by its message."""
        made = yield
        if not (made.when == "call" and made.failed and is_recipes(item)):
            return made
        problem = call.excinfo.value
        if not isinstance(problem, AssertionError):
            return made
        parts = (
            ("expected", _sentence(item)),
            ("seen", str(problem)),
            ("on", f"torch {torch.__version__}, Python {platform.python_version()}"),
            ("rerun", _rerun(item)),
        )
        lines = [
            f"{'' if number else label:<10}{line}"
            for label, text in parts
            for number, line in enumerate(text.split("\n"))
        ]
        text = "\n".join(lines)
        for owner in (item, made):
            owner.user_properties.append(("message", text))
        made.longrepr = shown(text, problem, made)
        return made


class Header:
    """What a run of recipes alone says at its beginning and end."""

    def pytest_report_header(self) -> List[str]:
        """What is verified."""
        return [f"frostproof: torch {torch.__version__}, Python {platform.python_version()}"]

    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        """Notes on the user's code."""
        write_notes(terminalreporter, of(config).own)
