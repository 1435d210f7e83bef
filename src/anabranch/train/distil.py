"""The teacher of a run, and the loss of a student that learns its answers.

A teacher is shown what the student is shown: the augmented and mixed batch, so that both answer about the same pixels
(Beyer et al. 2022, "consistent and patient"). It may be a net, from any checkpoint, an artefact on its engine, or a
program of any kind in a process of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anabranch.checkpoints.trained import open_trained
from anabranch.errors import RecipeError
from anabranch.images.preprocess import Preprocess
from anabranch.nets.net import Net, build
from anabranch.nets.store import tensors_sha256
from anabranch.runtimes.open import ENGINES, open_model
from anabranch.runtimes.predictor import Predictor
from anabranch.train.classes import columns
from anabranch.train.data import sides
from anabranch.train.losses import js, kl
from anabranch.train.program import Program
from anabranch.train.tables import RANDOM, Distil, Recipe

# From a name in a recipe to a file, and the published weights that the file is like, if the name is theirs.
Locate = Callable[[str], tuple[Path, str | None]]

_Colour = tuple[float, float, float]


def a_path(name: str) -> tuple[Path, str | None]:
    """Where a teacher lies for whoever names no published weights."""
    return Path(name), None


class Teacher(Protocol):
    def logits(self, x: Tensor) -> Tensor:
        """(n, 3, S, S), normalised for the student -> (n, K) float32 on the same device, in the student's classes.

        The same for the same batch, and without a gradient. Raises RecipeError for a side that the teacher cannot take.
        """
        ...

    def sha256(self) -> str:
        """Of all that its answers depend on but the batch. Wherever it lies, the same teacher has the same one."""
        ...


def open_teacher(
    recipe: Recipe,
    class_names: Sequence[str],
    device: torch.device,
    *,
    locate: Locate = a_path,
) -> Teacher:
    """The teacher that `recipe.distil` names: an artefact folder, a checkpoint that `locate` finds, or a program.

    Its classes must be the student's `class_names`, in any order; ImageNet-1k's WordNet ids are as good as its words.
    Raises RecipeError, DatasetError, and what opening an artefact or a checkpoint raises.
    """
    distil = recipe.distil
    assert distil is not None
    student = recipe.input.preprocess()
    if not isinstance(distil.teacher, str):
        program = Program(distil.teacher)
        columns = _columns(program.greeting.classes, class_names, teacher=program.name)
        return ProgramTeacher(program, columns, student=student)
    if not Path(distil.teacher).is_dir() and (distil.engine, distil.precision) != ("openvino", None):
        raise RecipeError(
            "distil.engine and distil.precision belong to an artefact's folder, and distil.teacher = "
            f"{distil.teacher!r} is none, whose net answers in torch; leave them out"
        )
    if distil.teacher == RANDOM:
        net = build(recipe.spec(), num_classes=len(class_names)).to(device)
        columns = np.arange(len(class_names))
        return NetTeacher(net, columns, student=student, own=student, batch_norms=distil.teacher_norms == "batch")
    if Path(distil.teacher).is_dir():
        if distil.teacher_norms == "batch":
            raise RecipeError(
                f'distil.teacher_norms = "batch" does not fit {distil.teacher}: the norms of an artefact are folded '
                "into its convolutions; give a checkpoint as the teacher, or leave the key out"
            )
        predictor = open_model(distil.teacher, engine=distil.engine, precision=distil.precision)
        _want_one_class(distil.teacher, multi_label=predictor.card.multi_label)
        columns = _columns(predictor.card.labels, class_names, teacher=distil.teacher)
        for side_px in sides(recipe):
            _check_side(predictor, side_px, teacher=distil.teacher)
        return ArtefactTeacher(predictor, columns, student=student, name=distil.teacher)
    if " " in distil.teacher and not Path(distil.teacher).exists():
        raise RecipeError(
            f"distil.teacher = {distil.teacher!r}: there is no such file; a program is named word by word, as in "
            '["python", "teacher.py"]'
        )
    path, like = locate(distil.teacher)
    trained = open_trained(path, like=like)
    _want_one_class(distil.teacher, multi_label=trained.about.multi_label)
    columns = _columns(trained.about.class_names, class_names, teacher=distil.teacher)
    net = trained.net.to(device)
    return NetTeacher(
        net, columns, student=student, own=trained.about.preprocess, batch_norms=distil.teacher_norms == "batch"
    )


class NetTeacher:
    """A net whose weights stay as they are, for pictures of any side.

    `batch_norms`: its norms take the mean and variance of the batch that it is shown, and in a team of processes of the
    share of it, as PaddleClas' SSLD teachers do; their own statistics are neither used nor moved.
    """

    def __init__(
        self, net: Net, columns: NDArray[np.int64], *, student: Preprocess, own: Preprocess, batch_norms: bool = False
    ):
        self._net = net.eval().requires_grad_(False)
        if batch_norms:
            for part in net.modules():
                if isinstance(part, nn.BatchNorm2d):
                    part.train()
                    part.track_running_stats = False
        device = net.head.weight.device
        self._columns = torch.from_numpy(columns).to(device)
        self._gain, self._offset = (value.to(device) for value in _renormalising(student, own.mean, own.std))
        self._same_input = (student.mean, student.std) == (own.mean, own.std)

    @torch.no_grad()  # inference mode would not do: the student's loss keeps these logits for its gradient
    def logits(self, x: Tensor) -> Tensor:
        answers: Tensor = self._net(x if self._same_input else x * self._gain + self._offset)
        return answers.float()[:, self._columns]

    def sha256(self) -> str:
        own_input = {"gain": self._gain, "offset": self._offset}
        return tensors_sha256(self._net.state_dict() | own_input | {"columns": self._columns})


class ArtefactTeacher:
    """An artefact on its engine, on the processor, for pictures of its own side.

    It takes whole grey levels, so the batch is made pixels again by rounding, which moves a value by at most half a
    level of 255; what an augmentation left outside of 0..255 is cut off.
    """

    def __init__(self, predictor: Predictor, columns: NDArray[np.int64], *, student: Preprocess, name: str):
        self._predictor = predictor
        self._columns = columns
        self._name = name
        self._mean, self._std = _colour(student.mean), _colour(student.std)

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        _check_side(self._predictor, x.shape[-1], teacher=self._name)
        levels = (x.detach().float().cpu() * self._std + self._mean) * 255
        pixels = levels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)  # (n, 3, S, S) -> (n, S, S, 3)
        answers = self._predictor.predict(np.ascontiguousarray(pixels.numpy()))
        return torch.from_numpy(answers[:, self._columns]).to(x.device)

    def sha256(self) -> str:
        name, precision = self._predictor.engine.split()
        engine = ENGINES[name]
        files = self._predictor.card.graphs[engine.format][engine.graphs[precision]].files
        told = [f"{name} {files[name].sha256}" for name in sorted(files)]
        how = [] if precision == engine.graphs[precision] else [precision]
        return hashlib.sha256("\n".join([*told, *how, *map(str, self._columns)]).encode()).hexdigest()


class ProgramTeacher:
    """A program, for pictures of any side that it takes. It answers one batch at a time."""

    def __init__(self, program: Program, columns: NDArray[np.int64], *, student: Preprocess):
        self._program = program
        self._columns = columns
        self._gain, self._offset = _renormalising(student, program.greeting.mean, program.greeting.std)

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        answers = self._program.logits((x.detach().float().cpu() * self._gain + self._offset).numpy())
        return torch.from_numpy(answers[:, self._columns]).to(x.device)

    def sha256(self) -> str:
        told = self._program.greeting
        return hashlib.sha256(repr((told.identity, told.mean, told.std, self._columns.tolist())).encode()).hexdigest()


def distilled(student: Tensor, teacher: Tensor, label_loss: Tensor | None, distil: Distil) -> Tensor:
    """What the student is to lower: (1 - labels) times its distance from the teacher, and labels times `label_loss`.

    student, teacher: logits (n, K). With `distil.labels` = 0 there need be no labels, and `label_loss` may be None.
    """
    apart = js(student, teacher) if distil.loss == "js" else kl(student, teacher, distil.temperature)
    if distil.labels == 0:
        return apart
    assert label_loss is not None
    return (1 - distil.labels) * apart + distil.labels * label_loss


def _columns(teacher_classes: Sequence[str], class_names: Sequence[str], *, teacher: str) -> NDArray[np.int64]:
    otherwise = "give a teacher that was trained on the student's classes"
    return columns(teacher_classes, class_names, whose=f"distil.teacher = {teacher!r}", otherwise=otherwise)


def _want_one_class(teacher: str, *, multi_label: bool) -> None:
    if multi_label:
        raise RecipeError(
            f"distil.teacher = {teacher!r} gives a picture any number of classes, and what a student learns from its "
            "teacher is the one class of each picture; give a teacher that was trained without data.multi_label"
        )


def _check_side(predictor: Predictor, side_px: int, *, teacher: str) -> None:
    wanted = predictor.card.size_px
    if side_px != wanted:
        raise RecipeError(
            f"distil.teacher = {teacher!r} takes pictures of {wanted} px and the student is shown {side_px} px; "
            f"train at {wanted} px, or give a checkpoint as the teacher, which takes any side"
        )


def _renormalising(student: Preprocess, mean: _Colour, std: _Colour) -> tuple[Tensor, Tensor]:
    """Gain and offset, (3, 1, 1), from the student's normalised pixels to those of a teacher of this mean and std."""
    gain = _colour(student.std) / _colour(std)
    return gain, (_colour(student.mean) - _colour(mean)) / _colour(std)


def _colour(value: _Colour) -> Tensor:
    return torch.tensor(value, dtype=torch.float32).reshape(3, 1, 1)
