"""Training, top to bottom: pictures in, a checkpoint of the weights' running mean out.

The run's folder holds `recipe.json` (as resolved), `last.safetensors` (to go on from), `history.jsonl` (one line per
epoch) and, once done, `model.safetensors`: the last epoch's mean, whatever its score. The test set chooses nothing.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anabranch.errors import RecipeError
from anabranch.images.labelled import Labelled
from anabranch.nets.load import Trained, save_trained
from anabranch.nets.net import Net, build
from anabranch.train import checkpoint
from anabranch.train.augment import Batch, mixed
from anabranch.train.data import Crops, batches, open_sets, order
from anabranch.train.optimise import Ema, rate, sgd
from anabranch.train.recipe import Augment, Recipe
from anabranch.train.team import Team

Report = Callable[[Mapping[str, Any]], None]  # called after every step and every epoch, by the leading process alone


def train(recipe: Recipe, folder: Path, *, resume: bool = False, report: Report = lambda told: None) -> Path:
    """Run the recipe and return the path of the trained checkpoint.

    `report` is told {"step", "steps", "loss", "lr", "pictures_per_s"} after each step and the line of `history.jsonl`
    after each epoch. Raises RecipeError (a loss that is no longer a number among them), DatasetError, ImageError,
    CheckpointError.
    """
    with Team() as team, team.alone_in(folder):
        return _train(recipe, folder, team, resume=resume, report=report)


def _train(recipe: Recipe, folder: Path, team: Team, *, resume: bool, report: Report) -> Path:
    wanted = recipe.optimise
    last = folder / "last.safetensors"
    if last.exists() and not resume:
        raise RecipeError(f"{folder}: already holds a run; go on with --resume, or give another folder with --out")

    # ---- data --------------------------------------------------------------------------------------------------
    preprocess = recipe.input.preprocess()
    shown, tested, names = open_sets(recipe.data)
    crops = Crops(shown, preprocess, recipe.augment, seed=recipe.run.seed)
    steps_per_epoch = _steps_per_epoch(recipe, len(shown), team.processes)
    fixed = checkpoint.Fixed(recipe, team.processes, names, (len(shown), len(tested)))

    # ---- net, optimiser, running mean --------------------------------------------------------------------------
    torch.manual_seed(recipe.run.seed)
    net = build(recipe.spec(), num_classes=len(names), **recipe.net.model_dump()).to(team.device)
    if recipe.run.channels_last:
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = sgd(net, wanted)
    mean = Ema(net, wanted.ema_decay)
    to_input = Batch(recipe.augment, preprocess).to(team.device)
    progress = checkpoint.Progress()
    if last.exists():
        progress = checkpoint.restore(last, fixed, net, optimiser, mean)
    if team.leads:
        (folder / "recipe.json").write_text(json.dumps(recipe.model_dump(mode="json"), indent=2) + "\n")

    # ---- epochs ------------------------------------------------------------------------------------------------
    started = time.monotonic() - progress.seconds
    forward = team.wrap(net)
    steps = wanted.epochs * steps_per_epoch
    while progress.step < steps:
        epoch, first = divmod(progress.step, steps_per_epoch)
        crops.epoch = epoch
        indices = order(recipe.run.seed, epoch, len(shown))[: steps_per_epoch * wanted.batch]
        todo = batches(
            crops,
            indices,
            wanted.batch,
            first=first,
            rank=team.rank,
            processes=team.processes,
            workers=recipe.run.workers,
        )
        for pixels, labels in todo:
            step_started = time.monotonic()
            lr = rate(wanted, progress.step, steps_per_epoch)
            torch.manual_seed(_seed(recipe.run.seed, progress.step, team.rank))
            net.train()
            x, targets = mixed(
                to_input.train()(pixels.to(team.device)), labels.to(team.device), len(names), recipe.augment.mixup
            )
            loss = _step(forward, optimiser, x, targets, lr, recipe)
            progress.step += 1
            mean.update(net, progress.step)

            counted = team.total(torch.tensor([loss * len(labels), len(labels)], dtype=torch.float64))
            if not math.isfinite(counted[0].item()):
                raise RecipeError(
                    f"step {progress.step}: the loss is no longer a number; lower optimise.lr = {wanted.lr}, "
                    "or warm up longer"
                )
            progress.loss_sum += counted[0].item()
            progress.seen += int(counted[1].item())
            progress.seconds = time.monotonic() - started
            if team.leads:
                pace = counted[1].item() / (time.monotonic() - step_started)
                told = {"step": progress.step, "steps": steps, "lr": lr, "pictures_per_s": pace}
                report(told | {"loss": progress.loss_sum / progress.seen})
                if progress.step % recipe.run.checkpoint_steps == 0 and progress.step % steps_per_epoch:
                    checkpoint.save(last, fixed, progress, net, optimiser, mean)

        line = {
            "epoch": epoch + 1,
            "loss": progress.loss_sum / progress.seen,
            "lr": lr,
            **_judged(recipe, tested, mean, net, team),
        }
        progress.history.append(line | {"seconds": round(progress.seconds, 1)})
        progress.loss_sum, progress.seen = 0.0, 0
        if team.leads:
            checkpoint.save(last, fixed, progress, net, optimiser, mean)
            _write_history(folder, progress)
            report(progress.history[-1])

    # ---- the result --------------------------------------------------------------------------------------------
    result = folder / "model.safetensors"
    if team.leads:
        trained = Trained(net=net, name=recipe.name, licence=recipe.licence, class_names=names, preprocess=preprocess)
        save_trained(result, trained, mean.state)
        _write_history(folder, progress)
    return result


def _step(
    forward: torch.nn.Module, optimiser: torch.optim.SGD, x: Tensor, targets: Tensor, lr: float, recipe: Recipe
) -> float:
    """One step down the gradient; the mean loss of this process's share."""
    if recipe.run.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    for group in optimiser.param_groups:
        group["lr"] = lr
    with torch.autocast(x.device.type, torch.bfloat16, enabled=recipe.run.bf16):
        logits = forward(x)
    loss = F.cross_entropy(logits.float(), targets, label_smoothing=recipe.optimise.label_smoothing)
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return loss.item()


