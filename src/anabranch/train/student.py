"""The net that learns, with all that a step of it takes: its input, its loss, its teacher, its optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from anabranch.errors import DatasetError, RecipeError
from anabranch.nets.net import build
from anabranch.train.augment import Batch, mixed
from anabranch.train.checkpoint import Learner
from anabranch.train.data import Share
from anabranch.train.distil import Locate, distilled, open_teacher
from anabranch.train.losses import label_loss
from anabranch.train.norms import synchronised
from anabranch.train.optimise import Ema, clip, optimiser
from anabranch.train.start import begin, freeze, groups, still
from anabranch.train.tables import Recipe
from anabranch.train.team import Team

_PRODUCTS = {"f32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Student:
    """A process's copy of the net of a recipe, at its start. Raises what its weights and its teacher raise.

    `restored`: a checkpoint will give it its weights, and those that its recipe starts from are not looked for.
    """

    def __init__(
        self, recipe: Recipe, class_names: Sequence[str], team: Team, *, locate: Locate, restored: bool = False
    ):
        self.recipe = recipe
        self.team = team
        self.frozen = recipe.start.frozen if recipe.start else ()
        torch.manual_seed(recipe.run.seed)
        net = build(
            recipe.spec(),
            num_classes=len(class_names),
            dropout=recipe.net.dropout,
            drop_path=recipe.net.drop_path,
            zero_gamma=recipe.net.zero_gamma,
        )
        if recipe.start:
            if not restored:
                begin(net, recipe.start, class_names)
            freeze(net, recipe.start.frozen)
        self.net = net.to(team.device)
        if recipe.run.channels_last:
            self.net = self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if recipe.net.sync_norms:
            synchronised(self.net, team.processes)
        self.teacher = open_teacher(recipe, class_names, team.device, locate=locate) if recipe.distil else None
        self.to_input = Batch(recipe.augment, recipe.input.preprocess()).to(team.device)
        self.label_loss = label_loss(recipe.steps, len(class_names), multi_label=recipe.data.multi_label)
        decay = recipe.start.layer_decay if recipe.start else 1.0
        self.learner = Learner(
            net=self.net,
            optimiser=optimiser(groups(self.net, recipe.steps, decay), recipe.steps),
            mean=Ema(self.net, recipe.steps.ema_decay, recipe.steps.ema_steps),
            scaler=torch.amp.GradScaler(team.device.type, enabled=recipe.run.precision == "fp16"),
        )
        self.wrapped = team.wrap(self.net)
        self.forward = torch.compile(self.wrapped) if recipe.run.compile else self.wrapped

    def step(self, share: Share, number: int, lr: float) -> float:
        """Step `number` (0, 1, ...) down the gradient of a batch; the mean loss of this process's share of it."""
        num_parts = self.recipe.steps.accumulate
        waits_in_each = self.team.processes > 1 and self.recipe.net.sync_norms  # for the other processes
        needed = num_parts if waits_in_each else 1
        if len(share.labels) < needed:
            raise DatasetError(
                f"of a process's share of a batch {len(share.labels)} pictures can be read, and {needed} at least are "
                f"needed; mend or remove the others, of which one is: {share.unreadable[0]}"
            )
        num_parts = min(num_parts, len(share.labels))
        torch.manual_seed(_seed(self.recipe.run.seed, number, self.team.rank))
        self.net.train()
        still(self.net, self.frozen)
        learner = self.learner
        for group in learner.optimiser.param_groups:
            group["lr"] = lr * group["lr_scale"]
        learner.optimiser.zero_grad()

        loss, weight = 0.0, self._weight(len(share.labels))
        parts = zip(*(each.tensor_split(num_parts) for each in (share.pixels, share.labels, share.draws)), strict=True)
        for number_of_part, (pixels, labels, draws) in enumerate(parts, start=1):
            with nullcontext() if number_of_part == num_parts else self._alone():
                mean = self._loss(pixels, labels, draws) * (len(labels) / len(share.labels))
                learner.scaler.scale(mean * weight).backward()  # type: ignore[no-untyped-call]
            loss += mean.item()

        learner.scaler.unscale_(learner.optimiser)
        clip(self.net, self.recipe.steps)
        learner.scaler.step(learner.optimiser)
        learner.scaler.update()
        learner.mean.update(self.net, number + 1)
        return loss

    def _weight(self, count: int) -> float:
        """What this process's mean counts in that of the team, for whom each picture of a batch counts the same."""
        if self.team.processes == 1 or self.recipe.data.unreadable == 0:  # all have as many
            return 1.0
        return count * self.team.processes / self.team.total(torch.tensor([count], dtype=torch.float64)).item()

    def _loss(self, pixels: Tensor, labels: Tensor, draws: Tensor) -> Tensor:
        device, recipe = self.team.device, self.recipe
        labels = labels.to(device)
        if recipe.data.unlabelled:
            labels = torch.zeros_like(labels)  # mixed like others, and never looked at
        targets = labels if recipe.data.multi_label else F.one_hot(labels, self.net.num_classes)
        x, targets = mixed(self.to_input.train()(pixels.to(device), draws), targets.float(), recipe.augment)
        if recipe.run.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        reduced = recipe.run.precision != "f32"
        with torch.autocast(device.type, _PRODUCTS[recipe.run.precision] if reduced else None, enabled=reduced):
            try:
                logits = self.forward(x).float()
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):  # torch's words, of a norm that sees one value
                    raise
                raise RecipeError(
                    f"a step in which a process sees one picture of {x.shape[-1]} px leaves norms without a spread to "
                    "divide by; raise optimise.batch or input.crop_px, or lower optimise.accumulate"
                ) from error
            taught = self.teacher.logits(x) if self.teacher else None
        if recipe.distil is None or taught is None:
            return self.label_loss(logits, targets)
        by_labels = self.label_loss(logits, targets) if recipe.distil.labels else None
        return distilled(logits, taught, by_labels, recipe.distil)

    def _alone(self) -> nullcontext[None]:
        """While gradients of a part are gathered that the team does not share yet."""
        if isinstance(self.wrapped, DistributedDataParallel):
            return self.wrapped.no_sync()  # type: ignore[return-value]
        return nullcontext()


def _seed(seed: int, step: int, rank: int) -> int:
    """One seed per step and process, so that a resumed run draws what it would have drawn."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0])
