"""A search whose tiles are filled elsewhere: the same bytes as here, whatever the blocks and their order."""

import numpy as np
import pytest
import torch
from neighbors.test_exact import NAMES, assert_same, made

from kat.executors.base import Executor, Launcher
from kat.executors.worker import resolve
from kat.neighbors import blocks, exact, tiles
from kat.neighbors.find import find_neighbors


class Here:
    """Workers in this process, which answer in an order of their own and get arrays that cannot be written to."""

    device, mixed = None, False

    def __init__(self, seed=0, threads=1, stop_after=None):
        self.draw, self.threads, self.stop_after = np.random.default_rng(seed), threads, stop_after
        self.started, self.shared_bytes, self.open = 0, 0, 0
        self.tasks = []

    def start(self, function, settings, shared=(), *, alike=False):
        held = [np.array(array) for array in shared]
        for array in held:
            array.setflags(write=False)
        self.shared_bytes = sum(array.nbytes for array in held)
        self.started += 1
        self.open += 1
        return Hand(self, resolve(function)(settings, held)[0])

    def close(self):
        pass


class Hand:
    """One executor of `Here`: of the tasks that are under way it computes any."""

    count, facts = 1, ()

    def __init__(self, launcher, compute):
        self.launcher, self.compute = launcher, compute

    def run(self, tasks):
        tasks, held, done = iter(tasks), [], 0
        while True:
            while len(held) < 4 and (task := next(tasks, None)) is not None:
                held.append(task)
            if not held:
                return
            number, arrays = held.pop(self.launcher.draw.integers(len(held)))
            for array in arrays:
                array.setflags(write=False)
            self.launcher.tasks.append(number)
            yield number, self.compute(arrays)
            done += 1
            if done == self.launcher.stop_after:
                raise KeyboardInterrupt

    def close(self):
        self.launcher.open -= 1


@pytest.fixture(params=[(64, 24), (50, 3)], ids=["many blocks", "few"])
def small_blocks(request, monkeypatch):
    """Blocks of few rows, so that small sets have several, with several tiles each."""
    least, tile = request.param
    monkeypatch.setattr(blocks, "LEAST", least)
    monkeypatch.setattr(blocks, "BLOCKS", 10_000)
    monkeypatch.setattr(blocks, "TILE", tile)


@pytest.mark.parametrize("products", ["int8", "float32", "topk"])
@pytest.mark.parametrize("name", NAMES)
def test_the_same_bytes_as_here(name, products, small_blocks):
    if products == "int8" and not tiles.has_int8_products(40):
        pytest.skip("no exact 8-bit products on this processor")
    x = made(name)
    for k, seed in ((1, 0), (10, 1), (40, 2)):
        launcher = Here(seed)
        assert isinstance(launcher, Launcher)
        elsewhere = exact.knn_self(x, k, products=products, launcher=launcher)
        assert_same(x, x, elsewhere, k, True)
        for one, other in zip(exact.knn_self(x, k, products=products), elsewhere, strict=True):
            np.testing.assert_array_equal(one, other)
        assert launcher.started >= 1
        assert launcher.open == 0
        assert len(launcher.tasks) > 2


