"""The plot of how cost grows, as SVG, from the figures alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

PANELS = {
    "tokens": "tokens a query (a batch of queries)",
    "context": "context documents",
    "corpus": "documents embedded",
}


def draw_scaling(result: Mapping[str, Any], file: Path) -> None:
    """Draw a panel for each size: median seconds on logarithmic axes, with the fitted exponent in the legend."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "performance"
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(PANELS), figsize=(6 * len(PANELS), 4.5))
    for axes, (name, label) in zip(panels, PANELS.items(), strict=True):
        for line, found in result[name].items():
            axes.plot(found["sizes"], found["seconds"], "o-", label=f"{line}: exponent {found['exponent']:.2f}")
        axes.set(xscale="log", yscale="log", xlabel=label, ylabel="seconds, median")
        axes.set_xticks(sorted({size for found in result[name].values() for size in found["sizes"]}), minor=False)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.minorticks_off()
        axes.legend(fontsize=7)
    figure.savefig(file, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
