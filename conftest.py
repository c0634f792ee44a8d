"""The command line of the harness: options, profiles, axes, seeds, header and summary.

It only wires; what is tried lives in ``strategies``, what must hold in ``properties``.
"""

import hashlib
import importlib.util
import os
import platform
import random
import re
import sys
from pathlib import Path
from typing import Any, Dict, Generator, List, Optional

ROOT = Path(__file__).parent
# a checkout runs without being installed, and so do the processes that it starts
PACKAGE = str(ROOT / "properties" / "package")
sys.path.insert(0, PACKAGE)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (PACKAGE, os.environ.get("PYTHONPATH", ""))))

from frostproof.properties.harness.machine import memory  # noqa: E402

memory.limit_caches()

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import HealthCheck, Phase, settings  # noqa: E402

from frostproof.properties.harness.core import evidence, own_warnings  # noqa: E402
from frostproof.properties.harness.core.law import law_of  # noqa: E402
from frostproof.properties.harness.machine import describe  # noqa: E402
from frostproof.properties.harness.machine import plugin as machine  # noqa: E402
from frostproof.properties.harness.own import options as own  # noqa: E402
from frostproof.properties.harness.report import plugin as report  # noqa: E402
from frostproof.properties.harness.reproducer import report as explanation  # noqa: E402
from frostproof.properties.harness.running import known_defects  # noqa: E402
from frostproof.properties.harness.session import axes, database, shards, summary  # noqa: E402

collect_ignore: List[str] = []

COMMON: Dict[str, Any] = {
    "deadline": None,  # first calls import a lot: a deadline makes healthy runs flaky
    "derandomize": False,  # Hypothesis's own default where CI is set: the same examples every night
    "print_blob": True,
    "report_multiple_bugs": False,  # one smallest example says more than several
    "suppress_health_check": [HealthCheck.too_slow],  # shared machines pause
}
settings.register_profile(
    "quick", max_examples=10, phases=[Phase.explicit, Phase.generate, Phase.shrink], **COMMON
)
settings.register_profile("default", max_examples=60, **COMMON)
settings.register_profile("ci", max_examples=60, **{**COMMON, "derandomize": True, "database": None})
settings.register_profile("nightly", max_examples=2000, **COMMON)
OWN = ROOT / "properties" / "own"
PROFILES = ("quick", "default", "ci", "nightly")
# The order of the laws, by the beginnings of "ID NAME" and whether they run in float32 (or
# without a dtype): the modes that all laws use, single operations, then what pins every value,
# so that a broken torch is seen soon and by the law that names it; then what sees a fault of
# one dtype; what is dear, and seldom the first to see, last.
ORDER = (
    ("A|K1 test_(modes|no_grad)", True),
    ("D", True),
    ("C[124]", True),
    ("F3", True),
    ("F8", True),
    ("F2 F3 test_layers", True),
    (r"D1.* test_(shares|writes)|C1.* test_(copies|layout)", False),
    (r"F3( F\d)? test|.* test_rule_on_given", False),
    ("C|F1|F2|K", True),
    ("F[5679]|L", True),
    ("F5", False),
    ("X2", True),
    ("D|C", False),
    ("X", True),
    ("F3", False),
    ("", True),
    ("", False),
)
ENUMERATED_DEPTH = {"quick": 3, "nightly": 6}  # all others: 4


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("frostproof")
    group.addoption(
        "--device",
        action="append",
        default=[],
        metavar="DEVICE",
        help="auto (default: cpu and every available accelerator), cpu, cuda, cuda:1, mps, ...; "
        "repeatable",
    )
    group.addoption(
        "--dtype",
        action="append",
        default=[],
        metavar="DTYPE",
        help="run only the laws' tests of this dtype, such as float32; repeatable",
    )
    group.addoption(
        "--reproducers",
        metavar="DIR",
        help="where the programs that show a broken law are written (default: .frostproof); "
        "with =, or pytest takes an existing folder for one of tests",
    )
    database.add(group)
    shards.add(group)
    machine.add(group)
    own.add(group)
    report.add(group)


