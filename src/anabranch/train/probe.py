"""Fine-tuning on a laptop: a frozen backbone answers once for each picture, and a head is fitted to its answers.

It learns nothing from a picture's augmentations: the backbone sees each picture once, as it is tested.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray

from anabranch.errors import RecipeError
from anabranch.evaluate import Score
from anabranch.nets.load import Trained, load_strictly, save_trained
from anabranch.nets.net import Net, build
from anabranch.train.checkpoint import about_of_run
from anabranch.train.estimate import Timed
from anabranch.train.features import Features, Report, backbone, chosen_precision, features, pace
from anabranch.train.head import Head, fit_head
from anabranch.train.logs import write_answers, write_text
from anabranch.train.sets import Sets
from anabranch.train.start import begin
from anabranch.train.tables import Probe, Recipe


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Probed:
    trained: Trained
    score: Score  # on the test pictures
    head: Head
    logits: NDArray[np.float32]  # (n, K), of the test pictures that could be read
    indices: NDArray[np.int64]  # (n,), theirs in their set
    unreadable: tuple[tuple[str, str], ...]  # name and reason, of the training pictures
    not_kept: tuple[str, ...]  # why features are not in the cache, a line for each set
    precision: str  # in which the training pictures were looked at
    features_seconds: float  # of the training pictures
    head_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeEstimate:
    """What looking at the pictures will take; the fit of the head comes on top."""

    num_pictures: int
    num_tested: int
    precision: str  # in which the training pictures are looked at; the test pictures in f32
    shown: Timed  # a training picture
    tested: Timed  # a test picture

    @property
    def seconds(self) -> float:
        return self.num_pictures * self.shown.seconds + self.num_tested * self.tested.seconds

    @property
    def error(self) -> float:
        return self.num_pictures * self.shown.error + self.num_tested * self.tested.error


def train_probe(recipe: Recipe, sets: Sets, folder: Path, *, cache: Path, report: Report = lambda done: None) -> Probed:
    """Run a recipe with a [probe] on its `sets` into `folder`, which then holds what a training's does.

    But nothing to go on from. What an earlier probe of the same set left there gives way; that of another one does not,
    nor does a training. `report` counts the pictures of both sets. Raises as `probe`, and what the weights to begin
    from raise.
    """
    assert recipe.probe is not None
    assert recipe.start is not None
    if (folder / "last.safetensors").exists():
        raise RecipeError(f"{folder}: already holds a training run; give another folder with --out")
    if not _is_free(folder, recipe):
        raise RecipeError(f"{folder}: already holds the probe of another set; give another folder with --out")
    torch.manual_seed(recipe.run.seed)
    net = build(recipe.spec(), num_classes=len(sets.class_names)).eval()
    begin(net, recipe.start.model_copy(update={"head": "drop"}), sets.class_names)
    met = probe(recipe, recipe.probe, net, sets, cache=cache, report=report)
    _write(recipe, folder, sets, met)
    return met


def _is_free(folder: Path, recipe: Recipe) -> bool:
    """Whether no probe of another set lies there."""
    try:
        held = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))["data"]
    except FileNotFoundError:
        return True
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return bool(held == recipe.model_dump(mode="json")["data"])


def rehearse_probe(recipe: Recipe, sets: Sets, *, cache: Path) -> ProbeEstimate:
    """Look at some pictures of both sets, and say how long all of them will take. Raises as `train_probe`."""
    assert recipe.probe is not None
    assert recipe.start is not None
    net = build(recipe.spec(), num_classes=len(sets.class_names)).eval()
    begin(net, recipe.start.model_copy(update={"head": "drop"}), sets.class_names)
    precision = chosen_precision(recipe.probe.precision)
    timed = partial(pace, net, preprocess=recipe.input.preprocess(), cache=cache)
    return ProbeEstimate(
        num_pictures=len(sets.shown),
        num_tested=len(sets.tested),
        precision=precision,
        shown=timed(sets.shown, precision=precision),
        tested=timed(sets.tested, precision="f32"),
    )


def probe(
    recipe: Recipe,
    wanted: Probe,
    net: Net,
    sets: Sets,
    *,
    cache: Path,
    report: Report = lambda done: None,
) -> Probed:
    """The net with a head fitted to the training pictures, and its score on the test pictures.

    `net` lends its backbone, whatever its head, and is not changed; the result shares its weights. `report` counts the
    pictures of both sets; the test pictures are looked at in f32, as the result looks at them. Raises DatasetError,
    ImageError, ExportError, RecipeError.
    """
    times = [perf_counter()]
    embedded = partial(
        features, net, preprocess=recipe.input.preprocess(), cache=cache, unreadable=recipe.data.unreadable
    )
    precision = chosen_precision(wanted.precision)
    shown = embedded(sets.shown, precision=precision, report=report)
    times.append(perf_counter())
    head = fit_head(
        shown.values,
        sets.shown.labels[shown.indices],
        len(sets.class_names),
        weight_decay=wanted.weight_decay,
        seed=recipe.run.seed,
    )
    times.append(perf_counter())
    tested = embedded(sets.tested, report=lambda done: report(len(sets.shown) + done))
    logits = tested.values @ head.weight.T + head.bias
    times.append(perf_counter())
    features_seconds, head_seconds, _ = (after - before for before, after in pairwise(times))
    return Probed(
        trained=Trained(_with_head(net, head), about_of_run(recipe, sets)),
        score=_score(logits, sets.tested.labels[tested.indices], tested, times[-1] - times[0]),
        head=head,
        logits=logits,
        indices=tested.indices,
        unreadable=shown.unreadable,
        not_kept=tuple(each.not_kept for each in (shown, tested) if each.not_kept is not None),
        precision=precision,
        features_seconds=features_seconds,
        head_seconds=head_seconds,
    )


def _score(logits: NDArray[np.float32], labels: NDArray[np.int64], tested: Features, seconds: float) -> Score:
    best = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    right = best == labels[:, None]
    return Score(
        num_pictures=len(right),
        top1_right=int(right[:, 0].sum()),
        top5_right=int(right.sum()),
        unreadable=tested.unreadable,
        matched_by="position",  # `open_sets` has seen to it that both sets have the same classes
        seconds=seconds,
    )


def _with_head(net: Net, head: Head) -> Net:
    with torch.device("meta"):
        headed = Net(net.arch, num_classes=len(head.bias))
    tensors = backbone(net).state_dict()
    tensors |= {"head.weight": torch.from_numpy(head.weight), "head.bias": torch.from_numpy(head.bias)}
    load_strictly(headed, tensors, where="the probed net", assign=True)
    return headed.eval()


def _write(recipe: Recipe, folder: Path, sets: Sets, met: Probed) -> None:
    unreadable = [reason for _, reason in (*met.unreadable, *met.score.unreadable)]
    line = {
        "epoch": 1,
        "top1": met.score.top1,
        "top5": met.score.top5,
        "pictures": met.score.num_pictures,
        "weight_decay": met.head.weight_decay,
        "tried": [asdict(each) for each in met.head.tried],
        "unreadable": len(unreadable),
        "precision": met.precision,
        "features_seconds": round(met.features_seconds, 2),
        "head_seconds": round(met.head_seconds, 2),
        "seconds": round(met.score.seconds, 2),
    }
    write_text(folder / "recipe.json", json.dumps(recipe.model_dump(mode="json"), indent=2) + "\n")
    write_text(folder / "history.jsonl", json.dumps(line) + "\n")
    if unreadable:
        write_text(folder / "unreadable.txt", "\n".join(unreadable) + "\n")
    else:
        (folder / "unreadable.txt").unlink(missing_ok=True)  # of a probe before this one
    save_trained(folder / "model.safetensors", met.trained)
    write_answers(
        folder,
        met.logits,
        sets.tested.labels[met.indices],
        met.indices,
        names=[sets.tested.names[index] for index in met.indices],
        class_names=sets.class_names,
    )
