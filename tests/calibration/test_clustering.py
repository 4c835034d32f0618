"""Formulae against numbers worked out by hand, and methods against the digits, whose classes are known."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, make_blobs

from calibration import autoencoder
from calibration.clustering import metrics
from calibration.clustering.dec import dec, scaled
from calibration.clustering.fcae import fcae
from calibration.clustering.hardening import (
    Schedule,
    hardening_loss,
    refine,
    soft_assignment,
    target_distribution,
)
from calibration.clustering.kmeans import kmeans
from edgepose.errors import EdgeposeError

Z = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
CENTRES = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
# Squared distances (0, 1) and (4, 1): nearness (1, 1/2) and (1/5, 1/2).
Q = torch.tensor([[2 / 3, 1 / 3], [2 / 7, 5 / 7]])
# Soft sizes 20/21 and 22/21; q^2 / f is 7/15 : 7/66 and 3/35 : 75/154.
P = torch.tensor([[22 / 27, 5 / 27], [22 / 147, 125 / 147]])


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_soft_assignment_is_student_t() -> None:
    torch.testing.assert_close(soft_assignment(Z, CENTRES), Q)


def test_target_distribution_weighs_by_soft_sizes() -> None:
    torch.testing.assert_close(target_distribution(Q), P)


def test_hardening_loss_is_kl_per_sample() -> None:
    by_hand = float((P * torch.log(P / Q)).sum()) / 2
    assert float(hardening_loss(P, Q)) == pytest.approx(by_hand, rel=1e-5)
    assert float(hardening_loss(Q, Q)) == pytest.approx(0, abs=1e-7)


def test_target_distribution_sharpens() -> None:
    """Certain assignments become more certain, in every sample, where clusters are of one size."""
    q = soft_assignment(torch.tensor([[-1.0], [-0.5], [0.5], [1.0]]), torch.tensor([[-1.0], [1.0]]))
    p = target_distribution(q)
    assert (p.max(dim=1).values > q.max(dim=1).values).all()
    torch.testing.assert_close(p.sum(dim=1), torch.ones(4))


def test_target_distribution_holds_large_clusters_back() -> None:
    """Between two centres, halfway, a sample is drawn to the smaller cluster (the frequencies f of eq. 3)."""
    embedding = torch.tensor([[-1.0]] * 9 + [[1.0]] + [[0.0]])
    p = target_distribution(soft_assignment(embedding, torch.tensor([[-1.0], [1.0]])))
    assert p[-1, 1] > 0.6


def test_gradient_on_centres_is_the_papers() -> None:
    """Xie et al. 2016, eq. 5, with alpha 1; ours is per sample."""
    generator = torch.Generator().manual_seed(0)
    z, centres = torch.randn(6, 3, generator=generator), torch.randn(2, 3, generator=generator).requires_grad_()
    q = soft_assignment(z, centres)
    p = target_distribution(q).detach()
    hardening_loss(p, q).backward()
    apart = z[:, None] - centres.detach()[None]
    pull = (p - q.detach()) / (1 + apart.square().sum(dim=2))
    torch.testing.assert_close(centres.grad * 6, -2 * (pull[..., None] * apart).sum(dim=0), rtol=1e-4, atol=1e-5)


def test_refining_moves_centres_and_lowers_the_loss() -> None:
    points, _ = make_blobs(200, 2, centers=[[-2, 0], [2, 0]], random_state=0)
    z, centres = torch.from_numpy(points.astype(np.float32)), torch.tensor([[-1.0, 1.0], [1.0, -1.0]])
    q = soft_assignment(z, centres)
    p = target_distribution(q)
    schedule = Schedule(interval=20, most=1)
    _, moved, updates = _refine(z, centres, schedule)
    assert updates == 1
    assert (moved - centres).norm(dim=1).min() > 0.01
    assert hardening_loss(p, soft_assignment(z, moved)) < hardening_loss(p, q)


def _refine(z: torch.Tensor, centres: torch.Tensor, schedule: Schedule) -> tuple[torch.Tensor, torch.Tensor, int]:
    return refine(torch.nn.Identity(), z, centres, trained=[], loss=lambda b, e, h: h, schedule=schedule, seed=0)


@pytest.mark.parametrize(("tol", "updates"), [(1.1, 1), (0.0, 5)], ids=["any change is rest", "none ever is"])
def test_stop_by_share_of_changed_labels(tol: float, updates: int) -> None:
    z = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    assert _refine(z, z[:4].clone(), Schedule(interval=2, most=5, tol=tol))[2] == updates


def test_stop_when_labels_rest() -> None:
    """Clusters far apart: no label changes after the first update, so there is no second."""
    points, _ = make_blobs(300, 2, centers=[[-20, 0], [20, 0], [0, 20]], random_state=0)
    start = kmeans(points, 3)
    z = torch.from_numpy(start.embedding)
    labels, _, updates = _refine(z, torch.from_numpy(start.centres), Schedule(interval=5))
    assert updates == 1
    np.testing.assert_array_equal(labels.numpy(), start.labels)


def test_accuracy_matches_clusters_to_classes() -> None:
    assert metrics.accuracy([0, 0, 1, 1, 2, 2], [2, 2, 0, 0, 1, 1]) == 1.0
    assert metrics.accuracy([0, 0, 0, 1, 1, 2], [1, 1, 0, 0, 0, 2]) == pytest.approx(5 / 6)
    # Greedy would match cluster 0 to class 0 (3 samples) and be left with 0; the best matching has 2 + 2.
    assert metrics.accuracy([0] * 5 + [1] * 2, [0] * 3 + [1] * 2 + [0] * 2) == pytest.approx(4 / 7)
    assert metrics.accuracy([0, 0, 1, 1], [0, 1, 2, 3]) == 0.5, "more clusters than classes"


def test_nmi() -> None:
    log = np.log
    information = 0.5 * log(0.5 / 0.375) + 0.25 * log(0.25 / 0.375) + 0.25 * log(0.25 / 0.125)
    entropies = log(2), -(0.75 * log(0.75) + 0.25 * log(0.25))
    assert metrics.nmi([0, 0, 1, 1], [0, 0, 0, 1]) == pytest.approx(information / np.mean(entropies))
    assert metrics.nmi([0, 0, 1, 1], [0, 1, 0, 1]) == pytest.approx(0)


def test_kmeans_finds_blobs() -> None:
    points, classes = make_blobs(300, 4, centers=5, random_state=3)
    found = kmeans(points, 5, seed=1)
    assert metrics.accuracy(classes, found.labels) > 0.99
    for name, centre in enumerate(found.centres):
        np.testing.assert_allclose(centre, points[found.labels == name].mean(axis=0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("clusters", [1, 5])
def test_kmeans_of_too_few(clusters: int) -> None:
    with pytest.raises(EdgeposeError, match=r"4 samples cannot make \d clusters; choose 2 to 4"):
        kmeans(np.zeros((4, 2)), clusters)


def test_scaled_features_have_unit_mean_square() -> None:
    x = scaled(np.array([[3.0, 4.0], [0.0, 5.0]]))
    torch.testing.assert_close(x, torch.tensor([[3.0, 4.0], [0.0, 5.0]]) / 12.5**0.5)


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """1797 images of 8 x 8 as rows of 64, 0..16, and their ten classes."""
    return load_digits(return_X_y=True)


def test_dec_is_better_than_its_start(digits: tuple[np.ndarray, np.ndarray]) -> None:
    images, classes = digits
    found = dec(images, 10, seed=1, schedule=Schedule(most=20))
    before, after = (metrics.accuracy(classes, labels) for labels in (found.start, found.labels))
    assert after > before + 0.03
    assert metrics.nmi(classes, found.labels) > metrics.nmi(classes, found.start) + 0.03
    assert after > metrics.accuracy(classes, kmeans(images, 10).labels), "k-means on the pixels"


def test_fcae_is_better_than_its_start(digits: tuple[np.ndarray, np.ndarray]) -> None:
    images, classes = digits
    squares = torch.from_numpy(images.astype(np.float32) / 16).reshape(-1, 1, 8, 8)
    found = fcae(squares, 10, code=16, epochs=30, schedule=Schedule(most=20))
    assert metrics.accuracy(classes, found.labels) > metrics.accuracy(classes, found.start) + 0.01
    assert metrics.nmi(classes, found.labels) > metrics.nmi(classes, found.start) + 0.01


def test_same_seed_same_clusters(digits: tuple[np.ndarray, np.ndarray]) -> None:
    images = digits[0][:200]
    squares = torch.from_numpy(images.astype(np.float32) / 16).reshape(-1, 1, 8, 8)
    short = Schedule(interval=5, most=3)

    def both(seed: int) -> list[np.ndarray]:
        made = (
            dec(images, 5, epochs=5, schedule=short, seed=seed),
            fcae(squares, 5, epochs=2, schedule=short, seed=seed),
        )
        return [part for found in made for part in (found.labels, found.embedding)]

    state = torch.get_rng_state()
    first, again, other = both(7), both(7), both(8)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.allclose(first[1], other[1])
    assert torch.equal(state, torch.get_rng_state()), "the caller's random numbers are its own"


def test_reconstruction_is_kept_while_hardening(digits: tuple[np.ndarray, np.ndarray]) -> None:
    """With alpha 1 nothing holds the reconstruction; with 0.5 the code still tells samples of a cluster apart."""
    squares = torch.from_numpy(digits[0][:400].astype(np.float32) / 16).reshape(-1, 1, 8, 8)

    def spread(alpha: float) -> float:
        found = fcae(squares, 10, alpha=alpha, epochs=10, schedule=Schedule(interval=20, most=10, batch=64))
        within = found.embedding - found.centres[found.labels]
        return float(within.std() / found.embedding.std())

    assert spread(0.5) > spread(1.0)


@pytest.mark.parametrize("side", [8, 12, 48, 50])
def test_autoencoder_gives_back_the_shape(side: int) -> None:
    network = autoencoder.Autoencoder(3, side, code=5, width=4)
    images = torch.rand(2, 3, side, side)
    assert network(images).shape == images.shape
    assert network.encoder(images).shape == (2, 5)


def test_autoencoder_of_an_odd_side() -> None:
    with pytest.raises(EdgeposeError, match="7 x 7 pixels cannot be halved"):
        autoencoder.Autoencoder(3, 7)


def test_autoencoder_learns(digits: tuple[np.ndarray, np.ndarray]) -> None:
    """It restores images far better than the mean image does."""
    squares = torch.from_numpy(digits[0][:500].astype(np.float32) / 16).reshape(-1, 1, 8, 8)
    network = autoencoder.train(squares, epochs=40, seed=0)
    with torch.no_grad():
        error = (network(squares) - squares).square().mean()
    assert error < 0.25 * (squares.mean(dim=0) - squares).square().mean()
