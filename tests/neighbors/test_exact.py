"""The neighbour search against brute force in float64, on shapes that break searches."""

import numpy as np
import pytest
import torch

from kat.neighbors import exact as search
from kat.neighbors import kernels, tiles, topk

PRODUCTS = ("int8", "float32", "topk")


def made(name: str) -> np.ndarray:
    """A small awkward data set, float32 [N, D]."""
    rng = np.random.default_rng(7)
    normal = rng.standard_normal
    plain = normal((450, 40))
    sets = {
        "gaussian": lambda: plain,
        "sphere": lambda: plain / np.linalg.norm(plain, axis=1, keepdims=True),
        "uniform": lambda: rng.random((300, 3)),
        "duplicated": lambda: normal((12, 20))[rng.integers(0, 12, 400)],
        "identical": lambda: np.ones((150, 5)),
        "clustered": lambda: normal((6, 33))[rng.integers(0, 6, 420)] + 1e-4 * normal((420, 33)),
        "grid": lambda: rng.integers(0, 4, (400, 4)),
        "line": lambda: normal((350, 1)),
        "collinear": lambda: normal((300, 1)) * normal((1, 24)) + 1e-5 * normal((300, 24)),
        "offset": lambda: 1e4 + normal((300, 17)),
        "norms": lambda: plain * np.exp(3 * normal((450, 1))),
        "outlier": lambda: np.concatenate([1e-3 * plain, 1e3 * np.ones((1, 40))]),
        "sorted": lambda: np.sort(normal((400, 2)), axis=0),
    }
    return np.ascontiguousarray(sets[name](), dtype=np.float32)


NAMES = ("gaussian", "sphere", "uniform", "duplicated", "identical", "clustered", "grid")
NAMES += ("line", "collinear", "offset", "norms", "outlier", "sorted")


def brute_force(queries: np.ndarray, x: np.ndarray, k: int, itself: bool) -> tuple[np.ndarray, np.ndarray]:
    """Indices [M, k] and float64 distances [M, k] by differences, ties by the smaller index."""
    gaps = queries[:, None].astype(np.float64) - x[None].astype(np.float64)
    distances = np.sqrt(np.einsum("mnd,mnd->mn", gaps, gaps))
    if itself:
        np.fill_diagonal(distances, np.inf)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(distances, order, axis=1)


def assert_same(queries: np.ndarray, x: np.ndarray, found: tuple, k: int, itself: bool) -> None:
    """The found neighbours are those of brute force, up to rounding of equal distances."""
    indices, distances = found
    _, expected = brute_force(queries, x, k, itself)
    assert indices.shape == distances.shape == (len(queries), k)
    assert (indices.dtype, distances.dtype) == (np.int32, np.float32)
    assert np.all(np.diff(distances, axis=1) >= 0)
    assert all(len(set(row)) == k for row in indices.tolist())
    gaps = queries[:, None].astype(np.float64) - x[indices].astype(np.float64)
    exact = np.sqrt((gaps * gaps).sum(axis=2))
    np.testing.assert_allclose(exact, expected, rtol=1e-12, atol=0)
    np.testing.assert_allclose(distances, expected, rtol=1e-6, atol=0)
    if itself:
        assert not (indices == np.arange(len(x))[:, None]).any()


@pytest.fixture(params=PRODUCTS)
def products(request: pytest.FixtureRequest) -> str:
    """A kind of products; 8-bit ones only where torch multiplies them exactly."""
    if request.param == "int8" and not tiles.has_int8_products(40):
        pytest.skip("no exact 8-bit products on this processor")
    return request.param


@pytest.mark.parametrize("name", NAMES)
def test_self_equals_brute_force(name: str, products: str) -> None:
    x = made(name)
    for k, tile in ((1, 64), (10, 61), (40, 1024)):
        assert_same(x, x, search.knn_self(x, k, products=products, tile=tile), k, True)


@pytest.mark.parametrize("name", ["gaussian", "duplicated", "offset", "clustered"])
def test_queries_equal_brute_force(name: str, products: str) -> None:
    x = made(name)
    queries = np.concatenate([x[:50], x[50:90] + np.float32(0.25)])
    assert_same(queries, x, search.knn_query(queries, x, 9, products=products, tile=64), 9, False)


@pytest.mark.parametrize("name", ["grid", "duplicated", "identical"])
def test_ties_go_to_the_smaller_index(name: str, products: str) -> None:
    x = made(name)
    expected, _ = brute_force(x, x, 12, True)
    np.testing.assert_array_equal(search.knn_self(x, 12, products=products, tile=50)[0], expected)


@pytest.mark.parametrize("rows", [2, 3, 9])
def test_few_rows(rows: int, products: str) -> None:
    x = made("gaussian")[:rows]
    assert_same(x, x, search.knn_self(x, rows - 1, products=products), rows - 1, True)


def test_lists_shorter_than_the_neighbourhoods() -> None:
    x = made("clustered")  # 70 rows within one step of the grid: lists overflow and exact distances decide
    x = np.repeat(x, 4, axis=0) + np.float32(1e-6) * np.arange(4 * len(x), dtype=np.float32)[:, None]
    assert_same(x, x, search.knn_self(x, 3, tile=100), 3, True)


def test_wrong_suggestions_are_noticed_and_repaired(monkeypatch: pytest.MonkeyPatch) -> None:
    x = made("gaussian")
    again = []
    monkeypatch.setattr(tiles, "rank", lambda job, seen: again.append(job.strict) or (0 if job.strict else 1))
    assert_same(x, x, search.knn_self(x, 20, tile=64), 20, True)
    assert True in again


