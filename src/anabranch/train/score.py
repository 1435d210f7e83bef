"""What a state of the net's weights answers on the test pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from anabranch.evaluate import average_precisions, f1
from anabranch.nets.net import Net, build
from anabranch.train.augment import Batch
from anabranch.train.data import Crops, Share, batches, order
from anabranch.train.sets import Sets, truth
from anabranch.train.tables import Augment, Recipe
from anabranch.train.team import Team

_AT_ONCE = 256


class Answers(NamedTuple):
    """Of the test pictures that the recipe looks at, in their order."""

    logits: NDArray[np.float32]  # (N, K)
    labels: NDArray[np.integer]  # (N,), or (N, K) of 0 and 1 where a picture may show several


def looked_at(recipe: Recipe, sets: Sets) -> NDArray[np.int64]:
    """Which of the test pictures the recipe looks at: all, or the same few whenever it does."""
    few: NDArray[np.int64] = np.sort(order(0, 0, sets.tested)[: recipe.run.test_pictures, 0])
    return few


def yardstick(recipe: Recipe) -> str:
    """Which of the figures of `scored` says that an epoch is better than another."""
    return "map" if recipe.data.multi_label else "top1"


def scored(net: Net, state: Mapping[str, Tensor], recipe: Recipe, sets: Sets, team: Team) -> dict[str, float]:
    """Figures in percent and the mean loss, each picture counted once by whichever process it falls to.

    Top-1 and top-5; of pictures with several labels mean average precision and F1, as `anabranch.evaluate` has them.
    """
    if recipe.data.multi_label:
        return _scored_multi_label(net, state, recipe, sets, team)
    counted = torch.zeros(4, dtype=torch.float64)
    for share, logits in _answered(net, state, recipe, sets, team.device, team.rank, team.processes):
        ranked = logits.topk(min(5, logits.shape[1])).indices == share.labels[:, None]
        loss = F.cross_entropy(logits, share.labels, reduction="sum").double()
        counted += torch.stack([ranked[:, 0].sum(), ranked.sum(), loss, torch.tensor(len(share.labels))]).double()
    right, among_five, loss_sum, pictures = team.total(counted).tolist()
    return {
        "top1": 100 * right / pictures,
        "top5": 100 * among_five / pictures,
        "test_loss": loss_sum / pictures,
        "pictures": int(pictures),
    }


def _scored_multi_label(
    net: Net, state: Mapping[str, Tensor], recipe: Recipe, sets: Sets, team: Team
) -> dict[str, float]:
    own, targets = answers(net, state, recipe, sets, team.device, team.rank, team.processes)
    logits = team.total(torch.from_numpy(own))  # where one process has answered, the others have zeros
    return {
        "map": float(np.nanmean(average_precisions(logits.numpy(), targets))),
        "f1": f1(logits.numpy(), targets),
        "test_loss": F.binary_cross_entropy_with_logits(logits, torch.from_numpy(targets).float()).item(),
        "pictures": len(targets),
    }


def answers(
    net: Net,
    state: Mapping[str, Tensor],
    recipe: Recipe,
    sets: Sets,
    device: torch.device,
    rank: int = 0,
    processes: int = 1,
) -> Answers:
    """Of several processes, each has zeros for the logits of the pictures that fall to another."""
    few = looked_at(recipe, sets)
    logits = np.zeros((len(few), net.num_classes), np.float32)
    for share, answered in _answered(net, state, recipe, sets, device, rank, processes):
        logits[np.searchsorted(few, share.indices.numpy())] = answered.numpy()
    return Answers(logits, truth(sets.tested)[few])


@torch.inference_mode()
def _answered(
    net: Net,
    state: Mapping[str, Tensor],
    recipe: Recipe,
    sets: Sets,
    device: torch.device,
    rank: int,
    processes: int,
) -> Iterator[tuple[Share, Tensor]]:
    """A process's share of each batch and its logits, both on the processor."""
    judged = build(net.arch, num_classes=net.num_classes).to(device)
    judged.load_state_dict(state)
    judged.eval()
    crops = Crops(sets.tested, recipe.input.preprocess(), None)
    to_input = Batch(Augment(), crops.preprocess).to(device).eval()
    few = looked_at(recipe, sets)
    drawn = np.stack([few, np.zeros_like(few)], axis=1)
    workers = recipe.run.workers
    for share in batches(crops, drawn, _AT_ONCE, first=0, rank=rank, processes=processes, workers=workers):
        yield share, judged(to_input(share.pixels.to(device))).float().cpu()
