"""A run of laws: what pytest's hooks do in it. ``begin`` starts it."""

import hashlib
import platform
from pathlib import Path
from typing import Any, Generator, List, Optional

import hypothesis
import pytest
import torch

from frostproof.properties.harness.core import law_files, own_warnings, shards
from frostproof.properties.harness.core.options import LAWS, value
from frostproof.properties.harness.defects import known
from frostproof.properties.harness.machine import describe, memory
from frostproof.properties.harness.own import options as own
from frostproof.properties.harness.session import (
    axes,
    cells,
    database,
    evidence,
    explanation,
    order,
    profiles,
    recipes,
    summary,
)
from frostproof.properties.harness.session import reporting as report
from frostproof.properties.harness.session import workers as machine
from frostproof.properties.harness.session.state import KEY, Session, of


def begin(config: pytest.Config, laws: Path) -> None:
    """Start a run of laws. Raises UsageError for a wrong option.

    laws: their folder.
    """
    profiles.register()
    profile = profiles.chosen(config)
    evidence.Current.plugins = own.plugins(config)[1::2]
    seed = profiles.seed(config, profile)
    shared = getattr(config, "workerinput", {})
    where = value(config, "example-database")
    examples = database.choose(where, config.invocation_params.dir, shared.get("frostproof_database"))
    profiles.load(profile, examples.database, forced=bool(where))
    workers = len(config.getoption("tx", None) or ()) if config.getoption("dist", "no") != "no" else 1
    split = shared.get("frostproof_shards", shards.count(value(config, "shards"), workers))
    report.configure(config)
    devices = axes.chosen_devices(value(config, "device"))
    dtypes = axes.chosen_dtypes(value(config, "dtype"))
    session = config.stash[KEY] = Session(laws, profile, seed, split, devices, dtypes)
    session.examples = examples
    torch.set_num_threads(1)  # more threads fight the other workers over small nets
    known.configure(value(config, "known-defects"), config.invocation_params.dir)
    if value(config, LAWS) and config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = [str(laws)]
    session.own = own.configure(config, laws, devices if value(config, "device") else [])
    session.machine = machine.configure(config, devices)
    config.pluginmanager.register(law_files.LawFiles(laws), "frostproof-law-files")
    config.pluginmanager.register(Hooks(laws), "frostproof-session")
    config.pluginmanager.register(recipes.Hooks(), "frostproof-recipes")


def _device(item: Any) -> Optional[str]:
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return parameters.get("device")  # type: ignore[no-any-return]


class Hooks:
    """pytest's hooks in a run of laws."""

    def __init__(self, laws: Path) -> None:
        self.own = laws / "own"
        self.selftest = laws / "selftest"

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """What a worker of xdist shares with the controller."""
        session = of(node.config)
        node.workerinput["frostproof_seed"] = session.seed
        node.workerinput["frostproof_shards"] = session.shards
        node.workerinput["frostproof_database"] = session.examples.warning
        node.workerinput["frostproof_alone"] = law_files.alone(node.config)

    def pytest_ignore_collect(self, collection_path: Path, config: pytest.Config) -> Optional[bool]:
        """The harness's own tests, and the laws of a user's code, run only where they are asked for."""
        if collection_path.parent == self.own and collection_path.name in own.FILES.values():
            chosen = [own.FILES[kind] for kind in own.asked(config)]
            return None if collection_path.name in chosen else True
        if collection_path != self.selftest:
            return None
        named = [
            Path(config.invocation_params.dir, arg.split("::")[0]).resolve() for arg in config.args
        ]
        asked = any(path == self.selftest or self.selftest in path.parents for path in named)
        return None if asked else True

    def pytest_pycollect_makeitem(self, collector: Any, name: str, obj: Any) -> Optional[List[Any]]:
        """A law without a device is not collected: nothing of it is left to be skipped."""
        marked = getattr(obj, "pytestmark", None)
        marks = [mark for mark in marked if mark.name == "law"] if isinstance(marked, list) else []
        return [] if marks and not cells.devices_of(marks[0], collector.config) else None

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """A law runs over its devices and dtypes."""
        mark = metafunc.definition.get_closest_marker("law")
        if mark is not None:
            cells.parametrize(metafunc, mark)
            for kind in ("model", "optimizer"):
                of(metafunc.config).own.parametrize(metafunc, kind)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: List[pytest.Item]) -> None:
        """Known defects, and the laws' order."""
        chosen = any(value(config, name) for name in ("device", "dtype"))
        known.mark(items, whole=not chosen and not any("::" in arg for arg in config.args))
        items.sort(key=order.place)  # stable: otherwise laws keep their order

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """In laws and self-tests warnings are errors, where neither user nor test says otherwise."""
        ours = item.get_closest_marker("law") or self.selftest in item.path.parents
        if not ours or recipes.is_recipes(item) or item.get_closest_marker("filterwarnings"):
            return (yield from self._run(item))
        with own_warnings.judged(item.config.getoption("pythonwarnings") or ()):
            return (yield from self._run(item))

    def _run(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Seed the law from the run and its own id; count what it really checked."""
        if item.get_closest_marker("law") is None or recipes.is_recipes(item):
            return (yield)
        session = of(item.config)
        digest = hashlib.sha256(f"{session.seed}/{item.nodeid}".encode()).digest()
        with shards.settings_of(item), session.machine.law(item, _device(item)):
            if describe.asked():
                describe.prepare(item)
                return (yield)
            try:
                with evidence.collecting(item, int.from_bytes(digest[:8], "big")):
                    evidence.need_offered(item)
                    return (yield)
            finally:
                memory.give_back()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: Any) -> Generator[None, Any, Any]:
        """A broken law is shown by its message and a program in plain torch."""
        with known.told_briefly(item, call):
            made = yield
        broken = made.when == "call" and made.failed and item.get_closest_marker("law")
        if broken and not recipes.is_recipes(item):
            explanation.explain(item, call, made)
            of(item.config).machine.explain(item, call, made)
            known.holds_again(made)
        return made

    def pytest_report_header(self, config: pytest.Config) -> List[str]:
        """What is verified, and how to repeat it."""
        session = of(config)
        split = f"; {session.shards} shards" if session.shards > 1 else ""
        cuda = f", CUDA {torch.version.cuda}" if torch.version.cuda else ""
        return [
            f"frostproof: torch {torch.__version__}{cuda}, Hypothesis {hypothesis.__version__}, "
            f"Python {platform.python_version()}",
            f"frostproof: devices {', '.join(session.devices)}; profile {session.profile}; "
            f"--hypothesis-seed={session.seed}{split}",
        ]

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """What no shard can say alone decides too."""
        terminal = session.config.pluginmanager.get_plugin("terminalreporter")
        if hasattr(session.config, "workerinput") or terminal is None:
            return
        if session.exitstatus == pytest.ExitCode.OK and summary.unsound(terminal):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        dtypes = of(session.config).dtypes
        if session.exitstatus == pytest.ExitCode.OK and summary.nothing_ran(terminal, dtypes):
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED

    def pytest_report_teststatus(self, report: Any) -> Any:
        """What this torch does not offer has a word and a letter of its own."""
        return summary.status(report)

    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        """The table of laws, and notes on the user's code."""
        if not hasattr(config, "workerinput"):
            summary.write(terminalreporter, of(config).dtypes)
            recipes.write_notes(terminalreporter, of(config).own)
