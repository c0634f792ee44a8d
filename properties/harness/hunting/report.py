"""What a hunt leaves: one program and one draft for each group, and a page on all of them."""

import json
import re
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import torch

from frostproof.properties.harness.hunting.driver import counts, environment, lines
from frostproof.properties.harness.hunting.source import Find, Source, source_of

SHOWN, ABSENT = 1, 0
UNCAUGHT = re.compile(r"^Traceback", re.MULTILINE)  # torch logs others, each line with a mark


def groups(folder: Path) -> List[Tuple[Find, int]]:
    """The smallest find of each group with how often it was met, the most frequent first."""
    told = lines(folder)
    best: Dict[str, Find] = {}
    met: Counter[str] = Counter()
    for line in told:
        if line["kind"] == "find":
            find = Find.of(line["find"])
            key = repr(find.group)
            met[key] += 1
            if key not in best or len(find.case) < len(best[key].case):
                best[key] = find
        elif line["kind"] == "again":
            met[line["group"]] += 1
    return sorted(((find, met[key]) for key, find in best.items()), key=lambda pair: -pair[1])


def name_of(find: Find, number: int) -> str:
    """A file's name for a group."""
    words = re.sub(r"[^a-z0-9]+", "-", f"{find.mode} {find.fact.aspect}".lower()).strip("-")
    return f"{number:03}-{words}"


def shown_on(script: Path, python: str, limit: float = 120.0) -> str:
    """ "shown", "absent", or why a program said neither under an interpreter."""
    try:
        done = subprocess.run(
            [python, str(script)], env=environment(), capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {limit:.0f} s"
    if done.returncode == ABSENT:
        return "absent"
    if done.returncode == SHOWN and not UNCAUGHT.search(done.stderr):
        return "shown"
    if "INTERNAL ASSERT" in done.stderr:
        return "shown (an internal assertion)"
    if done.returncode < 0:
        return f"shown (ended by signal {-done.returncode})"
    return "cannot run: " + (done.stderr.strip().splitlines() or ["?"])[-1][:100]


def version_of(python: str) -> str:
    """The torch of an interpreter."""
    command = [python, "-W", "ignore", "-c", "import torch; print(torch.__version__)"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "no torch"


def told_by(scripts: Dict[str, Path], pythons: Sequence[str], jobs: int) -> Dict[str, Dict[str, str]]:
    """What each script says under each interpreter, ``jobs`` at a time: a word by torch, by name."""
    versions = {python: version_of(python) for python in pythons}
    asked = [(name, python) for name in scripts for python in pythons]
    with ThreadPoolExecutor(jobs) as pool:
        words = list(pool.map(lambda pair: shown_on(scripts[pair[0]], pair[1]), asked))
    told: Dict[str, Dict[str, str]] = {name: {} for name in scripts}
    for (name, python), word in zip(asked, words):
        told[name][versions[python]] = word
    return told


def drafted(
    title: str, about: str, script: str, seen: Dict[str, str], upstream: str, row: str = ""
) -> str:
    """A short factual report, as for an upstream issue; seen: a word for each torch."""
    parts = (
        f"# {title}",
        about,
        f"```python\n{script.rstrip()}\n```",
        "The program exits with 1 where this shows and with 0 where it does not.",
        row,
        "\n".join(f"- torch {version}: {word}" for version, word in seen.items()),
        f"Upstream: {upstream}.",
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def draft(source: Source, find: Find, script: str, seen: Dict[str, str]) -> str:
    """A report on a group."""
    title = f"{find.mode}: {find.fact.aspect} differs from {source.reference(find.mode)}"
    upstream = "not searched yet. Known defect: no row covers it"
    return drafted(title, find.fact.sentence, script, seen, upstream)


def write(folder: Path, pythons: Sequence[str], jobs: int, most: int = 200) -> Path:
    """Write ``programs/*.py``, ``drafts/*.md``, ``groups.json`` and ``report.md``; its path."""
    for name in ("programs", "drafts"):
        (folder / name).mkdir(exist_ok=True)
        for old in (folder / name).iterdir():
            old.unlink()
    found = groups(folder)[:most]
    named = [(name_of(find, number), find, met) for number, (find, met) in enumerate(found)]
    scripts: Dict[str, Path] = {}
    for name, find, _ in named:
        source = source_of(find.source, find.device)
        scripts[name] = folder / "programs" / f"{name}.py"
        scripts[name].write_text(
            source.script(source.load(find.case), find.mode, find.fact), encoding="utf-8"
        )
    told = told_by(scripts, pythons, jobs)
    page = [f"# The hunt\n\nRun with torch {torch.__version__}.\n"]
    page += ["| mode | ran | refused | differ | not covered | ms a run |", "|---|---|---|---|---|---|"]
    for mode, (ran, refused, differ, fresh, seconds) in sorted(counts(lines(folder)).items()):
        each = 1000 * seconds / max(1, ran + refused)
        page.append(f"| {mode} | {ran:.0f} | {refused:.0f} | {differ:.0f} | {fresh:.0f} | {each:.0f} |")
    known = Counter(line["row"] for line in lines(folder) if line["kind"] == "known")
    if known:
        page += [
            "",
            "Covered by rows: " + ", ".join(f"{row} {met}" for row, met in known.most_common()),
        ]
    trouble = sum(line["kind"] == "trouble" for line in lines(folder))
    if trouble:
        page += ["", f"Processes of the hunt that ended, by no case alone: {trouble}"]
    page += ["", "| group | met | mode | what | shape | shown on |", "|---|---|---|---|---|---|"]
    for name, find, met in named:
        shape = " ".join(find.skeleton).replace("|", "/")
        on = ", ".join(f"{version} {word}" for version, word in told[name].items())
        what = f"{find.fact.aspect} {find.fact.head}".replace("|", "/").replace("\n", " ")
        page.append(f"| [{name}](programs/{name}.py) | {met} | {find.mode} | {what} | {shape} | {on} |")
        source = source_of(find.source, find.device)
        script = scripts[name].read_text(encoding="utf-8")
        text = draft(source, find, script, told[name])
        (folder / "drafts" / f"{name}.md").write_text(text, encoding="utf-8")
    kept = [{"name": name, "met": met, "shown": told[name], **find.line()} for name, find, met in named]
    (folder / "groups.json").write_text(json.dumps(kept, indent=1), encoding="utf-8")
    (folder / "report.md").write_text("\n".join(page) + "\n", encoding="utf-8")
    return folder / "report.md"
