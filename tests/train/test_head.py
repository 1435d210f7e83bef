from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from anabranch.errors import DatasetError, RecipeError
from anabranch.train.head import fit_head


def clusters(*, n: int, num_features: int, num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping clouds, features of different scales and offsets: float32 (n, C) and int64 (n,)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, n)
    clouds = rng.normal(size=(num_classes, num_features))[labels] + 1.5 * rng.normal(size=(n, num_features))
    return (clouds * rng.uniform(0.1, 10, num_features) + rng.normal(size=num_features) * 5).astype(np.float32), labels


def objective(flat: np.ndarray, z: np.ndarray, labels: np.ndarray, decay: float) -> tuple[float, np.ndarray]:
    """Mean cross-entropy and decay / 2 * squares of a weight (K, C) and a bias (K,), and the gradient, in float64."""
    num_classes = labels.max() + 1
    weight, bias = flat[:-num_classes].reshape(num_classes, -1), flat[-num_classes:]
    logits = z @ weight.T + bias
    logits -= logits.max(1, keepdims=True)
    log_shares = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    loss = -log_shares[np.arange(len(z)), labels].mean() + decay / 2 * (weight**2).sum()
    beyond = (np.exp(log_shares) - np.eye(num_classes)[labels]) / len(z)
    return loss, np.concatenate([(beyond.T @ z + decay * weight).ravel(), beyond.sum(0)])


def test_every_decay_is_fitted_though_it_changes_little() -> None:
    """In many dimensions a weak decay's gradient is far below what a fit to choose by wants."""
    values, labels = clusters(n=400, num_features=1024, num_classes=3)
    tried = fit_head(values, labels, 3, weight_decay=[1.0, 0.1, 0.01, 0.001]).tried
    assert len({each.loss for each in tried}) == 4


@pytest.mark.parametrize("decay", [1e-3, 0.1])
def test_the_head_is_the_minimum_that_scipy_finds(decay) -> None:
    values, labels = clusters(n=300, num_features=12, num_classes=4)
    head = fit_head(values, labels, 4, weight_decay=[decay])
    mean, spread = values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64)
    z = (values - mean) / spread
    standard = np.concatenate([(head.weight * spread).ravel(), head.bias + head.weight.astype(np.float64) @ mean])
    loss, gradient = objective(standard, z, labels, decay)
    best = minimize(
        objective, np.zeros(standard.size), (z, labels, decay), "L-BFGS-B", jac=True, options={"gtol": 1e-9}
    )
    assert np.abs(gradient).max() < 1e-4
    assert loss == pytest.approx(best.fun, rel=1e-5)
    np.testing.assert_allclose(standard[:-4], best.x[:-4], atol=1e-2)
    assert head.tried == ()


def test_the_decay_with_the_best_top1_on_a_fifth_of_each_class_is_chosen() -> None:
    values, labels = clusters(n=120, num_features=60, num_classes=3)
    head = fit_head(values, labels, 3, weight_decay=[1e-4, 1.0, 1e-2])
    assert [each.weight_decay for each in head.tried] == [1.0, 1e-2, 1e-4]
    assert {each.num_pictures for each in head.tried} == {sum(np.bincount(labels) // 5)}
    best = max(each.top1 for each in head.tried)
    fitting = [each for each in head.tried if each.top1 == best]
    assert head.weight_decay == min(fitting, key=lambda each: each.loss).weight_decay
    again = fit_head(values, labels, 3, weight_decay=[head.weight_decay])  # on all pictures, as the chosen one was
    np.testing.assert_array_equal(head.weight, again.weight)


def test_a_class_of_one_picture_keeps_it_to_learn_from() -> None:
    values, labels = clusters(n=20, num_features=3, num_classes=2)
    labels[:] = [0] * 14 + [1] * 5 + [2]
    head = fit_head(values, labels, 3, weight_decay=[1e-2, 1e-1])
    assert head.tried[0].num_pictures == 2 + 1
    assert head.weight.shape == (3, 3)


def test_the_same_arguments_give_the_same_bits() -> None:
    values, labels = clusters(n=80, num_features=10, num_classes=3)
    one, two = (fit_head(values, labels, 3, weight_decay=[1e-3, 1e-1], seed=4) for _ in range(2))
    assert one.tried == two.tried
    np.testing.assert_array_equal(one.weight, two.weight)
    np.testing.assert_array_equal(one.bias, two.bias)


def test_a_feature_that_never_varies_weighs_nothing() -> None:
    values, labels = clusters(n=80, num_features=5, num_classes=3)
    values[:, 2] = 3
    head = fit_head(values, labels, 3, weight_decay=[1e-2])
    assert np.abs(head.weight[:, 2]).max() < 1e-6
    assert np.isfinite(head.weight).all()
    assert np.isfinite(head.bias).all()


@pytest.mark.parametrize("decays", [[], [0.1, 0.0], [-1.0]])
def test_decays_that_are_not_above_zero_are_refused(decays) -> None:
    values, labels = clusters(n=20, num_features=3, num_classes=2)
    with pytest.raises(RecipeError, match=r"weight_decay = .* above 0"):
        fit_head(values, labels, 2, weight_decay=decays)


@pytest.mark.parametrize(
    ("labels", "decays", "told"),
    [
        ([0, 0, 2, 2], [0.1], r"1 of 3 classes have no training picture.* number 1"),
        ([-1, -1, -1, -1], [0.1], r"one class for each picture"),
        ([0, 1, 2], [0.1, 0.01], r"no class has two training pictures.*give one weight decay"),
    ],
)
def test_labels_that_no_head_can_be_learnt_from_are_refused(labels, decays, told) -> None:
    values = np.random.default_rng(0).normal(size=(len(labels), 4)).astype(np.float32)
    with pytest.raises(DatasetError, match=told):
        fit_head(values, np.array(labels), 3, weight_decay=decays)


# ---- The whole -----------------------------------------------------------------------------------------------------