def test_topk_with_few_candidates_is_repaired(monkeypatch: pytest.MonkeyPatch) -> None:
    x = made("collinear")
    kept = topk.topk_block
    monkeypatch.setattr(topk, "topk_block", lambda job, rows, room, columns: kept(job, rows, 8, columns))
    assert_same(x, x, search.knn_self(x, 8, products="topk"), 8, True)


def test_many_points_are_taken_in_blocks_of_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks of queries and of columns, and stretches of few points."""
    for name, value in (("BLOCK", 128), ("WIDTH", 256), ("STRETCH", 2)):
        monkeypatch.setattr(topk, name, value)
    for name in ("gaussian", "duplicated", "grid"):
        x = made(name)
        assert_same(x, x, search.knn_self(x, 5, products="topk"), 5, True)


@pytest.mark.parametrize("count", [1, 7, 32])
@pytest.mark.parametrize("columns", [2048, 2050, 64])
def test_smallest_values_of_rows(count: int, columns: int) -> None:
    draw = torch.Generator().manual_seed(0)
    values = torch.randint(0, 500, (9, columns), generator=draw).float()  # with ties
    values[2, 5:] = torch.inf
    least, at = topk.smallest(values, count)
    torch.testing.assert_close(least, values.sort(1).values[:, :count])
    torch.testing.assert_close(values.gather(1, at), least)
    assert all(len(set(row)) == count for row in at.tolist())


@pytest.mark.parametrize("products", ["int8", "float32"])
def test_slack_bounds_every_code_distance(products: str) -> None:
    x = made("norms")
    job = search.prepare(x, 5, products=products, tile=100, threads=1)
    codes = job.codes.numpy().astype(np.float64)
    rows = x[job.points.order].astype(np.float64)
    apart = np.linalg.norm(codes[:, None] - codes[None], axis=2)
    true = np.linalg.norm(rows[:, None] - rows[None], axis=2) / job.step
    assert np.all(np.abs(apart - true) <= job.lists.slack[:, None] * (1 + 1e-9))
    assert np.abs(apart - true).max() > 0


def test_float32_rounding_bound_holds() -> None:
    x = made("offset")
    job = search.prepare(x, 5, products="float32", tile=100, threads=1)
    codes = job.codes.numpy().astype(np.float64)
    rough = job.points.norms[:, None] + job.points.norms[None] - 2 * (job.codes @ job.codes.T).numpy()
    exact = ((codes[:, None] - codes[None]) ** 2).sum(axis=2)
    assert np.all(np.abs(rough - exact) <= job.lists.rounding[:, None])


def test_progress_and_threads_are_left_as_found() -> None:
    x, told = made("gaussian"), []
    before = torch.get_num_threads()
    search.knn_self(x, 5, tile=100, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 15) for done in range(1, 16)]
    assert torch.get_num_threads() == before


def test_stopped_search_goes_on(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, path, told = made("gaussian"), tmp_path / "search.npz", []
    monkeypatch.setattr(tiles, "SAVE_SECONDS", 0.0)

    def stop(done: int, total: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search.knn_self(x, 5, tile=100, progress=stop, checkpoint=path)
    assert path.exists()
    other = search.knn_self(x[::-1].copy(), 5, tile=100)
    found = search.knn_self(x, 5, tile=100, progress=lambda done, total: told.append(done), checkpoint=path)
    assert_same(x, x, found, 5, True)
    assert told[0] > 1
    assert not path.exists()
    assert not np.array_equal(other[0], found[0])


def test_checkpoint_of_other_input_is_not_used(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, path = made("gaussian"), tmp_path / "search.npz"
    path.write_bytes(b"not an archive")
    assert_same(x, x, search.knn_self(x, 5, tile=100, checkpoint=path), 5, True)


@pytest.mark.parametrize(
    ("x", "k"),
    [
        (np.zeros((5, 2), np.float64), 2),
        (np.zeros((5, 2), np.float32), 5),
        (np.zeros((5, 2), np.float32), 0),
        (np.zeros(5, np.float32), 2),
        (np.full((5, 2), np.nan, np.float32), 2),
        (np.array([[0, 1], [np.inf, 1], [2, 3]], np.float32), 1),
    ],
)
def test_wrong_input(x: np.ndarray, k: int) -> None:
    with pytest.raises(ValueError, match=r"k must be|float32 array|finite"):
        search.knn_self(x, k)


def test_wrong_options() -> None:
    x = made("gaussian")
    with pytest.raises(ValueError, match="products"):
        search.knn_self(x, 3, products="int4")
    with pytest.raises(ValueError, match="columns"):
        search.knn_query(x[:, :3].copy(), x, 3)


def test_kth_smallest() -> None:
    values = np.random.default_rng(0).integers(0, 9, 200)
    assert [kernels.kth_smallest(values.copy(), k) for k in (1, 77, 200)] == np.sort(values)[[0, 76, 199]].tolist()


def test_some_rows_alone_are_searched_as_if_the_others_were_not_there() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(700, 12)).astype(np.float32)
    rows = np.sort(rng.permutation(700)[:400])
    near, apart = search.knn_self(x, 7, rows=rows, tile=64)
    alone, distances = search.knn_self(np.ascontiguousarray(x[rows]), 7, tile=64)
    np.testing.assert_array_equal(near[rows], rows[alone])
    np.testing.assert_allclose(apart[rows], distances, atol=1e-6)
