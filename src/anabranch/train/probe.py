"""Fine-tuning on a laptop: a frozen backbone answers once for each picture, and a head is fitted to its answers.

It learns nothing from a picture's augmentations: the backbone sees each picture once, as it is tested.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from anabranch.evaluate import Score
from anabranch.nets.load import Trained, load_strictly, save_trained
from anabranch.nets.net import Net, build
from anabranch.train.data import Sets, open_sets
from anabranch.train.features import Report, backbone, features
from anabranch.train.head import Head, fit_head
from anabranch.train.start import begin
from anabranch.train.tables import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    trained: Trained
    score: Score  # on the test pictures
    head: Head
    unreadable: tuple[tuple[str, str], ...]  # name and reason, of the training pictures


def train_probe(recipe: Recipe, folder: Path, *, cache: Path, report: Report = lambda done: None) -> Probed:
    """Run a recipe with a [probe] into `folder`: recipe.json, history.jsonl and model.safetensors.

    `report` counts the pictures of both sets. Raises as `probe`, and what the weights to begin from raise.
    """
    assert recipe.probe is not None
    assert recipe.start is not None
    sets = open_sets(recipe.data)
    torch.manual_seed(recipe.run.seed)
    net = build(recipe.spec(), num_classes=len(sets.class_names)).eval()
    begin(net, recipe.start.model_copy(update={"head": "drop"}))
    met = probe(recipe, net, sets, weight_decay=recipe.probe.weight_decay, cache=cache, report=report)
    save_trained(folder / "model.safetensors", met.trained)
    (folder / "recipe.json").write_text(json.dumps(recipe.model_dump(mode="json"), indent=2) + "\n")
    line = {
        "epoch": 1,
        "top1": met.score.top1,
        "top5": met.score.top5,
        "pictures": met.score.num_pictures,
        "weight_decay": met.head.weight_decay,
        "unreadable": len(met.unreadable),
        "seconds": round(met.score.seconds, 1),
    }
    (folder / "history.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    return met


def probe(
    recipe: Recipe,
    net: Net,
    sets: Sets,
    *,
    weight_decay: Sequence[float],
    cache: Path,
    report: Report = lambda done: None,
) -> Probed:
    """The net with a head fitted to the training pictures, and its score on the test pictures.

    `net` lends its backbone, whatever its head, and is not changed; the result shares its weights. `report` counts the
    pictures of both sets. Raises DatasetError, ImageError, ExportError, RecipeError.
    """
    started = perf_counter()
    embedded = partial(
        features, net, preprocess=recipe.input.preprocess(), cache=cache, unreadable=recipe.data.unreadable
    )
    shown = embedded(sets.shown, report=report)
    tested = embedded(sets.tested, report=lambda done: report(len(sets.shown) + done))
    head = fit_head(
        shown.values,
        sets.shown.labels[shown.indices],
        len(sets.class_names),
        weight_decay=weight_decay,
        seed=recipe.run.seed,
    )
    trained = Trained(
        net=_with_head(net, head),
        name=recipe.name,
        licence=recipe.licence,
        class_names=sets.class_names,
        preprocess=recipe.input.preprocess(),
    )
    best = np.argsort(-(tested.values @ head.weight.T + head.bias), axis=1, kind="stable")[:, :5]
    right = best == sets.tested.labels[tested.indices][:, None]
    score = Score(
        num_pictures=len(right),
        top1_right=int(right[:, 0].sum()),
        top5_right=int(right.sum()),
        unreadable=tested.unreadable,
        matched_by="position",  # `open_sets` has seen to it that both sets have the same classes
        seconds=perf_counter() - started,
    )
    return Probed(trained=trained, score=score, head=head, unreadable=shown.unreadable)


def _with_head(net: Net, head: Head) -> Net:
    with torch.device("meta"):
        headed = Net(net.arch, num_classes=len(head.bias))
    tensors = backbone(net).state_dict()
    tensors |= {"head.weight": torch.from_numpy(head.weight), "head.bias": torch.from_numpy(head.bias)}
    load_strictly(headed, tensors, where="the probed net", assign=True)
    return headed.eval()
