"""Draw docs/images/scale.png from what `python -m bench scale --out docs/images/scale.json` measured."""

import json
from pathlib import Path

import matplotlib as mpl
from matplotlib.ticker import LogLocator

from pneumonia_fl.report.figures.canvas import BLUE, GREY, ORANGE, STYLE, new_figure, save

if __name__ == "__main__":
    images = Path(__file__).resolve().parents[1] / "docs" / "images"
    table = json.loads((images / "scale.json").read_text(encoding="utf-8"))
    rows, figure, sites = table["rows"], new_figure(9.6, 3.8), [row["sites"] for row in table["rows"]]
    with mpl.rc_context(STYLE):
        left, right = figure.subplots(1, 2)
        left.loglog(sites, [row["overhead"] for row in rows], "o-", color=BLUE, label="round beside training")
        left.loglog(sites, [row["until_round"] for row in rows], "s--", color=GREY, label="until round 1")
        right.loglog(sites, [row["memory"] / 1000 for row in rows], "o-", color=ORANGE, label="all processes")
        for axes, title in ((left, "Seconds"), (right, "Memory at the peak, GB")):
            axes.set(title=title, xlabel="Sites in the simulator", xticks=sites, xticklabels=sites)
            axes.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}")
            axes.minorticks_off()
            axes.legend()
        save(figure, images / "scale.png")