@torch.inference_mode()
def _judged(recipe: Recipe, tested: Labelled, mean: Ema, net: Net, team: Team) -> dict[str, float]:
    """Top-1 of the running mean on the test pictures, in percent. Each picture is counted once."""
    team.share(mean.state)  # each process has norms' statistics of its own
    judged = build(net.arch, num_classes=net.num_classes).to(team.device)
    judged.load_state_dict(mean.state)
    judged.eval()
    crops = Crops(tested, recipe.input.preprocess(), None)
    to_input = Batch(Augment(), crops.preprocess).to(team.device).eval()
    indices = order(0, 0, len(tested))[: recipe.run.test_pictures]
    todo = batches(crops, indices, 256, first=0, rank=team.rank, processes=team.processes, workers=recipe.run.workers)
    counted = torch.zeros(2, dtype=torch.float64)
    for pixels, labels in todo:
        answers = judged(to_input(pixels.to(team.device))).argmax(1).cpu()
        counted += torch.tensor([(answers == labels).sum().item(), len(labels)], dtype=torch.float64)
    right, seen = team.total(counted).tolist()
    return {"top1": 100 * right / seen, "pictures": int(seen)}


def _steps_per_epoch(recipe: Recipe, pictures: int, processes: int) -> int:
    wanted = recipe.optimise
    steps = wanted.steps_per_epoch or pictures // wanted.batch
    if steps * wanted.batch > pictures:
        raise RecipeError(
            f"optimise.steps_per_epoch = {steps} does not fit: {steps} batches of {wanted.batch} "
            f"are more than the {pictures} training pictures"
        )
    if steps == 0 or wanted.batch % processes:
        raise RecipeError(
            f"optimise.batch = {wanted.batch} does not fit: it must be at most the {pictures} training pictures "
            f"and a multiple of the {processes} processes"
        )
    return steps


def _write_history(folder: Path, progress: checkpoint.Progress) -> None:
    partial = folder / ".history.jsonl.part"
    partial.write_text("".join(json.dumps(line) + "\n" for line in progress.history), encoding="utf-8")
    partial.replace(folder / "history.jsonl")


def _seed(seed: int, step: int, rank: int) -> int:
    """One seed per step and process, so that a resumed run draws what it would have drawn."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0])
