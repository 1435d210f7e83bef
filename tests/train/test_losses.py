from __future__ import annotations

import numpy as np
import pytest
import torch

from anabranch.errors import RecipeError
from anabranch.train.losses import js, kl, label_loss
from anabranch.train.tables import Optimise

RECIPE = Optimise(epochs=1, batch=4, lr=0.1)
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (5, 7))
TEACHER = RNG.normal(0, 3, (5, 7))
SHARES = RNG.dirichlet(np.ones(7), 5)  # as mixed pictures have them


def single(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values).float()


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def loss_of(targets: np.ndarray = SHARES, **asked: object) -> float:
    return label_loss(RECIPE.model_copy(update=asked), 7)(single(LOGITS), single(targets)).item()


def binary(targets: np.ndarray) -> np.ndarray:
    shown = 1 / (1 + np.exp(-LOGITS))
    return -(targets * np.log(shown) + (1 - targets) * np.log(1 - shown))


def divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p || q) of each picture."""
    return (p * (np.log(p) - np.log(q))).sum(1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_the_sum_over_the_classes_averaged_over_the_pictures(smoothing: float) -> None:
    smoothed = (1 - smoothing) * SHARES + smoothing / 7
    wanted = -(smoothed * log_softmax(LOGITS)).sum(1).mean()
    assert loss_of(label_smoothing=smoothing) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_binary_loss_is_the_mean_over_classes_and_pictures(smoothing: float) -> None:
    smoothed = (1 - smoothing) * SHARES + smoothing / 7
    assert loss_of(loss="binary", label_smoothing=smoothing) == pytest.approx(binary(smoothed).mean(), rel=1e-6)


def test_the_binary_loss_takes_several_classes_at_once() -> None:
    several = (np.arange(35).reshape(5, 7) % 3 == 0).astype(float)
    assert loss_of(several, loss="binary") == pytest.approx(binary(several).mean(), rel=1e-6)


def test_smoothing_brings_each_of_several_classes_towards_a_half_as_keras_does() -> None:
    several = (np.arange(35).reshape(5, 7) % 3 == 0).astype(float)
    recipe = RECIPE.model_copy(update={"loss": "binary", "label_smoothing": 0.2})
    loss = label_loss(recipe, 7, multi_label=True)(single(LOGITS), single(several)).item()
    assert loss == pytest.approx(binary(np.where(several > 0, 0.9, 0.1)).mean(), rel=1e-6)


def test_a_threshold_makes_what_is_above_it_one_and_the_rest_nought() -> None:
    hard = (SHARES > 0.2).astype(float)
    assert 0 < hard.sum() < hard.size
    wanted = binary(hard).mean()
    assert loss_of(loss="binary", binary_threshold=0.2) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(("num_classes", "multi_label"), [(100, False), (1000, True)])
def test_a_threshold_that_smoothing_alone_goes_above_is_refused(num_classes: int, multi_label: bool) -> None:
    recipe = RECIPE.model_copy(update={"loss": "binary", "binary_threshold": 0.0009, "label_smoothing": 0.1})
    with pytest.raises(RecipeError, match=r"binary_threshold = 0\.0009 would make every class of every picture a yes"):
        label_loss(recipe, num_classes, multi_label=multi_label)
    label_loss(recipe, 1000)


def test_a_threshold_looks_at_smoothed_shares_as_timm_does() -> None:
    targets = np.zeros((5, 7))
    targets[:, 0], targets[:, 1] = 0.79, 0.21  # smoothed by 0.1: 0.2033 for the second
    hard = np.zeros((5, 7))
    hard[:, 0] = 1
    wanted = binary(hard).mean()
    loss = loss_of(targets, loss="binary", binary_threshold=0.205, label_smoothing=0.1)
    assert loss == pytest.approx(wanted, rel=1e-6)


def test_js_is_the_mean_of_the_two_divergences() -> None:
    p, q = np.exp(log_softmax(LOGITS)), np.exp(log_softmax(TEACHER))
    wanted = ((divergence(p, q) + divergence(q, p)) / 2).mean()
    assert js(single(LOGITS), single(TEACHER)).item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl_is_the_students_divergence_times_the_temperature_squared(temperature: float) -> None:
    student, teacher = (np.exp(log_softmax(logits / temperature)) for logits in (LOGITS, TEACHER))
    wanted = temperature**2 * divergence(teacher, student).mean()
    assert kl(single(LOGITS), single(TEACHER), temperature).item() == pytest.approx(wanted, rel=1e-5)


def test_at_a_high_temperature_kl_compares_the_centred_logits() -> None:
    # Hinton et al. 2015, eq. 4: its gradient is their difference over the number of classes
    student, teacher = (logits - logits.mean(1, keepdims=True) for logits in (LOGITS, TEACHER))
    leaf = torch.from_numpy(student).requires_grad_()
    kl(leaf, torch.from_numpy(teacher), 1e4).backward()
    assert leaf.grad is not None
    np.testing.assert_allclose(leaf.grad.numpy(), (student - teacher) / 7 / 5, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("loss", [js, lambda student, teacher: kl(student, teacher, 2.0)])
def test_a_student_that_answers_as_its_teacher_has_nothing_to_learn(loss) -> None:
    student = single(TEACHER + 5).requires_grad_()  # a softmax sees no constant
    value = loss(student, single(TEACHER))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-6


@pytest.mark.parametrize("loss", [js, lambda student, teacher: kl(student, teacher, 1.0)])
def test_a_class_that_a_net_rules_out_makes_no_infinite_loss_without_reason(loss) -> None:
    sure = torch.tensor([[200.0, 0.0, -200.0]])
    assert loss(sure, sure).item() == 0
    assert torch.isfinite(loss(sure, -sure))
