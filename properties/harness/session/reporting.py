"""--report FILE.html and GitHub's step summary: written by the run itself at its end."""

import datetime
import os
import platform
import shlex
from pathlib import Path
from typing import Any, List, Optional

import hypothesis
import pytest

from frostproof.properties.harness.core.options import value
from frostproof.properties.harness.report import failures, markdown, page
from frostproof.properties.harness.report.record import (
    FACTS,
    Record,
    Run,
    completed,
    entry_of,
    offered,
    written,
)
from frostproof.properties.harness.session.state import of


def run_of(config: pytest.Config) -> Run:
    """What this run is: when, where, with which seed, asked for how."""
    cores = os.cpu_count() or 1
    system = f"{platform.system()} {platform.machine()}".strip()
    session = of(config)
    devices = f", devices {', '.join(session.devices)}" if session.devices else ""
    return Run(
        date=f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC",
        machine=f"{platform.node()}: {system}, {cores} cores{devices}; "
        f"Python {platform.python_version()}, Hypothesis {hypothesis.__version__}",
        seed=f"{session.seed}, profile {session.profile}",
        command=shlex.join(["pytest", *map(str, config.invocation_params.args)]),
    )


class Facts:
    """Writes into junit's record what the run is."""

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Before the first test: a run that is cut off has them too."""
        for plugin in session.config.pluginmanager.get_plugins():
            if hasattr(plugin, "add_global_property"):
                run = run_of(session.config)
                for name in FACTS:
                    plugin.add_global_property(name, getattr(run, name))


class Reporter:
    """Collects the laws' outcomes in the process that reports, and writes them at the end."""

    def __init__(self, path: Optional[Path], summary: Optional[str]) -> None:
        self.path = path
        self.summary = summary
        self.record = Record()
        self.problems: List[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        """One test's report, as it comes in."""
        properties = dict(report.user_properties)
        if report.when != "call" and not report.failed:
            return
        if "examples" not in properties and (not report.failed or "selftest/" in report.nodeid):
            return
        if report.failed:
            outcome = "broken"
        elif report.skipped:
            outcome = "known" if hasattr(report, "wasxfail") else offered("skipped", properties)
        else:
            outcome = "held"
        said = report.longrepr
        text = getattr(report, "wasxfail", "") or str(
            (said[2] if isinstance(said, tuple) else said) or ""
        )
        entry = entry_of(properties, report.nodeid, outcome, report.duration, text)
        self.record.entries.append(entry)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: Any) -> None:
        """Write; a page that cannot be written makes a usage error of a run that held.

        A summary that cannot be written is only told: nobody asked for it by an option.
        """
        run = run_of(session.config)
        run.torch = completed(self.record.entries)
        self.record.runs = [run]
        if self.path is not None:
            problem = written(self.path, page.render(self.record), "w")
            if problem:
                self.problems.append(f"--report {self.path}: {problem}")
                if session.exitstatus == pytest.ExitCode.OK:
                    session.exitstatus = pytest.ExitCode.USAGE_ERROR
        if self.summary and self.record.entries:
            problem = written(Path(self.summary), markdown.render(self.record), "a")
            if problem:
                self.problems.append(f"GITHUB_STEP_SUMMARY {self.summary}: {problem}")

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say where the page is, and what could not be written."""
        for problem in self.problems:
            terminalreporter.write_line(problem, red=True)
        if self.path is not None and not any(text.startswith("--report") for text in self.problems):
            terminalreporter.write_line(f"report: {self.path}")


def configure(config: pytest.Config) -> None:
    """Check --report and start collecting; nothing in xdist's workers.

    Raises pytest.UsageError for a folder that does not exist, or where Jinja2 is missing.
    """
    if hasattr(config, "workerinput"):
        return
    config.pluginmanager.register(failures.Grouping(), "frostproof-failures")
    config.pluginmanager.register(Facts(), "frostproof-facts")
    asked, summary = value(config, "report"), os.environ.get("GITHUB_STEP_SUMMARY")
    if not asked and not summary:
        return
    path = Path(config.invocation_params.dir, asked) if asked else None
    if path is not None:
        if path.is_dir() or not path.parent.is_dir():
            raise pytest.UsageError(f"--report {asked}: give a file in a folder that exists")
        try:
            page.environment()
        except page.MissingLibrary as problem:
            raise pytest.UsageError(f"--report: {problem}") from None
    config.pluginmanager.register(Reporter(path, summary), "frostproof-report")
