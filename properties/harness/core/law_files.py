"""How files of laws are collected: imported by their name in the package, wherever they lie.

A user's repository may have a package ``properties`` of its own, pytest settings under which
our functions would not be found, or a virtual environment that pytest does not enter.
"""

import importlib
from pathlib import Path
from typing import Any, Generator, List, Optional

import pytest


class LawFile(pytest.Module):
    """A file of laws."""

    laws: Path

    @classmethod
    def of(cls, parent: Any, laws: Path, path: Path, **more: Any) -> "LawFile":
        """The collector of a file below the laws' folder."""
        file: LawFile = cls.from_parent(parent, path=path, **more)
        file.laws = laws
        return file

    def _getobj(self) -> Any:
        below = self.path.relative_to(self.laws).with_suffix("").parts
        return importlib.import_module(".".join(("frostproof", "properties", *below)))

    def funcnamefilter(self, name: str) -> bool:
        """Ours are called test_..., whatever the user's settings say."""
        return name.startswith("test_")


class LawFiles:
    """Collects the laws that are found by path."""

    def __init__(self, laws: Path) -> None:
        self.laws = laws

    def pytest_pycollect_makemodule(self, module_path: Path, parent: Any) -> Optional[LawFile]:
        """All but the self-tests, which are ordinary tests."""
        inside = self.laws in module_path.parents and self.laws / "selftest" not in module_path.parents
        return LawFile.of(parent, self.laws, module_path) if inside else None


def _files(session: pytest.Session, laws: Path, names: List[str]) -> List[LawFile]:
    return [
        LawFile.of(session, laws, laws / "own" / name, nodeid=f"properties/own/{name}")
        for name in names
    ]


class OwnLawsAlone:
    """Collects some files of ``properties/own`` and nothing else."""

    def __init__(self, laws: Path, names: List[str]) -> None:
        self.laws = laws
        self.names = names

    @pytest.hookimpl(tryfirst=True)
    def pytest_make_collect_report(self, collector: Any) -> Optional[pytest.CollectReport]:
        """In place of what the session would find."""
        if not isinstance(collector, pytest.Session):
            return None
        files: List[Any] = list(_files(collector, self.laws, self.names))
        return pytest.CollectReport(collector.nodeid, "passed", None, files)


class OwnLawsBeside:
    """Collects some files of ``properties/own`` beside the tests that the user named."""

    def __init__(self, laws: Path, names: List[str]) -> None:
        self.laws = laws
        self.names = names

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: Any) -> Generator[None, Any, Any]:
        """After what the session found."""
        report = yield
        if isinstance(collector, pytest.Session) and report.passed:
            report.result = [*report.result, *_files(collector, self.laws, self.names)]
        return report


def collect_own(config: pytest.Config, laws: Path, names: List[str]) -> None:
    """Let the run be of these files of ``properties/own``, and of tests that are named besides."""
    plugin: Any = OwnLawsAlone(laws, names)
    if config.args_source is pytest.Config.ArgsSource.ARGS:
        here = config.invocation_params.dir
        given = {Path(here, argument.split("::")[0]).resolve() for argument in config.args}
        names = [name for name in names if not given & {laws / "own" / name, laws / "own"}]
        plugin = OwnLawsBeside(laws, names)
    elif not hasattr(config, "workerinput"):
        config.args = [str(config.invocation_params.dir)]
    shared = getattr(config, "workerinput", {})
    if shared.get("frostproof_alone"):  # a worker gets the controller's arguments as if given
        plugin = OwnLawsAlone(laws, names)
    config.pluginmanager.register(plugin, "frostproof-own-laws")


def alone(config: pytest.Config) -> bool:
    """Whether nothing but own laws is collected."""
    return isinstance(config.pluginmanager.get_plugin("frostproof-own-laws"), OwnLawsAlone)
