"""RandAugment and TrivialAugmentWide: each picture gets operations of its own, drawn for it alone.

Operations work on whole grey levels and are Pillow's, by which both papers define them: the colour operations give
Pillow's pixels exactly, the movements its bilinear ones. Whole levels are summed and counted without rounding, so that
a picture comes out the same whatever the rest of its batch holds, on a processor and on a GPU.

Both draw from the same fourteen operations, each as often as any other, and move or change either way as often. What
they differ in, at full strength:

                                        RandAugment                 TrivialAugmentWide
operations on a picture                 `policy_ops`                1
each of them happens by                 `policy_probability`        1
strength                                `policy_magnitude` / 10     one of 0, 1/30, ..., 1
shear                                   0.3                         0.99
translation                             150/331 of the side         32 px
rotation                                30 degrees                  135 degrees
brightness, colour, contrast, sharpness 1 +- 0.9                    1 +- 0.99
posterize, bits that are left           4                           2
solarize, levels that are inverted      all                         all

Sources: Cubuk et al. 2020 (RandAugment), Müller & Hutter 2021 (TrivialAugment), and torchvision 0.28
`transforms/autoaugment.py` for the ranges; its magnitudes run from 0 to 30, the paper's and these from 0 to 10, so its
default of 9 is 3 here. At strength 0 solarize inverts nothing, as in the authors' code; torchvision's inverts white.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from anabranch.train.tables import Augment

DRAWS_AN_OPERATION = 3  # which operation, how strong, which way

Operation = Callable[[Tensor, Tensor], Tensor]  # uint8 (n, C, S, S) and an amount for each, (n,) -> the same shape
Coordinate = tuple[Tensor | float, Tensor | float, Tensor | float]  # how much of x, of y, and how much besides


def num_operations(recipe: Augment) -> int:
    """How many operations a picture gets, one after the other."""
    return {"none": 0, "randaugment": recipe.policy_ops, "trivialaugment": 1}[recipe.policy]


def changed(pixels: Tensor, draws: Tensor, recipe: Augment) -> Tensor:
    """Each picture by its own operations. uint8 (n, 3, S, S) -> same shape; `draws`: (n, operations, 3) in [0, 1).

    What is drawn is read on the processor: the GPU need not be waited for.
    """
    strongest = torch.tensor(_strongest(recipe, pixels.shape[-1]))
    for drawn in draws.cpu().unbind(1):
        happens = drawn[:, 2] < recipe.policy_probability
        which = torch.where(happens, picked(drawn[:, 0], len(OPERATIONS)), 0)  # the identity
        way = torch.where(drawn[:, 2] < recipe.policy_probability / 2, 1.0, -1.0)
        pixels = _applied(pixels, which, strongest[which] * _strength(drawn[:, 1], recipe) * way)
    return pixels


def picked(draw: Tensor, count: Tensor | int) -> Tensor:
    """A number of 0, ..., count - 1, each as likely, from a draw in [0, 1)."""
    return (draw * count).long()


def _applied(pixels: Tensor, which: Tensor, amount: Tensor) -> Tensor:
    result = pixels.clone()
    for number, operation in enumerate(OPERATIONS.values()):
        those = (which == number).nonzero().flatten()
        if len(those):
            rows = those.to(pixels.device)
            result[rows] = operation(pixels[rows], amount[those].to(pixels.device))
    return result


def _strength(draw: Tensor, recipe: Augment) -> Tensor:
    """(n,) in 0..1."""
    if recipe.policy == "trivialaugment":
        return picked(draw, 31) / 30
    magnitude = torch.full_like(draw, recipe.policy_magnitude)
    if recipe.policy_spread > 0:
        magnitude += recipe.policy_spread * torch.special.ndtri(draw)  # a draw from the normal distribution
    return magnitude.clamp(0, 10) / 10


def _strongest(recipe: Augment, side_px: int) -> list[float]:
    """The amount of each operation at strength 1, in the order of OPERATIONS."""
    if recipe.policy == "randaugment":
        shear, shift_px, degrees, change, bits = 0.3, 150 / 331 * side_px, 30.0, 0.9, 4
    else:
        shear, shift_px, degrees, change, bits = 0.99, 32.0, 135.0, 0.99, 6
    return [0, shear, shear, shift_px, shift_px, degrees, change, change, change, change, bits, 256, 0, 0]


# ---- movements -----------------------------------------------------------------------------------------------------


def shear_x(pixels: Tensor, amount: Tensor) -> Tensor:
    """About the upper left corner, as the papers' code does it."""
    return _moved(pixels, (1, amount, 0), (0, 1, 0))


def shear_y(pixels: Tensor, amount: Tensor) -> Tensor:
    return _moved(pixels, (1, 0, 0), (amount, 1, 0))


def translate_x(pixels: Tensor, amount: Tensor) -> Tensor:
    """By whole pixels; a fraction is cut off, as in both papers' code."""
    return _moved(pixels, (1, 0, amount.trunc()), (0, 1, 0))


def translate_y(pixels: Tensor, amount: Tensor) -> Tensor:
    return _moved(pixels, (1, 0, 0), (0, 1, amount.trunc()))


def rotate(pixels: Tensor, amount: Tensor) -> Tensor:
    """Counter-clockwise about the centre, by degrees."""
    cos, sin = amount.deg2rad().cos(), amount.deg2rad().sin()
    centre = pixels.shape[-1] / 2
    return _moved(
        pixels,
        (cos, -sin, centre - centre * cos + centre * sin),
        (sin, cos, centre - centre * sin - centre * cos),
    )