def test_workers_with_threads(small_blocks):
    x = made("clustered")
    for one, other in zip(exact.knn_self(x, 9), exact.knn_self(x, 9, launcher=Here(threads=3)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_vectors_stay_at_home_unless_codes_do_not_tell(monkeypatch):
    """Near copies have equal codes: their limits fall to nothing, and workers are asked again, with the vectors."""
    monkeypatch.setattr(blocks, "LEAST", 700)
    plain, launcher = made("gaussian"), Here()
    exact.knn_self(plain, 5, launcher=launcher)
    first = launcher.shared_bytes
    assert launcher.started == 1
    assert first < plain.nbytes  # a byte a number, and some a row
    monkeypatch.setattr(blocks, "FEW", 0)
    rng = np.random.default_rng(0)
    near = (rng.normal(size=(2, 40))[rng.integers(0, 2, 1400)] + 1e-4 * rng.normal(size=(1400, 40))).astype(np.float32)
    launcher = Here()
    elsewhere = exact.knn_self(near, 5, launcher=launcher)
    assert_same(near, near, elsewhere, 5, True)
    assert launcher.started == 2
    assert launcher.shared_bytes > near.nbytes


@pytest.mark.parametrize("products", ["int8", "float32", "topk"])
@pytest.mark.parametrize(("side", "least"), [(8, 5000), (8, 2048), (5, 2048), (11, 5000)])
def test_limits_of_codes_that_are_no_whole_numbers(products, side, least, monkeypatch):
    """Lists hold distances rounded down. A limit of 2 keeps 2.7, or a neighbour at 2.3 would be lost as proven."""
    if products == "int8" and not tiles.has_int8_products(2):
        pytest.skip("no exact 8-bit products on this processor")
    monkeypatch.setattr(blocks, "LEAST", least)
    rng = np.random.default_rng(0)
    corners = [[-127, -127], [127, 127], [-127, 127], [127, -127]]  # far away: the grid of codes is coarse
    x = np.concatenate([rng.uniform(0, side, (4000, 2)), corners]).astype(np.float32)[rng.permutation(4004)]
    gaps = ((x[:, None].astype(np.float64) - x[None]) ** 2).sum(2)
    np.fill_diagonal(gaps, np.inf)
    nearest = np.sqrt(np.sort(gaps, axis=1)[:, :10])
    for launcher in (Here(), None):
        distances = exact.knn_self(x, 10, products=products, threads=1, launcher=launcher)[1]
        np.testing.assert_allclose(distances, nearest, rtol=1e-5)


def test_queries_are_sent_where_they_are_many(small_blocks, monkeypatch):
    x, queries = made("gaussian"), made("gaussian")[:170] + np.float32(0.1)
    launcher = Here()
    exact.knn_query(queries, x, 7, launcher=launcher)
    assert launcher.started == 0  # this process is quicker
    monkeypatch.setattr(blocks, "FEW", 0)
    elsewhere = exact.knn_query(queries, x, 7, launcher=launcher)
    assert launcher.started == 1
    assert_same(queries, x, elsewhere, 7, False)


def test_some_rows_alone(small_blocks):
    x = made("gaussian")
    rows = np.random.default_rng(3).permutation(len(x))[:300].astype(np.int64)
    here, elsewhere = (exact.knn_self(x, 6, rows=rows, launcher=one) for one in (None, Here()))
    for one, other in zip(here, elsewhere, strict=True):
        np.testing.assert_array_equal(one[rows], other[rows])


def test_duplicates_and_halves(small_blocks, monkeypatch):
    monkeypatch.setattr(blocks, "FEW", 0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 12))[rng.integers(0, 300, 500)].astype(np.float32)
    here, elsewhere = find_neighbors(x, 8), find_neighbors(x, 8, launcher=Here())
    for name in ("indices", "distances", "distinct_distances", "multiplicity"):
        np.testing.assert_array_equal(getattr(here, name), getattr(elsewhere, name))
    for name, one in vars(here.halves).items():
        np.testing.assert_array_equal(one, getattr(elsewhere.halves, name))


@pytest.mark.parametrize("after", [1, 5, 9])
def test_a_stopped_search_goes_on(after, small_blocks, monkeypatch, tmp_path):
    monkeypatch.setattr(blocks, "SAVE_SECONDS", 0.0)
    x, file = made("sorted"), tmp_path / "search.npz"
    wanted = exact.knn_self(x, 4)
    first = Here(stop_after=after)
    with pytest.raises(KeyboardInterrupt):
        exact.knn_self(x, 4, launcher=first, checkpoint=file)
    assert first.open == 0
    assert file.is_file()
    second = Here(seed=1)
    for one, other in zip(wanted, exact.knn_self(x, 4, launcher=second, checkpoint=file), strict=True):
        np.testing.assert_array_equal(one, other)
    assert first.tasks[0] not in second.tasks
    assert set(first.tasks) | set(second.tasks) == set(range(max(second.tasks) + 1))
    assert not file.exists()


def test_the_file_of_another_search_is_no_use(small_blocks, monkeypatch, tmp_path):
    monkeypatch.setattr(blocks, "SAVE_SECONDS", 0.0)
    x, file = made("uniform"), tmp_path / "search.npz"
    with pytest.raises(KeyboardInterrupt):
        exact.knn_self(x + np.float32(1), 4, launcher=Here(stop_after=5), checkpoint=file)
    assert_same(x, x, exact.knn_self(x, 4, launcher=Here(), checkpoint=file), 4, True)
    with pytest.raises(KeyboardInterrupt):
        exact.knn_self(x, 4, launcher=Here(stop_after=5), checkpoint=file)
    assert_same(x, x, exact.knn_self(x, 4, checkpoint=file), 4, True)  # cut otherwise here


def test_blocks_are_a_function_of_the_rows_alone():
    for rows in (1, 2047, 2048, 50_000, 1_000_000, 10_000_000):
        bounds = blocks.edges(rows)
        assert (bounds[0], bounds[-1]) == (0, rows)
        sizes = np.diff(bounds)
        assert sizes.min() > 0
        assert sizes.max() <= blocks.MOST
        assert sizes.max() - sizes.min() <= 1
    assert [len(blocks.edges(rows)) - 1 for rows in (100_000, 1_000_000, 10_000_000)] == [13, 38, 121]


def test_an_executor_of_this_file_is_one():
    assert isinstance(Hand(Here(), None), Executor)


def test_processors_without_fast_products_multiply_exactly(small_blocks, monkeypatch):
    """A worker may lack what the first process has: it multiplies the same codes, more slowly."""
    if not tiles.has_int8_products(40):
        pytest.skip("no exact 8-bit products on this processor")
    x = made("gaussian")
    wanted = exact.knn_self(x, 5)
    real = torch._int_mm
    monkeypatch.setattr(tiles, "has_int8_products", lambda columns: False)
    monkeypatch.setattr(torch, "_int_mm", lambda a, b, out: real(a, b, out=out).sub_(900))  # wrong, as saturating ones
    elsewhere = exact.knn_self(x, 5, products="int8", launcher=Here())
    for one, other in zip(wanted, elsewhere, strict=True):
        np.testing.assert_array_equal(one, other)
