"""Do programs show their faults? ``python -m frostproof.properties.selftest.programs [NAME...]``.

For a sample of the seeded faults, each under a law that catches it, the law is run in a process
of its own; the program that it writes is run in two more, with the fault and without it. It must
end with 1 in the first and with 0 in the second.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from frostproof.properties.selftest.faults.fault import all_faults
from frostproof.properties.selftest.faults.process import run_alone

MEASURED = Path(__file__).parent / "faults" / "measured.md"
PLUGIN = "frostproof.properties.selftest.faults.plugin"


def sample(each: int = 1) -> List[Tuple[str, str]]:
    """(fault, law): of every law that was first to catch any, so many of those that it caught."""
    found: List[Tuple[str, str]] = []
    taken: Dict[str, int] = {}
    for line in MEASURED.read_text(encoding="utf-8").splitlines()[2:]:
        cells = [cell.strip() for cell in line.split("|")]
        fault, law = cells[1], cells[5].split(", ")[0]
        if taken.get(law, 0) < each:
            taken[law] = taken.get(law, 0) + 1
            found.append((fault, law))
    return found


def run_program(path: Path, fault: str) -> Tuple[Optional[int], str]:
    """(exit code, output) of a program under a fault; "" is none."""
    runner = "frostproof.properties.selftest.programs"
    code, output, _ = run_alone([runner, "--exec", str(path)], {"FROSTPROOF_FAULT": fault}, 60)
    return code, output


def judge(fault: str, law: str, folder: Path) -> Dict[str, Any]:
    """What became of one fault under one law: codes, and the number of the program's lines."""
    command = ["pytest", "-q", "-x", "-n", "0", "--assert=plain", "-p", "no:cacheprovider"]
    command += ["-p", PLUGIN, "--device=cpu", "--hypothesis-profile=ci"]
    command += [f"--reproducers={folder}", f"properties/{law}"]
    environment = {"FROSTPROOF_FAULT": fault, "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "examples")}
    code, output, seconds = run_alone(command, environment, 200)
    facts: Dict[str, Any] = {"fault": fault, "law": law, "code": code, "seconds": seconds}
    said = [line for line in output.splitlines() if line.startswith("program  ")]
    programs = sorted(folder.glob("*.py"))
    facts["said"] = said[0][10:] if said else output[-300:] if code != 1 else ""
    if programs:
        text = programs[0].read_text(encoding="utf-8")
        facts["lines"] = sum(bool(line.strip()) for line in text.splitlines())
        facts["broken"], facts["error"] = run_program(programs[0], fault)
        facts["healthy"], said_healthy = run_program(programs[0], "")
        facts["error"] = facts["error"][-300:]
        if facts["healthy"] != 0:
            facts["healthy error"] = said_healthy[-300:]
        facts["text"] = text
    facts["works"] = facts.get("broken") == 1 and facts.get("healthy") == 0
    return facts


def summary(found: List[Dict[str, Any]]) -> str:
    """How many programs there are, work, and how long they are."""
    caught = [each for each in found if each["code"] == 1]
    working = [each for each in caught if each["works"]]
    lines = [each["lines"] for each in working]
    return (
        f"{len(found)} faults, {len(caught)} caught by their law, "
        f"{sum('lines' in each for each in caught)} programs, {len(working)} of them work; "
        f"lines: median {statistics.median(lines or [0]):g}, longest {max(lines or [0])}"
    )


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the sample; 0 where every program works."""
    parser = argparse.ArgumentParser(prog="python -m frostproof.properties.selftest.programs")
    parser.add_argument("names", nargs="*", metavar="NAME", help="these faults or laws only")
    parser.add_argument("--each", type=int, default=1, help="faults for each law (default: 1)")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write what was found")
    parser.add_argument("--exec", type=Path, metavar="FILE.py", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.exec:
        import os
        import runpy
        import warnings

        warnings.simplefilter("ignore")
        if os.environ.get("FROSTPROOF_FAULT"):
            all_faults()[os.environ["FROSTPROOF_FAULT"]].apply()
        runpy.run_path(str(options.exec), run_name="__main__")
        return 0
    found: List[Dict[str, Any]] = []
    for fault, law in sample(options.each):
        if options.names and not {fault, law, law.split("::")[0]} & set(options.names):
            continue
        with tempfile.TemporaryDirectory(prefix="frostproof-") as folder:
            found.append(judge(fault, law, Path(folder)))
        facts = found[-1]
        word = "works" if facts["works"] else "fails" if "text" in facts else "none"
        print(f"{word:6} {fault} {law} {facts.get('lines', '')} {facts['said'][:90]}", flush=True)
        if options.output:
            options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(summary(found))
    return 0 if found and all(each["works"] for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
