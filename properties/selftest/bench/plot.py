"""The picture of what a case costs: microseconds over depth and width, harness and bare."""

from pathlib import Path
from typing import Any, Dict


def write(result: Dict[str, Any], path: Path) -> None:
    """An SVG; raises ImportError where matplotlib is not installed."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
    matplotlib.rcParams["svg.hashsalt"] = "frostproof"
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for panel, axis, unit in zip(panels, ("depth", "width"), ("layers", "features, 3 layers")):
        rows = result["growth"][axis]
        places = [row[axis] for row in rows]
        panel.plot(places, [row["harness_us"] / 1000 for row in rows], "o-", label="in the harness")
        panel.plot(places, [row["bare_us"] / 1000 for row in rows], "s--", label="bare torch")
        panel.set_xlabel(f"{axis} ({unit})")
        panel.set_ylabel("milliseconds a case")
        if axis == "width":
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.minorticks_off()
            panel.yaxis.set_major_formatter("{x:g}")
        else:
            panel.set_ylim(bottom=0)
        panel.set_xticks(places, [str(place) for place in places])
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None, "Creator": None})
