"""--report FILE.html and GitHub's step summary: written by the run itself at its end."""

import os
from pathlib import Path
from typing import Any, Optional

import pytest

from properties.harness.report import markdown, page
from properties.harness.report.record import Record, entry_of, merged


def add(group: Any) -> None:
    """Declare the option."""
    group.addoption(
        "--report",
        metavar="FILE.html",
        help="write one self-contained page of the run: laws by torch, device and dtype, what broke",
    )


class Reporter:
    """Collects the laws' outcomes in the process that reports, and writes them at the end."""

    def __init__(self, path: Optional[Path], summary: Optional[str]) -> None:
        self.path = path
        self.summary = summary
        self.record = Record()
        self.problem = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        """One test's report, as it comes in."""
        properties = dict(report.user_properties)
        if "examples" not in properties or (report.when != "call" and not report.failed):
            return
        if report.failed:
            outcome = "broken"
        elif report.skipped:
            outcome = "known" if hasattr(report, "wasxfail") else "skipped"
        else:
            outcome = "held"
        text = getattr(report, "wasxfail", "") or str(report.longrepr or "")
        entry = entry_of(properties, report.nodeid, outcome, report.duration, text)
        self.record.entries.append(entry)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: Any) -> None:
        """Write; a page that cannot be written makes a usage error of a run that held."""
        self.record.entries = merged(self.record.entries)
        try:
            if self.path is not None:
                self.path.write_text(page.render(self.record), encoding="utf-8")
        except OSError as problem:
            self.problem = f"--report {self.path}: cannot be written: {problem.strerror or problem}"
        try:
            if self.summary and self.record.entries:
                with open(self.summary, "a", encoding="utf-8") as file:
                    file.write(markdown.render(self.record))
        except OSError as problem:
            self.problem = f"GITHUB_STEP_SUMMARY {self.summary}: {problem.strerror or problem}"
        if self.problem and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say where the page is."""
        if self.problem:
            terminalreporter.write_line(self.problem, red=True)
        elif self.path is not None:
            terminalreporter.write_line(f"report: {self.path}")


def configure(config: pytest.Config) -> None:
    """Check --report and start collecting; nothing in xdist's workers.

    Raises pytest.UsageError for a folder that does not exist, or where Jinja2 is missing.
    """
    if hasattr(config, "workerinput"):
        return
    asked, summary = config.getoption("--report"), os.environ.get("GITHUB_STEP_SUMMARY")
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
