"""What a state of the net's weights answers on the test pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from anabranch.errors import DatasetError
from anabranch.evaluate import average_precisions, f1
from anabranch.nets.net import Net
from anabranch.train.augment import Batch
from anabranch.train.data import Crops, Share, batches
from anabranch.train.sets import Sets, truth, want_few
from anabranch.train.tables import Augment, Recipe
from anabranch.train.team import Team

_AT_ONCE = 256


class Answers(NamedTuple):
    """Of the test pictures that the recipe looks at and that can be read, in their order."""

    logits: NDArray[np.float32]  # (n, K)
    labels: NDArray[np.integer]  # (n,), or (n, K) of 0 and 1 where a picture may show several
    indices: NDArray[np.int64]  # (n,): which pictures of the set these are
    unreadable: tuple[str, ...]  # what was wrong with those that were left out, a line each


def looked_at(recipe: Recipe, sets: Sets) -> NDArray[np.int64]:
    """Which of the test pictures the recipe looks at: all, or the same few whenever it does."""
    drawn = np.random.default_rng((0, 0)).permutation(len(sets.tested))
    few: NDArray[np.int64] = np.sort(drawn[: recipe.run.test_pictures])
    return few


def want_shown(recipe: Recipe, sets: Sets) -> None:
    """Raises DatasetError where none of the test pictures that are looked at shows a class."""
    if sets.tested.targets is not None and not sets.tested.targets[few := looked_at(recipe, sets)].any():
        raise DatasetError(f"none of {len(few)} test pictures shows any class; label some, or test on more of them")


def yardstick(recipe: Recipe) -> str:
    """Which of the figures of `figures` says that an epoch is better than another."""
    return "map" if recipe.data.multi_label else "top1"


def figures(met: Answers, loss: str) -> dict[str, float]:
    """Top-1 and top-5, or of pictures with several labels mean average precision and F1, in percent; the mean loss.

    loss: the recipe's, "cross-entropy" or "binary", here of plain labels: without smoothing, mixing and threshold.
    """
    logits, labels = torch.from_numpy(met.logits).double(), torch.from_numpy(met.labels)
    if labels.ndim == 2:
        scores = {
            "map": float(np.nanmean(average_precisions(met.logits, met.labels))),
            "f1": f1(met.logits, met.labels),
        }
    else:
        right = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        scores = {"top1": 100 * right[:, 0].double().mean().item(), "top5": 100 * right.any(1).double().mean().item()}
        if loss == "binary":
            labels = F.one_hot(labels, logits.shape[1])
    mean = (
        F.cross_entropy(logits, labels)
        if labels.ndim == 1
        else F.binary_cross_entropy_with_logits(logits, labels.double())
    )
    return {**scores, "test_loss": mean.item(), "pictures": len(labels)}


def tested_net(net: Net, state: Mapping[str, Tensor], team: Team) -> Net:
    """A net like `net` with a copy of the weights `state`, as they are laid out, to be asked for `answers`."""
    with torch.device("meta"):
        copy = Net(net.arch, num_classes=net.num_classes)
    copy.load_state_dict({name: value.to(team.device, copy=True) for name, value in state.items()}, assign=True)
    return copy.eval()


def answers(judged: Net, recipe: Recipe, sets: Sets, team: Team, *, at_once: int = _AT_ONCE) -> Answers:
    """What a net answers on the test pictures: each of them to one process, all answers to each of these.

    at_once: the pictures of a batch over all processes, if the device has the room. Raises DatasetError where more
    pictures cannot be read than the recipe bears, or none can.
    """
    few = looked_at(recipe, sets)
    logits = torch.zeros(len(few), judged.num_classes)
    known = torch.zeros(len(few))
    unreadable: list[str] = []
    for share, answered in _answered(judged, recipe, sets, team, at_once):
        rows = np.searchsorted(few, share.indices.numpy())
        logits[rows], known[rows] = answered, 1.0
        unreadable += share.unreadable
    unreadable = team.union(unreadable)
    want_few(unreadable, len(few), recipe.data.unreadable, kind="test")
    logits, rows = team.total(logits), team.total(known).bool().numpy()  # others' rows are zeros here
    if not rows.any():
        raise DatasetError(f"no test picture can be read, such as {unreadable[0]}")
    return Answers(logits.numpy()[rows], truth(sets.tested)[few[rows]], few[rows], tuple(unreadable))


@torch.inference_mode()
def _answered(judged: Net, recipe: Recipe, sets: Sets, team: Team, at_once: int) -> Iterator[tuple[Share, Tensor]]:
    """This process's share of each batch and its logits, both on the processor."""
    crops = Crops(sets.tested, recipe.input.preprocess(), None)
    to_input = Batch(Augment(), crops.preprocess).to(team.device).eval()
    few = looked_at(recipe, sets)
    for share in batches(
        crops,
        np.stack([few, np.zeros_like(few)], axis=1),
        min(at_once, 4 * recipe.steps.batch // recipe.steps.accumulate),  # no activation is held for a way back
        first=0,
        rank=team.rank,
        processes=team.processes,
        workers=recipe.run.workers,
        tolerate=recipe.data.unreadable > 0,
    ):
        if len(share.indices):
            yield share, judged(to_input(share.pixels.to(team.device))).float().cpu()
        else:
            yield share, torch.empty(0, judged.num_classes)