def _moved(pixels: Tensor, source_x: Coordinate, source_y: Coordinate) -> Tensor:
    """Each pixel from where it came, between pixels by bilinear interpolation; black from outside the picture.

    Coordinates are in pixels from the upper left corner; the first pixel's centre is at 0.5.
    """
    side = pixels.shape[-1]
    centres = torch.arange(side, device=pixels.device) + 0.5
    x, y = centres.view(1, 1, side), centres.view(1, side, 1)

    def source(coordinate: Coordinate) -> Tensor:
        of_x, of_y, besides = (part.view(-1, 1, 1) if isinstance(part, Tensor) else part for part in coordinate)
        return (of_x * x + of_y * y + besides).expand(len(pixels), side, side)

    where = torch.stack([source(source_x), source(source_y)], 3)  # (n, S, S, 2)
    inside = ((where >= 0) & (where < side)).all(3).unsqueeze(1)  # (n, 1, S, S)
    # the edge goes on for half a pixel, as Pillow has it, instead of fading to black
    taken = F.grid_sample(
        pixels.float(), where * (2 / side) - 1, mode="bilinear", padding_mode="border", align_corners=False
    )
    return (taken.round() * inside).to(torch.uint8)


# ---- changes of colour ---------------------------------------------------------------------------------------------


def identity(pixels: Tensor, amount: Tensor) -> Tensor:
    return pixels


def brightness(pixels: Tensor, amount: Tensor) -> Tensor:
    return _enhanced(pixels, torch.zeros_like(pixels), amount)


def colour(pixels: Tensor, amount: Tensor) -> Tensor:
    return _enhanced(pixels, _grey(pixels), amount)


def contrast(pixels: Tensor, amount: Tensor) -> Tensor:
    grey = _grey(pixels).flatten(1)
    mean = (2 * grey.sum(1) + grey.shape[1]) // (2 * grey.shape[1])  # rounded, halves up
    return _enhanced(pixels, mean.view(-1, 1, 1, 1), amount)


def sharpness(pixels: Tensor, amount: Tensor) -> Tensor:
    """Away from, or towards, the picture smoothed by a 3x3 whose centre counts 5; the outermost pixels stay."""
    side = pixels.shape[-1]
    levels = pixels.int()
    neighbours = [levels[:, :, top : side - 2 + top, left : side - 2 + left] for top in range(3) for left in range(3)]
    around = torch.stack([*neighbours, *[levels[:, :, 1:-1, 1:-1]] * 4]).sum(0)
    smooth = levels.clone()
    smooth[:, :, 1:-1, 1:-1] = (2 * around + 13) // 26  # around / 13, rounded
    return _enhanced(pixels, smooth, amount)


def posterize(pixels: Tensor, amount: Tensor) -> Tensor:
    """Without the `amount` lowest bits."""
    lost = 2 ** amount.abs().round().int() - 1
    return pixels & (255 - lost).to(torch.uint8).view(-1, 1, 1, 1)


def solarize(pixels: Tensor, amount: Tensor) -> Tensor:
    """With the `amount` highest of 256 levels inverted."""
    kept = 256 - amount.abs().round().int().view(-1, 1, 1, 1)
    return torch.where(pixels < kept, pixels, 255 - pixels)


def autocontrast(pixels: Tensor, amount: Tensor) -> Tensor:
    """Each channel from 0 to 255; a channel of one level stays."""
    levels = pixels.flatten(2)
    darkest, brightest = levels.amin(2, keepdim=True), levels.amax(2, keepdim=True)
    white = torch.full(darkest.shape, 255.0, dtype=torch.float64, device=pixels.device)
    scale = white / (brightest - darkest)  # a plain number over a tensor would be rounded twice
    table = (torch.arange(256, device=pixels.device) * scale - darkest * scale).clamp(0, 255)
    return _looked_up(pixels, table, brightest > darkest)


def equalize(pixels: Tensor, amount: Tensor) -> Tensor:
    """Each channel with its levels spread evenly; a channel too small or too plain for that stays."""
    levels = pixels.flatten(2).long()
    counts = levels.new_zeros(*levels.shape[:2], 256).scatter_add_(2, levels, torch.ones_like(levels))
    of_brightest = counts.gather(2, levels.amax(2, keepdim=True))
    step = (levels.shape[2] - of_brightest) // 255
    below = counts.cumsum(2) - counts
    table = (below + step // 2) // step.clamp(min=1)
    return _looked_up(pixels, table.clamp(max=255), step > 0)


def _grey(pixels: Tensor) -> Tensor:
    """(n, 3, S, S) -> (n, 1, S, S) int32, by Pillow's whole-number weights of ITU-R BT.601."""
    red, green, blue = pixels.int().unbind(1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).unsqueeze(1)


def _enhanced(pixels: Tensor, dull: Tensor, amount: Tensor) -> Tensor:
    """At amount -1 the dull picture, at 0 the picture, beyond it more of what sets it apart; fractions are cut off."""
    factor = (1 + amount).view(-1, 1, 1, 1)
    return (dull + factor * (pixels.float() - dull)).clamp(0, 255).to(torch.uint8)


def _looked_up(pixels: Tensor, table: Tensor, changes: Tensor) -> Tensor:
    """Each level by its channel's table (n, C, 256), where `changes` (n, C, 1) says so."""
    table = torch.where(changes, table, torch.arange(256, device=pixels.device, dtype=table.dtype)).to(torch.uint8)
    return table.gather(2, pixels.flatten(2).long()).view_as(pixels)


OPERATIONS: dict[str, Operation] = {
    "identity": identity,
    "shear-x": shear_x,
    "shear-y": shear_y,
    "translate-x": translate_x,
    "translate-y": translate_y,
    "rotate": rotate,
    "brightness": brightness,
    "colour": colour,
    "contrast": contrast,
    "sharpness": sharpness,
    "posterize": posterize,
    "solarize": solarize,
    "autocontrast": autocontrast,
    "equalize": equalize,
}
