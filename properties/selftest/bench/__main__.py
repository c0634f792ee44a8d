"""``python -m frostproof.properties.selftest.bench [--output FILE.json] [--plot FILE.svg]``."""

import argparse
import json
import platform
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

import hypothesis
import torch
from hypothesis import strategies as st

from frostproof.properties.selftest.bench import cases, commands, enumerated, plot

USAGE_ERROR = 4
# name, nets, examples a round, the ratio that is promised (None: for information)
GROUPS = (
    ("small nets", cases.plain(max_depth=4, max_width=32), 200, 2.0),
    ("deep nets (12 layers)", cases.plain(min_depth=12, max_depth=12, max_width=32), 60, None),
    ("wide nets (width 1024)", cases.of_width(1024), 12, 1.05),
)
DEPTHS, WIDTHS = (1, 2, 4, 8, 16), (4, 16, 64, 256, 1024)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m frostproof.properties.selftest.bench", description=__doc__
    )
    parser.add_argument("--rounds", type=int, default=5, help="of each comparison (default: 5)")
    parser.add_argument("--skip-commands", action="store_true", help="only the cases: a minute or two")
    parser.add_argument(
        "--device", default="cpu", help="another one: only the cases of drawn nets (default: cpu)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the figures")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the growth (matplotlib)")
    return parser


def _growth(rounds: int) -> Dict[str, List[Dict[str, Any]]]:
    def row(axis: str, place: int, nets: st.SearchStrategy, examples: int) -> Dict[str, Any]:
        found = cases.compare(cases.runs_of(nets), examples, rounds)
        return {axis: place, **{key: found[key] for key in ("harness_us", "bare_us", "ratio")}}

    return {
        "depth": [
            row("depth", n, cases.plain(min_depth=n, max_depth=n, max_width=32), 60) for n in DEPTHS
        ],
        "width": [row("width", n, cases.of_width(n), 12 if n > 256 else 40) for n in WIDTHS],
    }


def _peer(rounds: int) -> Optional[float]:
    try:
        cases.in_peer(0, 20)
    except ImportError:
        return None
    counts: List[int] = []
    spent = [
        cases.seconds(lambda seed=seed: counts.append(cases.in_peer(seed, 100)))  # type: ignore[misc]
        for seed in range(1, rounds + 1)
    ]
    return round(sorted(s / n for s, n in zip(spent, counts))[rounds // 2] * 1e6, 1)


def measure(rounds: int, whole_commands: bool) -> Dict[str, Any]:
    """Every figure, as plain values."""
    torch.set_num_threads(1)
    result: Dict[str, Any] = {
        "torch": str(torch.__version__),
        "hypothesis": hypothesis.__version__,
        "python": platform.python_version(),
    }
    rows = []
    for name, nets, examples, promised in GROUPS:
        found = cases.compare(cases.runs_of(nets), examples, rounds)
        rows.append({"cases": name, **found, "promised": promised})
    if cases.Place.device != "cpu":
        result["cost"] = rows
        return result
    rows.append(
        {"cases": "enumerated nets", **enumerated.compare_enumeration(rounds), "promised": 1.15}
    )
    result["cost"] = rows
    result["hypothesis_torch_us"] = _peer(rounds)
    result["growth"] = _growth(max(1, rounds // 2))
    if whole_commands:
        result["start_up"] = commands.start_up(rounds)
        result["workers"] = commands.workers(commands.worker_counts(), ())
        result["first_failures"] = commands.first_failures(commands.FAULTS)
    return result


def table(result: Dict[str, Any]) -> str:
    """The figures for a person, as Markdown."""
    lines = [
        f"{cases.Place.device}: torch {result['torch']}, Hypothesis {result['hypothesis']}, "
        f"Python {result['python']}",
        "",
        "| one case of | harness, us | bare torch, us | ratio | of each round | promised |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["cost"]:
        rounds = " ".join(f"{ratio:.2f}" for ratio in row["ratios"])
        lines.append(
            f"| {row['cases']} | {row['harness_us']:.0f} | {row['bare_us']:.0f} "
            f"| {row['ratio']:.2f} | {rounds} | {row['promised'] or ''} |"
        )
    if "hypothesis_torch_us" not in result:
        return "\n".join(lines)
    peer = result["hypothesis_torch_us"]
    small = result["cost"][0]["harness_us"]
    lines.append("")
    if peer is None:
        lines.append("hypothesis-torch is not installed: not compared.")
    else:
        lines.append(f"hypothesis-torch's linear networks, the same work: {peer:.0f} us a case; ")
        lines[-1] += f"the harness takes {small / peer:.2f} of that."
    for axis in ("depth", "width"):
        cells = (f"{row[axis]}: {row['ratio']:.2f}" for row in result["growth"][axis])
        lines += ["", f"Ratio by {axis}: " + ", ".join(cells)]
    if "workers" in result:
        start = result["start_up"]
        lines += [
            "",
            f"import torch {start['import_torch']} s; collecting every law {start['collect']} s, "
            f"{start['collect_above_import']} s above it",
            "",
            "| workers | wall, s | without start-up, s | speed-up |",
            "|---|---|---|---|",
        ]
        for row in result["workers"]:
            lines.append("| {workers} | {wall_s} | {without_start_s} | {speed_up} |".format(**row))
        lines += ["", "| fault | first law that fails | seconds |", "|---|---|---|"]
        for row in result["first_failures"]:
            lines.append("| {fault} | {law} | {seconds} |".format(**row))
    return "\n".join(lines)


def main(arguments: Optional[List[str]] = None) -> int:
    """Measure, print the table, write what was asked for."""
    options = _parser().parse_args(arguments)
    for path in (options.output, options.plot):
        if path is not None and not path.resolve().parent.is_dir():
            print(f"error: {path}: its folder does not exist", file=sys.stderr)
            return USAGE_ERROR
    if options.rounds < 1:
        print("error: --rounds must be positive", file=sys.stderr)
        return USAGE_ERROR
    cases.Place.device = options.device
    result = measure(options.rounds, not options.skip_commands)
    print(table(result))
    if options.output is not None:
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.plot is not None:
        try:
            plot.write(result, options.plot)
        except ImportError:
            print("error: --plot needs matplotlib: pip install matplotlib", file=sys.stderr)
            return USAGE_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
