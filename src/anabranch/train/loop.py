"""Training, top to bottom: pictures in, a checkpoint of the weights' running mean out.

The run's folder holds

    recipe.json            as resolved
    last.safetensors       to go on from
    epoch-0007.safetensors the means of the last epochs, as many as the recipe keeps beyond the last one
    best.safetensors       the mean of the best epoch so far, where the recipe's result is that
    history.jsonl          one line an epoch
    steps.jsonl            one line every tenth step
    unreadable.txt         the pictures that were left out, where there are such
    answers.npz            what the result answered on the test pictures
    model.safetensors      the result, once the run is done

Unless the recipe says otherwise the result is the last epoch's mean, whatever its score: the test set chooses nothing.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anabranch.errors import RecipeError
from anabranch.images.labelled import place_of
from anabranch.nets.load import Trained, load_trained, save_trained
from anabranch.train import checkpoint
from anabranch.train.data import Crops, side_at
from anabranch.train.distil import Locate, a_path
from anabranch.train.freed import memory_may_run_out
from anabranch.train.logs import Logs, write_answers, write_text
from anabranch.train.optimise import averaged, rate
from anabranch.train.plan import plan_of, shares
from anabranch.train.score import Answers, answers, figures, tested_net, want_shown, yardstick
from anabranch.train.sets import open_sets, want_few
from anabranch.train.stopping import Stopping
from anabranch.train.student import Student
from anabranch.train.tables import Recipe
from anabranch.train.team import Team

RESULT = "model.safetensors"

Report = Callable[[Mapping[str, Any]], None]  # called after every step and every epoch, by the leading process alone


def train(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    report: Report = lambda told: None,
    locate: Locate = a_path,
    stopping: Stopping | None = None,
) -> Path:
    """Run the recipe and return the path of the trained checkpoint.

    `report` is told {"plan", "tested"} once, where "tested" is the last line of a resumed run's history or None,
    {"step", "steps", "epoch", "loss", "lr", "pictures_per_s", "waiting", "unreadable"} after each step, and the line of
    `history.jsonl` after each epoch. `locate` finds the file of a teacher by its name.
    `stopping` holds back the signals that end a run until a step is done and kept.
    Raises RecipeError (a loss that is no longer a number among them), DatasetError, ImageError, CheckpointError, and
    what its weights and its teacher raise.
    """
    with Team() as team, team.alone_in(folder), memory_may_run_out():
        return _train(
            recipe, folder, team, resume=resume, report=report, locate=locate, stopping=stopping or Stopping()
        )


def _train(
    recipe: Recipe, folder: Path, team: Team, *, resume: bool, report: Report, locate: Locate, stopping: Stopping
) -> Path:
    wanted, run, better = recipe.steps, recipe.run, yardstick(recipe)
    last = folder / "last.safetensors"
    if last.exists() and not resume:
        raise RecipeError(f"{folder}: already holds a run; go on with --resume, or give another folder with --out")
    if not last.exists() and (left := [*_kept(folder), *folder.glob("best.safetensors"), *folder.glob(RESULT)]):
        raise RecipeError(f"{left[0]}: is of an earlier run; remove it, or give another folder with --out")

    # ---- data --------------------------------------------------------------------------------------------------
    sets = open_sets(recipe.data)
    fixed = checkpoint.Fixed(recipe, team.processes, sets)
    saved = checkpoint.read(last, fixed) if last.exists() else None
    progress = saved.progress if saved else checkpoint.Progress()
    if len(team.union([str(progress.step)])) > 1:
        raise RecipeError(f"{last}: not every process finds it; --out must be a folder that all hosts share")
    crops = Crops(sets.shown, recipe.input.preprocess(), recipe.augment, seed=run.seed)
    plan = plan_of(recipe, sets, team, step=progress.step)
    want_shown(recipe, sets)
    steps_per_epoch = plan.steps_per_epoch
    if team.leads:  # a teacher may take minutes to load
        report({"plan": plan, "tested": progress.history[-1] if progress.history else None})

    # ---- net, optimiser, running mean, teacher -----------------------------------------------------------------
    student = Student(recipe, sets.class_names, team, locate=locate, restored=saved is not None)
    net, mean = student.net, student.learner.mean
    trained = Trained(net, checkpoint.about_of_run(recipe, sets))
    if student.teacher:
        fixed = replace(fixed, teacher=student.teacher.sha256())
    if saved:
        checkpoint.restore(saved, fixed, student.learner)
    del saved  # and with it its file, which the next checkpoint replaces
    if team.leads:
        write_text(folder / "recipe.json", json.dumps(recipe.model_dump(mode="json"), indent=2) + "\n")

    # ---- epochs ------------------------------------------------------------------------------------------------
    started = time.monotonic() - progress.seconds
    place = place_of(sets.shown)
    logs = Logs(folder, tensorboard=run.tensorboard and team.leads, step=progress.step)
    met: Answers | None = None  # of the last epoch
    while (epoch := len(progress.history)) < wanted.epochs and not _is_over(recipe, progress):
        first = progress.step - epoch * steps_per_epoch
        crops.side_px = side_at(recipe.augment, epoch, recipe.input.crop_px)
        step_started = time.monotonic()
        with stopping.held():
            for share in shares(recipe, crops, team, epoch=epoch, steps=steps_per_epoch, first=first):
                progress.waiting += time.monotonic() - step_started
                lines = (line.removeprefix(place) for line in share.unreadable)
                progress.unreadable += [line for line in lines if line not in progress.unreadable]
                want_few(progress.unreadable, len(sets.shown), recipe.data.unreadable, kind="training", place=place)
                lr = rate(wanted, progress.step, steps_per_epoch)
                loss = student.step(share, progress.step, lr)
                progress.step += 1

                mine = [loss * len(share.labels), len(share.labels), stopping.asked]
                counted = team.total(torch.tensor(mine, dtype=torch.float64))
                _want_number(counted[0].item(), recipe, progress.step, kept=last)
                progress.loss_sum += counted[0].item()
                progress.seen += int(counted[1].item())
                progress.seconds = time.monotonic() - started
                taken = time.monotonic() - step_started
                progress.stepping += taken
                stops = counted[2].item() > 0  # all of them, at the same step
                is_last = progress.step % steps_per_epoch == 0
                is_due = not is_last and (stops or progress.step % run.checkpoint_steps == 0)
                if is_due:
                    progress.unreadable = team.union(progress.unreadable)
                    checkpoint.want_whole(student.learner, recipe, progress.step, last, team)
                if team.leads:
                    told = {
                        "step": progress.step,
                        "steps": plan.steps,
                        "epoch": epoch + 1,
                        "loss": progress.loss_sum / progress.seen,
                        "lr": lr,
                        "pictures_per_s": counted[1].item() / taken,
                        "waiting": progress.waiting / progress.stepping,
                        "unreadable": len(progress.unreadable),
                    }
                    logs.step(told)
                    report(told)
                    if is_due:
                        checkpoint.save(last, fixed, progress, student.learner)
                if stops and not is_last:
                    stopping.asked = True
                    break
                step_started = time.monotonic()
            else:
                progress.unreadable = team.union(progress.unreadable)
                want_few(progress.unreadable, len(sets.shown), recipe.data.unreadable, kind="training", place=place)
                team.share(mean.state)  # each process has norms' statistics of its own
                checkpoint.want_whole(student.learner, recipe, progress.step, last, team)
                if team.leads:
                    checkpoint.save(last, fixed, progress, student.learner)  # whatever becomes of the test
                asked = team.total(torch.tensor([stopping.asked], dtype=torch.float64))
                stopping.asked = asked.item() > 0
        met = answers(tested_net(net, mean.state, team), recipe, sets, team)
        scores = figures(met, wanted.loss)
        _want_number(scores["test_loss"], recipe, progress.step, kept=None)  # it is the last one's own loss
        unreadable = [*(place + line for line in progress.unreadable), *met.unreadable]
        line = {
            "epoch": epoch + 1,
            "loss": progress.loss_sum / progress.seen,
            "lr": rate(wanted, progress.step - 1, steps_per_epoch),
            **scores,
            "waiting": round(progress.waiting / progress.stepping, 4),
            "unreadable": len(unreadable),
            "seconds": round(progress.seconds, 1),
        }
        progress.history.append(line)
        progress.loss_sum, progress.seen, progress.waiting, progress.stepping = 0.0, 0, 0.0, 0.0
        is_best = progress.best is None or line[better] > progress.best[better]
        if is_best:
            progress.best = line
        if team.leads:
            _keep(folder, recipe, trained, mean.state, epoch + 1, is_best=is_best)
            if unreadable:
                write_text(folder / "unreadable.txt", "\n".join(unreadable) + "\n")
            checkpoint.save(last, fixed, progress, student.learner)
            logs.epoch(progress.history, progress.step)
            report(line)

    # ---- the result ----------------------------------------------------------------------------------------
    result = folder / RESULT
    state = {name: value.to(team.device) for name, value in _result(folder, recipe, mean.state, team).items()}
    team.share(state)
    if team.leads:
        save_trained(result, trained, state)
    if met is None or run.result != "last":
        met = answers(tested_net(net, state, team), recipe, sets, team)
    if team.leads:
        names = [sets.tested.names[index] for index in met.indices]
        write_answers(folder, met.logits, met.labels, met.indices, names=names, class_names=sets.class_names)
        logs.rewrite(progress.history)
    return result


def _want_number(loss: float, recipe: Recipe, step: int, *, kept: Path | None) -> None:
    if not math.isfinite(loss):
        raise checkpoint.diverged("the loss is", recipe, step, kept)


def _is_over(recipe: Recipe, progress: checkpoint.Progress) -> bool:
    """Whether no epoch of the last few was better than the best before them."""
    if recipe.steps.patience is None or progress.best is None or progress.seen:
        return False
    since: int = progress.history[-1]["epoch"] - progress.best["epoch"]
    return since >= recipe.steps.patience


def _keep(
    folder: Path, recipe: Recipe, trained: Trained, state: Mapping[str, Tensor], epoch: int, *, is_best: bool
) -> None:
    """What stays of an epoch beside the checkpoint to go on from."""
    if recipe.run.result == "best" and is_best:
        save_trained(folder / "best.safetensors", trained, state)
    if recipe.run.keep > 1:
        save_trained(folder / f"epoch-{epoch:04d}.safetensors", trained, state)
        for path in _kept(folder)[: -recipe.run.keep]:
            path.unlink()


def _kept(folder: Path) -> list[Path]:
    """The weights of epochs, the last ones last."""
    kept = folder.glob("epoch-[0-9][0-9][0-9][0-9]*.safetensors")
    return sorted(kept, key=lambda path: int(path.stem.removeprefix("epoch-")))


def _result(folder: Path, recipe: Recipe, last: Mapping[str, Tensor], team: Team) -> Mapping[str, Tensor]:
    """Of the leading process, which alone has the files; others give what has its shape."""
    match recipe.run.result if team.leads else "last":
        case "best":
            return load_trained(folder / "best.safetensors").net.state_dict()
        case "average":
            return averaged([load_trained(path).net.state_dict() for path in _kept(folder)])
        case _:
            return last
