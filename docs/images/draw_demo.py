"""Draw docs/images/demo.png from a run of the demo: python docs/images/draw_demo.py demo/pairs_all.jsonl demo/run"""

import sys
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from kat.arrays import load_array
from kat.demo.check import topics_of_openings
from kat.run_folder import load_ids


def main(pairs: Path, run: Path) -> None:
    weights = dict(zip(load_ids(run / "density"), load_array(run / "density" / "density_weights.npy"), strict=True))
    by_topic = defaultdict(list)
    for opening, topic in topics_of_openings(pairs).items():
        by_topic[topic].append(float(weights[opening]))
    topics = sorted(by_topic, key=lambda t: -len(by_topic[t]))
    sizes = np.asarray([len(by_topic[t]) for t in topics])
    means = np.asarray([np.mean(by_topic[t]) for t in topics])

    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), width_ratios=[1, 1.35], layout="constrained")
    left.axhline(1, color="0.8", lw=1, zorder=0)
    left.scatter(sizes, means, s=28, color="#1f77b4", alpha=0.85)
    for i in (0, 2, len(topics) // 2, len(topics) - 2):
        left.annotate(
            topics[i], (sizes[i], means[i]), xytext=(4, 6), textcoords="offset points", fontsize=8, color="0.3"
        )
    left.set(xscale="log", yscale="log", xlabel="openings of the topic", ylabel="mean weight of its openings")
    left.set_yticks([0.25, 0.5, 1, 2, 4], ["¼", "½", "1", "2", "4"])
    left.set_yticks([], minor=True)
    left.set_title("rare counts more", loc="left")

    shares = {"as they come": sizes / sizes.sum(), "by weight": sizes * means / (sizes * means).sum()}
    positions = np.arange(len(topics))
    right.bar(positions - 0.2, shares["as they come"], 0.4, color="0.7", label="as they come")
    right.bar(positions + 0.2, shares["by weight"], 0.4, color="#1f77b4", label="by weight")
    right.axhline(1 / len(topics), color="0.4", lw=0.8, ls=":", label="all topics alike")
    right.set(xlabel="topics, largest first", ylabel="share of the training signal", xticks=[])
    right.yaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    right.set_title("what a model gets to see", loc="left")
    right.legend(frameon=False)
    figure.savefig(Path(__file__).with_name("demo.png"), dpi=130)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
