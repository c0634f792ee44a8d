"""Every optimizer of pytorch-optimizer under ``--optimizer``: held, refused or broken.

``python -m frostproof.properties.selftest.optimizer_sweep [NAME...]`` gives each a process
of its own, with bounds on its time and memory. Needs the package pytorch-optimizer.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional

from frostproof.properties.harness.report.grouping import broken_laws, part
from frostproof.properties.harness.report.record import UnreadableRecord, read
from frostproof.properties.selftest import ROOT

USAGE_ERROR = 4
ROOM = 12 * 2**30  # bytes of address space; torch alone takes 1 to 4 GB of it
FACTORY = """\
from pytorch_optimizer.optimizer import OPTIMIZERS


def {name}(parameters):
    {grouped}return OPTIMIZERS["{name}"](parameters, lr=0.01{options})
"""
GROUPED = """\
parameters = list(parameters)
    rules = [p.dim() > 1 for p in parameters]
    parameters = [
        {"params": [p for p, rule in zip(parameters, rules) if rule is each], "use_muon": each}
        for each in sorted(set(rules))
    ]
    """
# What those want beyond a list of parameters and a rate: tried where the plain factory is refused.
MORE = {
    "bsam": ", num_data=8",
    "ranger21": ", num_iterations=1000",
    "sara": ", threshold=10.0",
    **dict.fromkeys(("adago", "adamuon", "distributedmuon", "muon", "muonclip", "normuon"), GROUPED),
}


def _bounded() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (ROOM, ROOM))


def judged(name: str, profile: str, limit: float) -> Dict[str, Any]:
    """{"name", "outcome", "why"} of one optimizer: held, refused, broken, or no verdict.

    With "more": the same of what was refused, with what it wants beyond the plain factory.
    """
    result = _judged(name, profile, limit, "")
    if result["outcome"] == "refused" and name in MORE:
        result["more"] = _judged(name, profile, limit, MORE[name])
    return result


def _judged(name: str, profile: str, limit: float, more: str) -> Dict[str, Any]:
    grouped, options = ("", more) if more != GROUPED else (GROUPED, "")
    with tempfile.TemporaryDirectory() as folder:
        file, record = Path(folder, "factory.py"), Path(folder, "record.xml")
        text = FACTORY.format(name=name, grouped=grouped, options=options)
        file.write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
        command += [f"--hypothesis-profile={profile}", "--hypothesis-seed=0", f"--junit-xml={record}"]
        command += [f"--optimizer={file}:{name}", f"--reproducers={folder}"]
        try:
            done = subprocess.run(
                command,
                cwd=str(ROOT),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=limit,
                preexec_fn=_bounded,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"name": name, "outcome": "no verdict", "why": f"more than {limit:.0f} s"}
        said = done.stdout.replace(f"--optimizer {file}:{name}: ", "")
        lines = re.sub(r"/\S*/(site-packages/|(?=factory.py))", "", said).split("\n")
        if done.returncode == 0:
            return {"name": name, "outcome": "held", "why": ""}
        if done.returncode == USAGE_ERROR:
            why = next((line[7:] for line in lines if line.startswith("ERROR: ")), lines[0])
            return {"name": name, "outcome": "refused", "why": why}
        try:
            laws = broken_laws(read(record).entries)
        except UnreadableRecord:
            laws = []
        if done.returncode != 1 or not laws:
            return {"name": name, "outcome": "no verdict", "why": " / ".join(lines[-4:])}
        why = "; ".join(
            f"{law[0].law} ({', '.join(entry.dtype for entry in law)}): "
            + re.sub(
                r"/\S*/(site-packages|properties)/",
                "",
                " ".join(" ".join(part(law[0].message, "seen")).split()[1:]),
            )
            for law in laws
        )
        return {"name": name, "outcome": "broken", "why": why, "message": laws[0][0].message}


def table(results: List[Dict[str, Any]]) -> str:
    """The results as Markdown: broken first, then refused, then what held."""
    lines = ["| optimizer | outcome | what was said |", "|---|---|---|"]
    for outcome in ("no verdict", "broken", "refused"):
        for result in sorted(results, key=lambda result: str(result["name"])):
            if result["outcome"] == outcome:
                why = result["why"]
                if "more" in result:
                    more = MORE[result["name"]]
                    given = "two groups" if more == GROUPED else more[2:]
                    why += (
                        f"; with {given}: {result['more']['outcome']} {result['more']['why']}".rstrip()
                    )
                why = why.replace("|", "\\|")
                lines.append(f"| {result['name']} | {outcome} | {why} |")
    held = sorted(result["name"] for result in results if result["outcome"] == "held")
    return "\n".join([*lines, "", f"Held ({len(held)}): {', '.join(held)}."]) + "\n"


def main(arguments: Optional[List[str]] = None) -> int:
    """Judge the optimizers named, or all; 0 where each was held or refused."""
    parser = argparse.ArgumentParser(
        prog="python -m frostproof.properties.selftest.optimizer_sweep", description=__doc__
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="these only (default: all)")
    parser.add_argument("--profile", default="quick", help="Hypothesis profile (default: quick)")
    parser.add_argument("--limit", type=float, default=150.0, help="seconds for one (default: 150)")
    parser.add_argument(
        "--output", type=Path, metavar="FILE.json", help="keep results; those in it are not run again"
    )
    parser.add_argument("--table", type=Path, metavar="FILE.md", help="write the table as Markdown")
    options = parser.parse_args(arguments)
    try:
        from pytorch_optimizer.optimizer import OPTIMIZERS
    except ImportError:
        print("needs pytorch-optimizer: python -m pip install pytorch-optimizer", file=sys.stderr)
        return USAGE_ERROR
    unknown = [name for name in options.names if name not in OPTIMIZERS]
    if unknown:
        print(f"pytorch-optimizer has no {', '.join(unknown)}", file=sys.stderr)
        return USAGE_ERROR
    results: List[Dict[str, Any]] = []
    if options.output is not None and options.output.exists():
        results = json.loads(options.output.read_text(encoding="utf-8"))
    done = {result["name"] for result in results}
    for name in options.names or OPTIMIZERS:
        if name in done:
            continue
        results.append(judged(name, options.profile, options.limit))
        print(f"{name}: {results[-1]['outcome']} {results[-1]['why']}", flush=True)
        if "more" in results[-1]:
            print(f"  more: {results[-1]['more']['outcome']} {results[-1]['more']['why']}", flush=True)
        if options.output is not None:
            kept = options.output.with_name(options.output.name + ".part")
            kept.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            os.replace(kept, options.output)
    outcomes = [result["outcome"] for result in results]
    counts = (f"{outcomes.count(outcome)} {outcome}" for outcome in sorted(set(outcomes)))
    print(f"{len(outcomes)} optimizers: {', '.join(counts)}")
    if options.table is not None:
        options.table.write_text(table(results), encoding="utf-8")
    return 0 if set(outcomes) <= {"held", "refused"} else 1


if __name__ == "__main__":
    sys.exit(main())
