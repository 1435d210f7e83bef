"""The tables of a recipe: what each key means, its range, and what it is when it is not given.

Every table refuses keys that it does not know, and those that nothing reads beside the others, unless they are set to
what they are when not given: an override can set a key back, but not take it away. `train.recipe` reads them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from anabranch.arch import Arch, arch, arch_from_json
from anabranch.images.preprocess import Preprocess, Resampler

Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]

_MOST = 1e38  # as torch's optimisers take it, in float32


def _spread(value: float) -> float:
    if value != 0 and not 0.001 <= value <= 1000:
        raise ValueError("0 or 0.001 to 1000 is wanted, as the parameter of a Dirichlet distribution")
    return value


Spread = Annotated[float, AfterValidator(_spread)]
RANDOM = "random"  # in place of weights: a net as it is built, with which a recipe's smoke run does without a download


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def refuse(self, name: str, keys: Iterable[str], *, belongs_to: str) -> None:
        """Raise ValueError where one of these `keys` of the table `name`, which nothing reads, is set to anything."""
        for key in keys:
            default = type(self).model_fields[key].default
            if getattr(self, key) != default:
                told = "" if default is None else f", or set it to {json.dumps(default)}, as it is when left out"
                raise ValueError(f"{name}.{key} belongs to {belongs_to}; leave it out{told}")


class Source(Table):
    """A set of pictures, as `images.open_labelled` takes it; a folder of shards among them."""

    path: str
    split: str | None = None
    labels: str | None = None


class Data(Table):
    train: Source
    test: Source | None = None
    hold_out: BelowOne = 0.0  # instead of `test`: the share of each class of `train` that is tested on and not learnt
    class_names: tuple[str, ...] | Literal["imagenet-1k"] | None = None  # where the set itself has none
    multi_label: bool = False  # a picture shows any number of classes, which a CSV names between ";"
    unlabelled: bool = False  # `train` is all pictures at any depth below a folder, for a teacher's answers alone
    balanced: bool = False  # each class is shown as often as any other
    repeats: Positive = 1  # copies of a picture in a batch, each augmented on its own (Hoffer et al. 2020)
    unreadable: BelowOne = 0.0  # share of pictures that may turn out unreadable; they are left out and listed

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.test is None) != (self.hold_out > 0):
            raise ValueError("data wants either a test set, data.test, or a share of the training set, data.hold_out")
        if self.unlabelled:
            self.refuse("data", ("balanced", "multi_label"), belongs_to="pictures with labels, and data.unlabelled")
            if self.train.labels is not None:
                raise ValueError("data.train.labels belongs to pictures with labels; leave it or data.unlabelled out")
        if self.multi_label and (self.hold_out or self.balanced):
            raise ValueError(
                "data.hold_out and data.balanced go by the one class of a picture, and data.multi_label gives it any "
                "number; name a test set in data.test, and leave data.balanced out"
            )
        return self


class Input(Table):
    """What the trained net will eat; see `images.Preprocess`."""

    crop_px: Positive
    resize_px: Positive
    fit: Literal["shorter-side", "squash"] = "shorter-side"
    resampler: Resampler = "pillow-bilinear"
    rounding: Literal["torchvision", "paddleclas"] = "torchvision"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.resize_px < self.crop_px:
            raise ValueError(
                f"input.resize_px = {self.resize_px} is less than input.crop_px = {self.crop_px}, which would put a "
                "black frame around every tested picture; raise both"
            )
        return self

    def preprocess(self) -> Preprocess:
        return Preprocess(**self.model_dump())


class Net(Table):
    """Arguments of `build`, and how norms count in a team of processes."""

    dropout: BelowOne = 0.0
    drop_path: BelowOne = 0.0
    zero_gamma: bool = False
    sync_norms: bool = False  # over all processes; otherwise each norm sees its own process's share of a batch


class Start(Table):
    """Weights to begin from.

    `frozen` names parts of the net that learn nothing (`stem`, `stages.0`, ..., `head`), "all but head" and "all but
    head and norms" being the two usual choices in words. A frozen part's norms keep their statistics.
    """

    weights: str  # a file, a name in the catalogue, or RANDOM
    head: Literal["keep", "drop"] = "keep"  # "drop" begins the classifier anew
    frozen: tuple[str, ...] = ()
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0  # each part's learning rate over that of the one after it


class Augment(Table):
    """What happens to a training picture.

    `crop = "random-resized"` takes a box of `scale` of the area at `aspect` (Szegedy et al. 2015); `crop = "padded"`
    takes the picture as it is tested, padded by `pad_px` of zeros and cropped anywhere (He et al. 2015, section 4.2);
    `crop = "tested"` takes it as it is tested.
    """

    crop: Literal["random-resized", "padded", "tested"] = "random-resized"
    side_px: tuple[tuple[int, int], ...] = ()  # (epoch, side from it on), ...; empty: input.crop_px throughout
    resampler: Literal["pillow-bilinear", "pillow-bicubic"] = "pillow-bilinear"  # of random-resized crops
    scale: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (0.75, 4 / 3)
    pad_px: Annotated[int, Field(ge=0, le=4096)] = 0
    flip: Share = 0.5
    policy: Literal["none", "randaugment", "trivialaugment"] = "none"
    policy_ops: Annotated[int, Field(ge=1, le=100)] = 2  # of randaugment
    policy_magnitude: Annotated[float, Field(ge=0, le=10)] = 9.0  # of randaugment
    policy_spread: NotNegative = 0.0  # standard deviation of the magnitude
    policy_probability: Share = 1.0  # with which each of randaugment's operations happens; timm's 0.5
    erase: Share = 0.0
    mixup: Spread = 0.0
    cutmix: Spread = 0.0  # with mixup too, each batch gets one of the two, as often the one as the other

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError("augment.scale wants two shares of the area, the smaller first, above 0 and at most 1")
        if not 0.001 <= self.aspect[0] <= self.aspect[1] <= 1000:
            raise ValueError("augment.aspect wants two ratios of width to height, the smaller first, 0.001 to 1000")
        epochs = [epoch for epoch, _ in self.side_px]
        if epochs != sorted(set(epochs)) or any(epoch < 0 or side < 1 for epoch, side in self.side_px):
            raise ValueError("augment.side_px wants pairs (epoch, px) whose epochs rise from 0 on, such as [[0, 128]]")
        if (self.pad_px > 0) != (self.crop == "padded"):
            raise ValueError('augment.pad_px belongs to augment.crop = "padded": at least 1 there, 0 elsewhere')
        if self.crop != "random-resized":
            self.refuse("augment", ("resampler", "scale", "aspect"), belongs_to='augment.crop = "random-resized"')
        if self.policy != "randaugment":
            of_policy = ("policy_ops", "policy_magnitude", "policy_spread", "policy_probability")
            self.refuse("augment", of_policy, belongs_to='augment.policy = "randaugment"')
        return self


class Optimise(Table):
    """How the weights move. Epochs may be broken: a warm-up of half an epoch is one of half its steps."""

    epochs: Positive
    steps_per_epoch: Positive | None = None  # None: once through the set
    batch: Positive  # over all processes and all its parts
    accumulate: Positive = 1  # parts of each process's share, one after the other, for want of memory
    optimiser: Literal["sgd", "lamb", "adamw", "rmsprop"] = "sgd"
    lr: Annotated[float, Field(gt=0, le=_MOST)]
    lr_batch: Positive | None = None  # the batch that `lr` is meant for: another batch scales it in proportion
    schedule: Literal["cosine", "step"] = "cosine"
    step_epochs: tuple[Positive, ...] = ()  # at which the rate of "step" falls
    step_factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    final_lr: NotNegative = 0.0  # where "cosine" ends
    warmup_epochs: NotNegative = 0.0
    warmup_from: Share = 0.0  # of the rate
    momentum: BelowOne = 0.9  # of sgd and rmsprop
    nesterov: bool = True  # of sgd
    weight_decay: Annotated[float, Field(ge=0, le=_MOST)] = 1e-4
    decay_norms: bool = False  # weight decay on norms and biases too
    loss: Literal["cross-entropy", "binary"] = "cross-entropy"
    label_smoothing: BelowOne = 0.0
    binary_threshold: Share | None = None  # of "binary": mixed targets above it are 1, others 0
    clip_norm: NotNegative = 0.0  # of the whole gradient; 0: not clipped
    clip_adaptive: NotNegative = 0.0  # of each unit's gradient over its weights (Brock et al. 2021); 0: not clipped
    ema_decay: BelowOne = 0.0
    ema_steps: Positive = 1  # optimiser steps between two updates of the running mean
    patience: Positive | None = None  # epochs without a better score after which the run ends

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.schedule == "step") != bool(self.step_epochs):
            raise ValueError('optimise.step_epochs belongs to optimise.schedule = "step", which wants at least one')
        if list(self.step_epochs) != sorted(set(self.step_epochs)):
            raise ValueError("optimise.step_epochs wants epochs that rise")
        for key, is_read, owner in (
            ("step_factor", self.schedule == "step", 'schedule = "step"'),
            ("final_lr", self.schedule == "cosine", 'schedule = "cosine"'),
            ("warmup_from", self.warmup_epochs > 0, "warmup_epochs, which is 0"),
            ("momentum", self.optimiser in ("sgd", "rmsprop"), 'optimiser = "sgd" and "rmsprop"'),
            ("binary_threshold", self.loss == "binary", 'loss = "binary"'),
            ("ema_steps", self.ema_decay > 0, "ema_decay, which is 0"),
        ):
            if not is_read:
                self.refuse("optimise", [key], belongs_to=f"optimise.{owner}")
        return self


class Distil(Table):
    """A teacher whose answers are learnt instead of the labels, or beside them."""

    # an artefact, a checkpoint, a name in the catalogue, or RANDOM: a net like the student; or a program and its words
    teacher: str | tuple[str, ...]
    engine: Literal["openvino", "onnxruntime"] = "openvino"  # of an artefact, on the processor
    precision: str | None = None  # that it computes in; None: f32 where the artefact has that
    # both ways, as PaddleClas' SSLD has it, or from the teacher's side (Hinton et al. 2015)
    loss: Literal["js", "kl"] = "js"
    temperature: Annotated[float, Field(gt=0, le=_MOST)] = 1.0  # of "kl"
    labels: Share = 0.0  # the labels' share of the loss; 0: they are never looked at
    teacher_norms: Literal["statistics", "batch"] = "statistics"  # "batch": a net's norms see the batch (SSLD)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.loss != "kl":
            self.refuse("distil", ["temperature"], belongs_to='distil.loss = "kl"')
        if not isinstance(self.teacher, str):
            if not self.teacher:
                raise ValueError("distil.teacher is an empty list; name a teacher, or a program word by word")
            self.refuse("distil", ["engine", "precision", "teacher_norms"], belongs_to="a teacher that is no program")
        return self


class Probe(Table):
    """Nothing but a head is learnt, on the features of the backbone that `start` gives, which are computed once."""

    # candidates of the L2 penalty on the head's weights; the best on a held-out fifth of the training pictures is taken
    weight_decay: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (1.0, 0.1, 0.01, 0.001)
    # in which the training pictures are looked at, "auto" for bf16 where the processor computes it and f32 elsewhere;
    # the result is f32
    precision: Literal["auto", "f32", "bf16", "int8"] = "auto"


class Run(Table):
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0  # as torch takes it
    checkpoint_steps: Positive = 500  # optimiser steps between two checkpoints; every epoch's end makes one too
    keep: Positive = 1  # the weights of the last so many epochs stay; 1: the result alone
    result: Literal["last", "best", "average"] = "last"  # the epoch that becomes the model; the average of those kept
    precision: Literal["f32", "bf16", "fp16"] = "f32"  # of the products; sums and weights stay f32
    channels_last: bool = True
    compile: bool = False
    workers: Annotated[int, Field(ge=0)] = 0  # threads that decode and crop; 0: the one that trains
    test_pictures: Positive | None = None  # None: all of them
    tensorboard: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.result == "average" and self.keep < 2:
            raise ValueError('run.result = "average" is of the epochs that run.keep keeps: at least 2')
        return self


class Recipe(Table):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    expect: str  # the result to expect, its spread, and how long it takes where
    licence: str = "unknown"  # SPDX, of the weights that come out
    arch: str | dict[str, Any]
    net: Net = Net()
    start: Start | None = None
    data: Data
    input: Input
    augment: Augment = Augment()
    optimise: Optimise | None = None
    probe: Probe | None = None  # instead of `optimise`
    distil: Distil | None = None
    run: Run = Run()
    smoke: dict[str, Any] = {}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.optimise is None) == (self.probe is None):
            raise ValueError("a recipe has either [optimise], to train the net, or [probe], to fit a head to it")
        if self.probe and (self.start is None or self.distil is not None):
            raise ValueError("[probe] wants [start], whose weights it looks through, and no [distil]")
        if self.probe:
            self._refuse_beside_a_probe()
        if self.data.multi_label and (self.probe or self.distil):
            raise ValueError(
                "data.multi_label goes with neither [probe] nor [distil], whose losses give each picture one class; "
                'train with [optimise] alone, whose loss is "binary"'
            )
        if self.data.multi_label and self.steps.loss != "binary":
            raise ValueError(
                f'optimise.loss = "{self.steps.loss}" gives each picture one class, and data.multi_label any number; '
                'say optimise.loss = "binary"'
            )
        if self.data.unlabelled and not (self.distil and self.distil.labels == 0 and self.data.test):
            raise ValueError(
                "data.unlabelled pictures can be learnt from a teacher alone, and tested on others: it goes with "
                "[distil], with distil.labels = 0 and with data.test"
            )
        if self.distil and self.distil.labels == 0:
            self.steps.refuse("optimise", ("label_smoothing", "loss"), belongs_to="distil.labels, which is 0")
        return self

    def _refuse_beside_a_probe(self) -> None:
        """Raise ValueError where a key is set that only a training reads."""
        assert self.start is not None
        owner = f"a training by [optimise], not to [probe], whose keys are {' and '.join(Probe.model_fields)}"
        self.net.refuse("net", Net.model_fields, belongs_to=owner)
        self.start.refuse("start", ("frozen", "layer_decay"), belongs_to=owner)
        self.data.refuse("data", ("balanced", "repeats"), belongs_to=owner)
        self.augment.refuse("augment", Augment.model_fields, belongs_to=owner)
        self.run.refuse("run", (key for key in Run.model_fields if key != "seed"), belongs_to=owner)

    @property
    def steps(self) -> Optimise:
        """Of a recipe that is no probe."""
        assert self.optimise is not None
        return self.optimise

    def spec(self) -> Arch:
        return arch(self.arch) if isinstance(self.arch, str) else arch_from_json(self.arch)
