"""The machine's part of the run, wired into pytest and xdist."""

import faulthandler
import hashlib
import os
import re
import shutil
import tempfile
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set

import pytest

from frostproof.properties.harness.core.options import value
from frostproof.properties.harness.machine import (
    accelerators,
    assignment,
    crash,
    describe,
    faults,
    files,
    hang,
    progress,
    running,
)
from frostproof.properties.harness.own import options as own
from frostproof.properties.harness.session import axes, evidence, message
from frostproof.properties.harness.session.explanation import RECORDER
from frostproof.properties.harness.session.state import of

DESCRIBED = 5  # dead laws whose example is drawn again


def _folder_name(root: Path) -> str:
    digest = hashlib.sha256(str(root).encode()).hexdigest()[:8]
    user = os.getuid() if hasattr(os, "getuid") else 0
    return f"frostproof-{user}-{digest}-"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _stack(trace: Any) -> str:
    """The last calls, without pytest's own above the law."""
    frames = traceback.extract_tb(trace)
    first = next((n for n, one in enumerate(frames) if one.name == "example"), len(frames) - 8)
    return "".join(traceback.format_list(frames[max(0, first) :][-12:]))


class Machine:
    """One for each process: the controller, a worker, or the only one."""

    def __init__(self, config: Any, devices: List[str]) -> None:
        self.config = config
        self.input: Dict[str, Any] = getattr(config, "workerinput", {})
        self.is_worker = hasattr(config, "workerinput")
        given = value(config, "law-timeout")
        # a step of a user's own training may take its time
        self.limit: float = (0.0 if own.asked(config) else hang.LIMIT) if given is None else given
        if self.limit < 0:
            raise pytest.UsageError(f"--law-timeout {self.limit:g}: give seconds, or 0 for never")
        asked = value(config, "gpu-workers")
        if asked is not None and asked < 1:
            raise pytest.UsageError(f"--gpu-workers {asked}: at least 1")
        seconds = progress.every(config, of(config).thorough)
        self.workers = (
            len(config.getoption("tx", None) or ()) if config.getoption("dist", "no") != "no" else 0
        )
        self.folder: Optional[Path] = None
        self.stacks: Optional[int] = None
        self.earlier: List[str] = []
        self.described = 0
        self.refused = files.Refused()
        self.expected: Set[str] = set()
        self.reported: Set[str] = set()
        self.total = 0
        self.missing: List[str] = []
        self.lost_database = ""
        self.seats = [assignment.Seats(plan) for plan in self._plans(devices, asked)]
        self.progress: Optional[progress.Progress] = None
        self._open()
        if seconds and self.folder is not None and not self.is_worker:
            self.progress = progress.Progress(
                self.folder, seconds, lambda: (len(self.reported), self.total)
            )

    def _plans(self, devices: List[str], asked: Optional[int]) -> Iterator[assignment.Plan]:
        """Who works where, for each kind of accelerator that the run is on."""
        if self.is_worker or not self.workers or self.config.option.collectonly:
            return
        kinds = [name.partition(":")[0] for name in devices if accelerators.is_accelerator(name)]
        for kind in dict.fromkeys(kinds):
            wanted = assignment.named(kind, devices, accelerators.count(kind))
            plugins = evidence.Current.plugins
            measured = [] if asked else assignment.measure(kind, plugins)
            chosen = [one for one in measured if one.index in wanted]
            unknown = [assignment.Device(kind, index) for index in wanted]
            yield assignment.plan(kind, self.workers, chosen or unknown, asked)

    def _open(self) -> None:
        """The folder of notes, which the controller makes and its workers use."""
        if self.is_worker:
            named = self.input.get("frostproof_folder")
            self.folder = Path(named) if named else None
        elif not describe.asked():
            self._look_back()
            prefix = f"{_folder_name(self.config.rootpath)}{os.getpid()}-"
            try:
                self.folder = Path(tempfile.mkdtemp(prefix=prefix))
            except OSError:
                self.folder = None  # a full disk: no notes
        if self.folder is None or (self.workers and not self.is_worker):
            return
        name = self.input.get("workerid", "main")
        running.open_note(self.folder / f"{name}.note")
        try:  # pytest redirects 2 itself while a law runs
            path = self.folder / f"{name}.stacks"
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self.stacks = os.open(str(path), flags, 0o600) if self.is_worker else os.dup(2)
        except OSError:
            self.stacks = None

    def _look_back(self) -> None:
        """Tell of a run in this checkout that died in a law, and clean up after it."""
        for folder in Path(tempfile.gettempdir()).glob(_folder_name(self.config.rootpath) + "*"):
            found = re.search(r"-(\d+)-[^-]*$", folder.name)
            if found is None or _alive(int(found.group(1))):
                continue
            noted = running.read(folder / "main.note")
            if noted.nodeid and not self.earlier:
                self.earlier.append(
                    f"frostproof: an earlier run died in {noted.nodeid}; "
                    + " ".join(describe.describe(noted, folder, self.config.rootpath).split("\n"))
                )
                self.earlier.append(f"frostproof: to run it again: {noted.law.get('rerun', '')}")
            shutil.rmtree(folder, ignore_errors=True)

    # --- in the process that runs laws

    @contextmanager
    def law(self, item: Any, device: Optional[str]) -> Iterator[None]:
        """Choose the device, note the law, watch it, and tell the machine's faults from its own."""
        if device:
            axes.settle(device, self._number(), self.input.get("frostproof_seats", {}))
            faults.Running.device = device
        running.begin(self._law(item))
        try:
            with hang.watched(self._limit(), self.stacks):
                yield
                if device:
                    faults.finish(device)
        except faults.MachineFault as fault:
            self._give_up(item, fault)
            raise
        except Exception as problem:
            found = faults.fault_of(problem, faults.Running.device)
            if found is None:
                raise
            self._give_up(item, found)
            raise found from problem
        finally:
            running.end()
            faults.Running.device = "cpu"

    def _number(self) -> int:
        number = str(self.input.get("workerid", "gw0"))[2:]
        return int(number) if number.isdigit() else 0

    def _limit(self) -> float:
        try:
            own = self.config.getini("faulthandler_timeout")  # pytest's own uses the same timer
        except ValueError:  # -p no:faulthandler
            own = None
        return 0.0 if float(own or 0) else self.limit

    def _law(self, item: Any) -> Dict[str, Any]:
        case = message.case_of(item, {}, None)
        handle = hasattr(item.obj, "hypothesis")
        used = getattr(item.obj, "_hypothesis_internal_use_settings", None)
        return {
            "nodeid": item.nodeid,
            "examples": used.max_examples if handle and used is not None else 0,
            "properties": evidence.described(item),
            "rerun": message.rerun_command(item, case),
        }

    def _give_up(self, item: Any, fault: faults.MachineFault) -> None:
        """A worker leaves: xdist replaces it and reports the law. Else the run goes on, or ends."""
        if self.is_worker and self.folder is not None:
            cause = fault.__cause__ or fault
            stack = "Stack, the innermost call last:\n" + _stack(cause.__traceback__)
            try:
                name = f"{self.input['workerid']}.fault"
                (self.folder / name).write_text(str(fault), encoding="utf-8")
                if self.stacks is not None:
                    os.write(self.stacks, stack.encode())
            except OSError:
                pass
            os._exit(faults.EXIT_CODE)
        if fault.what == faults.POISONED:
            item.session.shouldfail = f"{fault}; the remaining tests need another process: use -n"
        else:
            faults.free_memory(faults.Running.device)

    def explain(self, item: Any, call: Any, report: Any) -> None:
        """The message of a fault or a hang that this process survived."""
        problem = call.excinfo.value if call.excinfo else None
        if not isinstance(problem, (faults.MachineFault, hang.Hang)):
            return
        noted = running.Noted(self._law(item), running.Note.number)
        trail = evidence.Current.trail
        known = f"number {noted.number} of this seed" if noted.number else "none had begun"
        if trail:
            known += f", after the events {trail!r}"
        recorder = item.stash.get(RECORDER, None)
        if recorder is not None and recorder.current:
            known = message.described(message.case_of(item, recorder.current, None)) or known
        text = crash.message(noted, str(problem), known)
        report.longrepr = f"{text}\n\nStack, the innermost call last:\n{_stack(call.excinfo.tb)}"
        item.user_properties.append(("message", text))
        report.user_properties.append(("message", text))

    # --- in the process that reports

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """A worker, also one that replaces another, gets its seats."""
        node.workerinput["frostproof_folder"] = str(self.folder) if self.folder else ""
        taken = {seats.plan.kind: seats.take(node.gateway.id) for seats in self.seats}
        node.workerinput["frostproof_seats"] = {
            kind: (seat.index, seat.fraction) for kind, seat in taken.items() if seat is not None
        }

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: Any) -> None:
        """Its seats are free."""
        for seats in self.seats:
            seats.leave(node.gateway.id)
        told = (getattr(node, "workeroutput", None) or {}).get("frostproof_database", "")
        self.lost_database = self.lost_database or told

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: Any, log: Any) -> Any:
        """Our own only where a test must find the worker that has its device."""
        plans = [seats.plan for seats in self.seats]
        apart = any(plan.split or len(plan.devices) > 1 for plan in plans)
        if not apart or config.getvalue("dist") != "load":
            return None
        from frostproof.properties.harness.machine.scheduler import DeviceScheduling

        scheduling = DeviceScheduling(config, log)
        scheduling.kinds = [plan.kind for plan in plans]
        return scheduling

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Any) -> None:
        """What must be reported in the end."""
        self.expected.update(ids)
        self.total = len(ids)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """The same without workers."""
        self.total = len(session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: Any, sched: Any) -> None:
        """The law of a dead worker is reported with what is known of it."""
        if self.folder is None:
            return
        worker = report.node.gateway.id
        noted = running.read(self.folder / f"{worker}.note")
        if noted.nodeid != crashitem:
            return
        fault, stacks = crash.traces(self.folder, worker)
        known = f"number {noted.number} of this seed" if noted.number else "none had begun"
        if self.described < DESCRIBED:
            self.described += 1
            known = describe.describe(noted, self.folder, self.config.rootpath)
        seen = crash.seen_of(fault, stacks, crash.exit_status(report.node))
        text = crash.message(noted, f"{seen} (worker {worker}, example {noted.number})", known)
        report.longrepr = f"{text}\n\n{stacks}".rstrip()
        report.location = (*report.location[:2], crashitem.partition("::")[2])
        report.user_properties = [
            ("examples", str(max(0, noted.number - 1))),
            *noted.properties,
            ("message", text),
        ]

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: Any) -> None:
        """A test has an outcome. A dead one has a teardown too: junit takes its properties there."""
        if report.when == "???":
            end = pytest.TestReport(
                report.nodeid, report.location, {}, "passed", None, "teardown", (), 0, 0, 0
            )
            end.user_properties, end.node = report.user_properties, report.node  # type: ignore[attr-defined]
            self.config.hook.pytest_runtest_logreport(report=end)
        if report.when in ("call", "???") or not report.passed:
            self.reported.add(report.nodeid)

    def pytest_sessionstart(self) -> None:
        """Progress begins; a worker that crashes writes its stacks where its report finds them."""
        if self.is_worker and self.stacks is not None:
            faulthandler.enable(file=self.stacks)
        if self.progress is not None:
            self.progress.start()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: Any) -> None:
        """No test may be lost on the way; a record that is not written is told."""
        if self.progress is not None:
            self.progress.stop()
        if self.is_worker:
            self.config.workeroutput["frostproof_database"] = of(self.config).examples.lost
            return
        self.refused.guard(session)
        whole_run = session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        if whole_run and not session.shouldfail and not session.shouldstop:
            self.missing = sorted(self.expected - self.reported)
        if self.missing and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(trylast=True, wrapper=True)
    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> Iterator[None]:
        """What went wrong beside the laws."""
        yield
        if self.is_worker:
            return
        if self.missing:
            terminalreporter.write_line(
                f"{len(self.missing)} tests were collected but never reported: {self.missing[0]} ...",
                red=True,
            )
        for sentence in self.refused.sentences:
            terminalreporter.write_line(sentence, red=True)
        examples = of(config).examples
        for sentence in filter(None, (examples.warning, examples.lost or self.lost_database)):
            terminalreporter.write_line(sentence, yellow=True)

    def pytest_report_header(self) -> List[str]:
        """The devices' workers, and what an earlier run left."""
        told = [f"frostproof: {seats.plan.sentence()}" for seats in self.seats]
        warning = of(self.config).examples.warning
        return told + ([f"frostproof: {warning}"] if warning else []) + self.earlier

    def pytest_unconfigure(self) -> None:
        """Clean up."""
        running.close_note()
        if self.progress is not None:
            self.progress.stop()
        if self.stacks is not None:
            faulthandler.cancel_dump_traceback_later()
            faulthandler.disable()
            os.close(self.stacks)
            self.stacks = None
        if self.folder is not None and not self.is_worker:
            shutil.rmtree(self.folder, ignore_errors=True)


def configure(config: Any, devices: List[str]) -> Machine:
    """Begin. Raises UsageError for a wrong option."""
    machine = Machine(config, devices)
    config.pluginmanager.register(machine, "frostproof-machine")
    return machine
