"""What `.plot()` of a result draws: one panel in matplotlib's axes, which it returns."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

from kat.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

BLUE, VERMILION = "#0072B2", "#D55E00"
_BINS = 50
_TITLE = 60


def histogram(series: Mapping[str, np.ndarray], title: str, label: str, unit: str, axes: Axes | None = None) -> Axes:
    """Draw how often values occur: of each name's values [n], those that are finite, in 50 bins that they share.

    `unit` is what is counted. Raises InputError if no value is finite, MissingExtraError without matplotlib.
    """
    import numpy as np

    finite = {name: values[np.isfinite(values)] for name, values in series.items()}
    if not sum(map(len, finite.values())):
        raise InputError("There is nothing to plot: no value is finite.")
    edges = np.histogram_bin_edges(np.concatenate([*finite.values()]), _BINS)
    axes = _axes(axes)
    for (name, values), colour in zip(finite.items(), (BLUE, VERMILION)[: len(finite)], strict=True):
        axes.hist(values, edges.tolist(), color=colour, alpha=1 if len(finite) == 1 else 0.6, label=name)
    if len(finite) > 1:
        axes.legend(frameon=False)
    axes.set_ylabel(unit)
    return _finished(axes, title, label)


def intervals(
    values: Mapping[str, tuple[float, tuple[float, float] | None]],
    title: str,
    label: str,
    middle: float,
    axes: Axes | None = None,
) -> Axes:
    """Draw named values with their intervals, where there is one, a row each from the top; a line stands at `middle`.

    Raises MissingExtraError without matplotlib.
    """
    axes = _axes(axes)
    for row, (value, ends) in enumerate(values.values()):
        low, high = (value, value) if ends is None else ends
        axes.plot([low, high], [row, row], color=BLUE)
        axes.plot(value, row, "o", color=BLUE)
    axes.axvline(middle, color="#6b6b6b", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(values)), list(values))
    axes.invert_yaxis()
    return _finished(axes, title, label)


def plane(vectors: np.ndarray, title: str, colours: np.ndarray | None = None, name: str = "") -> Axes:
    """Draw vectors [N, D] on their first two principal components, coloured by values [N] that have a name.

    The components are those of the centred vectors, by singular value decomposition.
    """
    axes = _axes(None)
    places = principal_plane(vectors)
    if colours is None:
        axes.scatter(places[:, 0], places[:, 1], s=6, color=BLUE)
    else:
        drawn = axes.scatter(places[:, 0], places[:, 1], s=6, c=colours, cmap="viridis")
        axes.figure.colorbar(drawn, ax=axes, label=name)
    axes.set_ylabel("second component")
    return _finished(axes, title, "first principal component")


def principal_plane(vectors: np.ndarray) -> np.ndarray:
    """Return the coordinates [N, 2] of vectors [N, D] on their first two principal components; 0 where there is none.

    Raises InputError if there are no vectors.
    """
    import numpy as np

    if not len(vectors):
        raise InputError("There is nothing to plot: there are no vectors.")
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(centred.T @ centred)  # D × D, however many rows there are; the largest come last
    places = centred @ axes[:, ::-1][:, :2]
    return np.pad(places, ((0, 0), (0, 2 - places.shape[1])))


def _axes(axes: Axes | None) -> Axes:
    if axes is not None:
        return axes
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise MissingExtraError(
            "plot needs matplotlib, which is not installed. Type: pip install 'matplotlib>=3.8'"
        ) from error
    return pyplot.subplots(layout="constrained")[1]


def _finished(axes: Axes, title: str, label: str) -> Axes:
    axes.set_title(textwrap.fill(title, _TITLE), fontsize="medium")
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    return axes
