"""Principal components against NumPy's singular values."""

from __future__ import annotations

import numpy as np
import pytest

from kat.errors import InputError
from kat.projection import components
from kat.projection.components import principal_components


def by_svd(x):
    centred = x - x.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2]
    signs = np.sign(axes[np.arange(2), np.abs(axes).argmax(axis=1)])
    return centred @ (axes * signs[:, None]).T


@pytest.mark.parametrize("shape", [(300, 7), (20, 40), (3, 2)])
def test_against_numpy(shape, monkeypatch):
    monkeypatch.setattr(components, "_ROWS", 64)  # several chunks
    x = np.random.default_rng(0).normal(size=shape) * np.linspace(3, 1, shape[1]) + 1000
    assert principal_components(x) == pytest.approx(by_svd(x), abs=1e-8)


def test_wide_vectors(monkeypatch):
    monkeypatch.setattr(components, "_DENSE", 30)
    x = np.random.default_rng(1).normal(size=(500, 60)) * np.linspace(4, 1, 60)
    assert principal_components(x) == pytest.approx(by_svd(x), abs=1e-4)


def test_rows_alone():
    x = np.random.default_rng(2).normal(size=(50, 5))
    rows = np.array([3, 10, 11, 40])
    assert principal_components(x, rows) == pytest.approx(by_svd(x[rows]), abs=1e-9)


@pytest.mark.parametrize("shape", [(1, 5), (2, 5), (3, 5), (40, 1), (2, 1), (1, 1)])
def test_what_has_no_second_component(shape):
    x = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    xy = principal_components(x)
    assert xy.shape == (shape[0], 2)
    if min(shape[0] - 1, shape[1]) < 2:
        assert (xy[:, 1] == 0).all()
    apart = np.linalg.norm(xy[0] - xy, axis=1)
    assert apart == pytest.approx(np.linalg.norm(x[0] - x, axis=1), abs=1e-5)  # 3 points and fewer lie in a plane


def test_one_place():
    assert (principal_components(np.full((9, 4), 0.3)) == 0).all()


def test_not_finite():
    with pytest.raises(InputError, match="NaN or infinity"):
        principal_components(np.array([[1.0, np.nan], [0, 1]]))


def test_a_mapped_array_is_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(components, "_ROWS", 16)
    x = np.random.default_rng(4).normal(size=(100, 6)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    mapped, asked = np.load(tmp_path / "x.npy", mmap_mode="r"), []

    class Watched:
        shape = x.shape

        def __len__(self):
            return len(x)

        def __getitem__(self, rows):
            asked.append(len(rows))
            return mapped[rows]

    assert principal_components(Watched()) == pytest.approx(by_svd(x.astype(np.float64)), abs=1e-8)
    assert max(asked) == 16
