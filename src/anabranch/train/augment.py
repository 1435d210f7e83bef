"""What is done to a batch on the device: crop, flip, change, normalise, erase; and the mixing of its pictures.

What happens to one picture is decided by the numbers that were drawn where it was read (`train.data`) and travel with
it: a row of uniform numbers in [0, 1), laid out as follows. Nothing depends on the rest of the batch, nor on torch's
generator, but for the mixing, which is the batch's own affair.

column      decides
0, 1        a padded crop's row and column
2           whether the picture is flipped
3           whether a part is erased
4 ... 7     that part's area, aspect, row and column
8 ...       the policy's operations, three columns each: which, how strong, which way
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anabranch.images.preprocess import Preprocess
from anabranch.train import policy
from anabranch.train.tables import Augment

_CROP, _FLIP, _ERASE, _PART, _POLICY = slice(0, 2), 2, 3, slice(4, 8), 8

_ERASED_AREA = (0.02, 1 / 3)  # of the picture's
_ERASED_ASPECT = (0.3, 3.3)  # height to width


def num_draws(recipe: Augment) -> int:
    """How many numbers are drawn for each picture."""
    return _POLICY + policy.DRAWS_AN_OPERATION * policy.num_operations(recipe)


class Batch(nn.Module):
    """(n, S, S, 3) uint8 -> (n, 3, S, S) float32, augmented while training, normalised always."""

    mean: Tensor
    std: Tensor

    def __init__(self, recipe: Augment, preprocess: Preprocess):
        super().__init__()
        self.recipe = recipe
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocess.std).view(3, 1, 1))

    @torch.no_grad()
    def forward(self, pixels: Tensor, draws: Tensor | None = None) -> Tensor:
        """`draws`: (n, `num_draws`) float32, best left on the processor, where they are read; training wants them."""
        if not self.training:
            return self._normalised(pixels)
        assert draws is not None, "a training batch comes with its draws"
        draws = draws.cpu()
        if self.recipe.pad_px:
            pixels = padded_crop(pixels, draws[:, _CROP], self.recipe.pad_px)
        if self.recipe.flip:
            flipped = (draws[:, _FLIP] < self.recipe.flip).view(-1, 1, 1, 1).to(pixels.device)
            pixels = torch.where(flipped, pixels.flip(2), pixels)
        if operations := policy.num_operations(self.recipe):
            by_operation = draws[:, _POLICY:].view(len(draws), operations, policy.DRAWS_AN_OPERATION)
            pixels = policy.changed(pixels.permute(0, 3, 1, 2), by_operation, self.recipe).permute(0, 2, 3, 1)
        x = self._normalised(pixels)
        if self.recipe.erase:
            hidden = erased(draws[:, _PART], x.shape[-1]) & (draws[:, _ERASE] < self.recipe.erase).view(-1, 1, 1)
            x = x.masked_fill(hidden.unsqueeze(1).to(x.device), 0.0)  # zero is the mean colour
        return x

    def _normalised(self, pixels: Tensor) -> Tensor:
        x = pixels.permute(0, 3, 1, 2).float()  # (n, S, S, 3) -> (n, 3, S, S)
        return x.div_(255).sub_(self.mean).div_(self.std)  # in place: half the time


def padded_crop(pixels: Tensor, draws: Tensor, pad_px: int) -> Tensor:
    """Each picture padded with zeros and cropped anywhere: (n, S, S, 3) -> same shape. `draws`: (n, 2), row and column.

    Source: He et al. 2015, section 4.2.
    """
    count, side = pixels.shape[:2]
    padded = F.pad(pixels, (0, 0, pad_px, pad_px, pad_px, pad_px))
    start = policy.picked(draws, 2 * pad_px + 1)
    rows, columns = (start[:, i : i + 1] + torch.arange(side) for i in (0, 1))  # (n, S) each
    picture = torch.arange(count).view(count, 1, 1)
    where = (picture, rows.unsqueeze(2), columns.unsqueeze(1))
    return padded[tuple(index.to(pixels.device) for index in where)]  # (n, S, S, 3)


def erased(draws: Tensor, side: int) -> Tensor:
    """A box of each picture: (n, S, S) bool. `draws`: (n, 4), area, aspect, row and column.

    Area uniform in 0.02..1/3 of the picture's, aspect log-uniform in 0.3..3.3 as far as the box then fits: torchvision,
    whose ranges these are but for its 0.33, draws again where it does not. The box shows the mean colour, as in
    torchvision's recipes.
    Source: Zhong et al. 2020, algorithm 1; area goes up to 0.4 there, and random colours, the mean one, black and white
    are compared.
    """
    area = _ERASED_AREA[0] + draws[:, 0] * (_ERASED_AREA[1] - _ERASED_AREA[0])
    lowest, highest = area.clamp(min=_ERASED_ASPECT[0]).log(), (1 / area).clamp(max=_ERASED_ASPECT[1]).log()
    aspect = (lowest + draws[:, 1] * (highest - lowest)).exp()
    sides = [(side * (area * ratio).sqrt()).round().long().clamp(1, side) for ratio in (aspect, 1 / aspect)]
    spans = []
    for long, draw in zip(sides, draws[:, 2:].unbind(1), strict=True):
        first = policy.picked(draw, side - long + 1).unsqueeze(1)
        place = torch.arange(side)
        spans.append((place >= first) & (place < first + long.unsqueeze(1)))  # (n, S)
    rows, columns = spans
    return rows.unsqueeze(2) & columns.unsqueeze(1)


def mixed(x: Tensor, targets: Tensor, recipe: Augment) -> tuple[Tensor, Tensor]:
    """Each picture with a share of another, and their targets likewise: (n, 3, S, S) and (n, K) float32.

    One share a batch, from Beta(alpha, alpha) by torch's generator. Mixup shares out every pixel (Zhang et al. 2018,
    eq. 1), cutmix a box of them, whose part inside the picture is what counts (Yun et al. 2019, section 3.1). Where the
    recipe has both, the batch gets one of them.
    """
    both = recipe.mixup > 0 and recipe.cutmix > 0
    cuts = torch.rand(()).item() < 0.5 if both else recipe.cutmix > 0
    alpha = recipe.cutmix if cuts else recipe.mixup
    if alpha == 0:
        return x, targets
    share = torch.distributions.Beta(alpha, alpha).sample().item()
    other = torch.randperm(len(x)).to(x.device)
    if cuts:
        top, bottom, left, right = _box(share, x.shape[-1])
        share = 1 - (bottom - top) * (right - left) / x.shape[-1] ** 2
        x = x.clone()
        x[:, :, top:bottom, left:right] = x[other, :, top:bottom, left:right]
    else:
        x = share * x + (1 - share) * x[other]
    return x, share * targets + (1 - share) * targets[other]


def _box(share: float, side: int) -> tuple[int, int, int, int]:
    """Rows and columns of a box around any pixel that would cover all but `share` of the picture if it were inside."""
    half = side * math.sqrt(1 - share) / 2
    row, column = torch.randint(side, (2,)).tolist()
    top, bottom = max(0, round(row - half)), min(side, round(row + half))
    left, right = max(0, round(column - half)), min(side, round(column + half))
    return top, bottom, left, right