def pytest_configure(config: pytest.Config) -> None:
    profile = config.getoption("--hypothesis-profile") or "default"
    if profile not in PROFILES:
        raise pytest.UsageError(
            f"--hypothesis-profile {profile}: unknown; use one of {', '.join(PROFILES)}"
        )
    config.frostproof_profile = profile  # type: ignore[attr-defined]
    plugins = config.getoption("plugins") or []
    evidence.Current.plugins = [
        name for name in plugins if importlib.util.find_spec(name.split(".")[0])
    ]
    config.frostproof_seed = _session_seed(config, profile)  # type: ignore[attr-defined]
    shared = getattr(config, "workerinput", {})
    where = config.getoption("--example-database")
    examples = database.choose(where, config.invocation_params.dir, shared.get("frostproof_database"))
    config.frostproof_examples = examples  # type: ignore[attr-defined]
    if where or not settings.get_profile(profile).derandomize:
        kept = settings(settings.get_profile(profile), derandomize=False, database=examples.database)
        settings.register_profile(profile, kept)
    settings.load_profile(profile)
    workers = len(config.getoption("tx", None) or ()) if config.getoption("dist", "no") != "no" else 1
    asked = shards.count(config.getoption("--shards"), workers)
    config.frostproof_shards = shared.get("frostproof_shards", asked)  # type: ignore[attr-defined]
    report.configure(config)
    devices = axes.chosen_devices(config.getoption("--device"))
    config.frostproof_devices = devices  # type: ignore[attr-defined]
    asked = config.getoption("--dtype")
    config.frostproof_dtypes = axes.chosen_dtypes(asked)  # type: ignore[attr-defined]
    torch.set_num_threads(1)  # more threads fight the other workers over small nets
    known_defects.check_table()
    named = devices if config.getoption("--device") else []
    config.frostproof_own = own.configure(config, OWN, named)  # type: ignore[attr-defined]
    config.frostproof_machine = machine.configure(config, devices)  # type: ignore[attr-defined]


def _session_seed(config: pytest.Config, profile: str) -> str:
    """The run's seed: given, shared by the controller, fixed by the profile, or fresh."""
    given = config.getoption("--hypothesis-seed")
    if given is not None:
        return str(given)
    shared: Optional[Dict[str, Any]] = getattr(config, "workerinput", None)
    if shared is not None:
        return str(shared["frostproof_seed"])
    if settings.get_profile(profile).derandomize:
        return "0"
    return str(random.SystemRandom().randrange(2**32))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["frostproof_seed"] = node.config.frostproof_seed
    node.workerinput["frostproof_shards"] = node.config.frostproof_shards
    node.workerinput["frostproof_database"] = node.config.frostproof_examples.warning


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> Optional[bool]:
    """The harness's own tests, and the laws of a user's code, run only where they are asked for."""
    if collection_path.parent == OWN and collection_path.name in own.FILES.values():
        return None if collection_path.name in [own.FILES[kind] for kind in own.asked(config)] else True
    selftest = ROOT / "properties" / "selftest"
    if collection_path != selftest:
        return None
    named = [Path(config.invocation_params.dir, arg.split("::")[0]).resolve() for arg in config.args]
    return None if any(path == selftest or selftest in path.parents for path in named) else True


def _devices_of(mark: pytest.Mark, config: pytest.Config) -> List[str]:
    """The devices of a law; one that compares with the CPU needs another."""
    devices: List[str] = config.frostproof_devices  # type: ignore[attr-defined]
    return [name for name in devices if name != "cpu"] if mark.kwargs["beside_cpu"] else devices


