"""Coordinates: what UMAP is given against umap-learn's own, and every row's place against the slow formula."""

from __future__ import annotations

import importlib.util
import warnings

import numpy as np
import pytest

from kat.errors import InputError, MismatchError, MissingExtraError, OptionError
from kat.neighbors.find import find_neighbors
from kat.projection import coordinates, layout
from kat.projection.components import principal_components
from kat.projection.coordinates import COMPONENTS, UMAP, groups, lists_among, place, project
from kat.projection.layout import fuzzy_graph, memberships

needs_umap = pytest.mark.skipif(importlib.util.find_spec("umap") is None, reason="umap-learn is not installed")


def clusters(n=240, of=4, width=12, seed=0):
    rng = np.random.default_rng(seed)
    number = np.arange(n) % of
    x = rng.normal(size=(of, width))[number] * 2 + 0.4 * rng.normal(size=(n, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), number


def metric_of(x, metric="cosine"):
    return coordinates._Metric(x, metric, False)


def nearest_among(x, fitted, q):
    """Neighbours by all distances in float64."""
    rows = x[fitted].astype(np.float64)
    apart = np.linalg.norm(rows[:, None] - rows, axis=2)
    np.fill_diagonal(apart, np.inf)
    near = np.argsort(apart, axis=1, kind="stable")[:, :q]
    return near, np.take_along_axis(apart, near, 1)


@needs_umap
def test_planted_clusters_stay_apart():
    x, number = clusters()
    shown = project(x, find_neighbors(x, 20))
    assert (shown.method, shown.fitted, shown.xy.dtype, shown.xy.shape) == (UMAP, 240, np.float32, (240, 2))
    centres = np.stack([shown.xy[number == c].mean(axis=0) for c in range(4)])
    apart = np.linalg.norm(shown.xy[:, None] - centres, axis=2)
    assert (apart.argmin(axis=1) == number).all()
    own = apart[np.arange(240), number].mean()
    assert np.linalg.norm(centres[:, None] - centres, axis=2)[np.triu_indices(4, 1)].min() > 3 * own


@needs_umap
def test_the_same_picture_every_time(monkeypatch):
    x, _ = clusters()
    neighbors = find_neighbors(x, 20)
    one = project(x, neighbors, 3)
    assert (one.xy == project(x.copy(), neighbors, 3).xy).all()
    assert (one.xy != project(x, neighbors, 4).xy).any()
    # A sum in another order changes last bits of the components; the picture must not follow them.
    exact = layout.principal_components
    monkeypatch.setattr(layout, "principal_components", lambda v, rows: exact(v, rows) * (1 + 1e-14))
    assert (one.xy == project(x, neighbors, 3).xy).all()


@needs_umap
def test_the_graph_is_umaps_own():
    """umap-learn's functions as plain Python, with self in column 0, as it wants it."""
    from umap import umap_

    x, _ = clusters(60)
    near, apart = nearest_among(x, np.arange(60), 9)
    with_self = np.column_stack([np.arange(60), near])
    distances = np.column_stack([np.zeros(60), apart]).astype(np.float32)
    sigmas, rhos = umap_.smooth_knn_dist.py_func(distances, 10.0)
    rows, columns, values, _ = umap_.compute_membership_strengths.py_func(with_self, distances, sigmas, rhos)
    one_way = np.zeros((60, 60))
    one_way[rows, columns] = values
    theirs = one_way + one_way.T - one_way * one_way.T
    assert fuzzy_graph(near, apart.astype(np.float32)).toarray() == pytest.approx(theirs, abs=2e-4)


def test_memberships_sum_to_the_logarithm():
    apart = np.sort(np.random.default_rng(0).uniform(1, 2, (50, 15)), axis=1).astype(np.float32)
    members = memberships(apart)
    assert members[:, 0] == pytest.approx(1)
    assert members.sum(axis=1) == pytest.approx(4, abs=1e-4)
    assert np.isfinite(memberships(np.ones((3, 15), np.float32))).all()


@pytest.mark.parametrize(
    ("k", "sampled", "searched"),
    [(30, 200, []), (22, 190, ["knn_query"]), (20, 100, ["knn_self"]), (20, 25, ["knn_self"]), (2, 200, ["knn_self"])],
)
def test_neighbours_among_a_sample(k, sampled, searched, monkeypatch):
    """Stored lists suffice for all rows, for most, and for none; what comes out is the same search."""
    x, _ = clusters(240)
    x[200:] = x[:40]  # duplicates, in lists and out of the sample
    neighbors = find_neighbors(x, k)
    group = groups(neighbors)
    assert (group == np.where(np.arange(240) < 200, np.arange(240), np.arange(240) - 200)).all()
    fitted = np.sort(np.random.default_rng(1).choice(200, sampled, replace=False))
    calls = []
    for name in ("knn_self", "knn_query"):
        search = getattr(coordinates, name)
        monkeypatch.setattr(coordinates, name, lambda *a, n=name, f=search: calls.append(n) or f(*a))
    near, apart = lists_among(fitted, group, neighbors, metric_of(x))
    assert calls == searched
    expected, distances = nearest_among(x, fitted, 15)
    assert (near == expected).all()
    assert apart == pytest.approx(distances, abs=1e-6)


def test_more_duplicates_than_a_list_holds():
    x, _ = clusters(60)
    x[5::2] = x[5]
    neighbors = find_neighbors(x, 6)
    expected = [int(np.flatnonzero((x == row).all(axis=1))[0]) for row in x]
    assert groups(neighbors).tolist() == expected


def test_place_by_the_slow_formula():
    x, _ = clusters(240)
    x[230:] = x[:10]
    neighbors = find_neighbors(x, 8)
    group = groups(neighbors)
    fitted = np.sort(np.random.default_rng(2).choice(230, 60, replace=False))
    places = np.random.default_rng(3).normal(size=(60, 2))
    xy = place(fitted, places, group, neighbors, metric_of(x))

    known = dict(zip(fitted.tolist(), places, strict=True))
    for _ in range(3):
        new = {}
        for row in range(230):
            pairs = {}
            for at, d in zip(neighbors.indices[row].tolist(), neighbors.distances[row].tolist(), strict=True):
                first = min(np.flatnonzero((x == x[at]).all(axis=1)).tolist())
                if d > 0 and first in known and first not in pairs and len(pairs) < 5:
                    pairs[first] = 1 / d
            if row not in known and pairs:
                total = sum(pairs.values())
                new[row] = sum(w * known[at] for at, w in pairs.items()) / total
        known |= new
    assert len(known) == 230  # three rounds reach all of these
    assert xy[:230] == pytest.approx(np.array([known[row] for row in range(230)]), rel=1e-5, abs=1e-6)
    assert (xy[230:] == xy[:10]).all()


def test_a_row_that_no_neighbour_leads_to_a_place():
    x, number = clusters(120, of=2)
    fitted = np.flatnonzero(number == 0)
    places = np.random.default_rng(0).normal(size=(60, 2))
    xy = place(fitted, places, np.arange(120), find_neighbors(x, 5), metric_of(x))
    lost = np.flatnonzero(number == 1)
    nearest = np.linalg.norm(x[lost][:, None] - x[fitted], axis=2).argmin(axis=1)
    assert (xy[lost] == places[nearest]).all()


@needs_umap
def test_a_sample_and_the_rest():
    x, number = clusters(400)
    shown = project(x, find_neighbors(x, 20), most=100)
    assert shown.fitted == 100
    assert "UMAP of 100 openings" in shown.told
    assert "The other 300 lie at the mean of up to 5 neighbours" in shown.told
    centres = np.stack([shown.xy[number == c].mean(axis=0) for c in range(4)])
    assert (np.linalg.norm(shown.xy[:, None] - centres, axis=2).argmin(axis=1) == number).mean() > 0.98
    assert (shown.xy == project(x, find_neighbors(x, 20), most=100).xy).all()


@needs_umap
def test_two_thousand_duplicates():
    """They are one place among the others, and lie around it; nothing warns."""
    x, _ = clusters(100)
    x = np.concatenate([x, np.repeat(x[:1], 2000, axis=0)])
    neighbors = find_neighbors(x, 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = project(x, neighbors)
    assert shown.fitted == 100
    assert "Openings that share a vector with another, 2,000, lie around it." in shown.told
    width = np.ptp(shown.xy[:100], axis=0).max()
    away = np.linalg.norm(shown.xy[100:] - shown.xy[0], axis=1)
    assert away[-1] == pytest.approx(away.max())
    assert 0.01 * width < away.max() < 0.03 * width
    assert len(np.unique(shown.xy, axis=0)) == 2100


@pytest.mark.parametrize("n", [1, 2, 3, 29])
def test_few_rows_are_shown_by_components(n):
    x, _ = clusters(n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # k is less than asked
        neighbors = find_neighbors(x, 20)
    shown = project(x, neighbors)
    assert shown.method == COMPONENTS
    assert f"needs 30 distinct openings; there are {n}." in shown.told
    assert (shown.xy == principal_components(x).astype(np.float32)).all()


def test_all_vectors_the_same():
    x = np.ones((500, 4), np.float32)
    shown = project(x, find_neighbors(x, 20))
    assert shown.method == COMPONENTS
    assert (shown.xy == 0).all()


def test_without_umap(monkeypatch):
    monkeypatch.setattr(layout.importlib.util, "find_spec", lambda name: None)
    x, _ = clusters()
    neighbors = find_neighbors(x, 20)
    shown = project(x, neighbors)
    assert shown.method == COMPONENTS
    assert "pip install 'umap-learn>=0.5.7'" in shown.told
    assert (shown.xy == principal_components(x).astype(np.float32)).all()
    with pytest.raises(MissingExtraError, match=r"pip install 'umap-learn>=0\.5\.7'"):
        project(x, neighbors, method="umap")


@needs_umap
def test_an_installed_umap_that_cannot_be_used(monkeypatch):
    x, _ = clusters()
    neighbors = find_neighbors(x, 20)
    with monkeypatch.context() as patch:
        patch.setattr(coordinates, "lay_out", lambda *_: np.full((240, 2), np.nan))
        assert "not finite" in project(x, neighbors).told

    def fails(*_):
        raise TypeError("an argument that this version does not have")

    with monkeypatch.context() as patch:
        patch.setattr(coordinates, "lay_out", fails)
        assert "UMAP failed: TypeError an argument" in project(x, neighbors).told

    def broken(name):
        raise RuntimeError("cannot cache function 'rdist'")

    monkeypatch.setattr(layout.importlib, "import_module", broken)
    shown = project(x, neighbors)
    assert shown.method == COMPONENTS
    assert "cannot be imported: cannot cache function" in shown.told


def test_what_is_refused():
    x, _ = clusters()
    neighbors = find_neighbors(x, 5)
    with pytest.raises(InputError, match="239 vectors and 240 rows"):
        project(x[1:], neighbors)
    with pytest.raises(InputError, match="queries"):
        project(x, find_neighbors(x, 5, queries=x))
    with pytest.raises(OptionError, match="method"):
        project(x, neighbors, method="tsne")


@needs_umap
def test_vectors_of_another_run_are_noticed():
    x, _ = clusters()
    neighbors = find_neighbors(x + 1, 5, center=True)
    with pytest.raises(MismatchError, match="another setting of center"):
        project(x + 1, neighbors)
    assert project(x + 1, neighbors, center=True).method == UMAP
