"""What training lowers: how far a net's answers are from the labels, or from a teacher's answers.

Every loss takes two tensors of (n, K) float32 and gives one number, the mean over the n pictures.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from anabranch.errors import RecipeError
from anabranch.train.tables import Optimise

Loss = Callable[[Tensor, Tensor], Tensor]


def label_loss(recipe: Optimise, num_classes: int, *, multi_label: bool = False) -> Loss:
    """The recipe's loss of logits against targets: each picture's share of each class, in [0, 1].

    "cross-entropy" is summed over the classes. "binary" asks of every class by itself whether it is there, so that the
    shares need not add up to 1, and is the mean over the classes. Smoothing by e makes a share t of K classes
    (1 - e) t + e / K, or (1 - e) t + e / 2 with `multi_label`, where each class is a question of its own with two
    answers. `binary_threshold` looks at the smoothed shares, so that what it leaves is 0 or 1 again. Raises RecipeError
    where smoothing alone lifts every class above it.

    Source: Szegedy et al. 2016, section 7; Wightman et al. 2021, with the sums and the order of timm's
    BinaryCrossEntropy; of `multi_label`, Keras' BinaryCrossentropy.
    """
    smoothing, threshold = recipe.label_smoothing, recipe.binary_threshold
    of_each = smoothing / (2 if multi_label else num_classes)
    if threshold is not None and of_each > threshold:
        raise RecipeError(
            f"optimise.binary_threshold = {threshold:g} would make every class of every picture a yes: "
            f"optimise.label_smoothing = {smoothing:g} gives each of {num_classes} classes {of_each:.3g}; "
            "raise the one, or lower the other"
        )

    def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, label_smoothing=smoothing)

    def binary(logits: Tensor, targets: Tensor) -> Tensor:
        shares = (1 - smoothing) * targets + of_each
        if threshold is not None:
            shares = (shares > threshold).to(targets.dtype)
        return F.binary_cross_entropy_with_logits(logits, shares)

    return cross_entropy if recipe.loss == "cross-entropy" else binary


def js(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean of the two Kullback-Leibler divergences between the softmaxes of two nets' logits.

    Summed over the classes, averaged over the pictures. PaddleClas calls it the Jensen-Shannon divergence, which
    strictly is measured from the mean of the two distributions. Source: PaddleClas, DMLLoss, which SSLD trains with.
    """
    ours, theirs = F.log_softmax(student, 1), F.log_softmax(teacher, 1)
    return (_divergence(ours, theirs) + _divergence(theirs, ours)) / 2


def kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The student's Kullback-Leibler divergence from the teacher, both softened, times the temperature squared.

    Summed over the classes, averaged over the pictures. The factor keeps the gradients as long as those of the labels,
    whatever the temperature. Source: Hinton et al. 2015, section 2.
    """
    softened = F.log_softmax(student / temperature, 1), F.log_softmax(teacher / temperature, 1)
    return temperature**2 * _divergence(*softened)


def _divergence(log_from: Tensor, log_to: Tensor) -> Tensor:
    """KL(to || from) of log-probabilities (n, K)."""
    return F.kl_div(log_from, log_to, reduction="batchmean", log_target=True)