def pytest_pycollect_makeitem(collector: Any, name: str, obj: Any) -> Optional[List[Any]]:
    """A law without a device is not collected: nothing of it is left to be skipped."""
    marked = getattr(obj, "pytestmark", None)
    marks = [mark for mark in marked if mark.name == "law"] if isinstance(marked, list) else []
    return [] if marks and not _devices_of(marks[0], collector.config) else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Fill in ``device`` and ``dtype``, and put both in the id: ``[cpu-float32]``."""
    mark = metafunc.definition.get_closest_marker("law")
    if mark is None:
        return
    config = metafunc.config
    if "device" in metafunc.fixturenames:
        _cells(metafunc, mark)
    shards.parametrize(metafunc, config.frostproof_shards)  # type: ignore[attr-defined]


def _cells(metafunc: pytest.Metafunc, mark: pytest.Mark) -> None:
    config = metafunc.config
    asked = config.frostproof_dtypes  # type: ignore[attr-defined]
    thorough = config.frostproof_profile == "nightly"  # type: ignore[attr-defined]
    devices = _devices_of(mark, config)
    cells = [
        (device, name)
        for device in devices
        for name in axes.dtypes_of(mark.kwargs["dtypes"], device, asked, thorough)
    ]
    if "dtype" in metafunc.fixturenames and not cells:
        left_out = pytest.mark.skip(reason=f"{axes.LEFT_OUT} {' '.join(asked)}")
        cell = pytest.param(devices[0], None, id=f"{devices[0]}-none", marks=left_out)
        metafunc.parametrize(("device", "dtype"), [cell])
    elif "dtype" in metafunc.fixturenames:
        metafunc.parametrize(
            ("device", "dtype"),
            [(device, getattr(torch, name)) for device, name in cells],
            ids=[f"{device}-{name}" for device, name in cells],
        )
    else:
        metafunc.parametrize("device", devices)
    if "depth" in metafunc.fixturenames:
        depths = range(1, 1 + ENUMERATED_DEPTH.get(config.frostproof_profile, 4))  # type: ignore[attr-defined]
        metafunc.parametrize("depth", depths, ids=[f"depth{depth}" for depth in depths])


def pytest_collection_modifyitems(config: pytest.Config, items: List[pytest.Item]) -> None:
    chosen = any(config.getoption(name) for name in ("--device", "--dtype"))
    known_defects.mark(items, whole=not chosen and not any("::" in arg for arg in config.args))
    items.sort(key=_order)  # stable: otherwise laws keep their order


def _order(item: pytest.Item) -> int:
    """The item's place in ORDER."""
    dtype = getattr(item, "callspec", None) and item.callspec.params.get("dtype")  # type: ignore[attr-defined]
    first, name = dtype in (None, torch.float32), f"{law_of(item)[0]} {item.name}"
    return next(
        place
        for place, (beginning, float32) in enumerate(ORDER)
        if float32 is first and re.match(beginning, name)
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Seed the law from the run and its own id; count what it really checked."""
    if item.get_closest_marker("filterwarnings") is not None:
        return (yield from _run(item))
    with own_warnings.judged(item.config.getoption("pythonwarnings") or ()):
        return (yield from _run(item))


def _run(item: pytest.Item) -> Generator[None, Any, Any]:
    if item.get_closest_marker("law") is None:
        return (yield)
    device = getattr(item, "callspec", None) and item.callspec.params.get("device")  # type: ignore[attr-defined]
    seed = f"{item.config.frostproof_seed}/{item.nodeid}"  # type: ignore[attr-defined]
    digest = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big")
    with shards.settings_of(item), item.config.frostproof_machine.law(item, device):  # type: ignore[attr-defined]
        if describe.asked():
            describe.prepare(item)
            return (yield)
        try:
            with evidence.collecting(item, digest):
                return (yield)
        finally:
            memory.give_back()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Generator[None, Any, Any]:
    """A broken law is shown by its message and a program in plain torch."""
    made = yield
    if made.when == "call" and made.failed and item.get_closest_marker("law"):
        explanation.explain(item, call, made)
        item.config.frostproof_machine.explain(item, call, made)  # type: ignore[attr-defined]
        known_defects.holds_again(made)
    return made


def pytest_report_header(config: pytest.Config) -> List[str]:
    devices = ", ".join(config.frostproof_devices)  # type: ignore[attr-defined]
    split = f"; {config.frostproof_shards} shards" if config.frostproof_shards > 1 else ""  # type: ignore[attr-defined]
    cuda = f", CUDA {torch.version.cuda}" if torch.version.cuda else ""
    return [
        f"frostproof: torch {torch.__version__}{cuda}, Hypothesis {hypothesis.__version__}, "
        f"Python {platform.python_version()}",
        f"frostproof: devices {devices}; profile {config.frostproof_profile}; "  # type: ignore[attr-defined]
        f"--hypothesis-seed={config.frostproof_seed}{split}",  # type: ignore[attr-defined]
    ]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if hasattr(session.config, "workerinput") or terminal is None:
        return
    if session.exitstatus == pytest.ExitCode.OK and summary.unsound(terminal):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    asked = session.config.frostproof_dtypes  # type: ignore[attr-defined]
    if session.exitstatus == pytest.ExitCode.OK and summary.nothing_ran(terminal, asked):
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED


def pytest_report_teststatus(report: Any) -> Any:
    return summary.status(report)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        summary.write(terminalreporter, config.frostproof_dtypes)  # type: ignore[attr-defined]
        summary.write_notes(terminalreporter, config.frostproof_own)  # type: ignore[attr-defined]
