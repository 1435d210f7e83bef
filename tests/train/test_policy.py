"""The oracle is Pillow, by whose operations both papers define theirs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from anabranch.train import policy
from anabranch.train.policy import OPERATIONS, changed, num_operations, picked
from anabranch.train.tables import Augment

SIDE = 24
AFFINE, BILINEAR = Image.Transform.AFFINE, Image.Resampling.BILINEAR


def smooth_pictures(count: int, side: int = SIDE) -> Tensor:
    """uint8 (n, 3, S, S), of few colours each, so that their channels do not already run from 0 to 255."""
    rng = np.random.default_rng(3)
    small = rng.integers(20, 220, (count, 5, 5, 3), dtype=np.uint8)
    large = [np.asarray(Image.fromarray(picture).resize((side, side), BILINEAR)) for picture in small]
    return torch.from_numpy(np.stack(large)).permute(0, 3, 1, 2).contiguous()


def by_pillow(pixels: Tensor, operation: Callable[[Image.Image], Image.Image]) -> Tensor:
    pictures = [operation(Image.fromarray(picture)) for picture in pixels.permute(0, 2, 3, 1).numpy()]
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)


def levels_apart(one: Tensor, other: Tensor) -> Tensor:
    return (one.int() - other.int()).abs()


PLAIN = torch.full((1, 3, SIDE, SIDE), 77, dtype=torch.uint8)
NOISE = torch.from_numpy(np.random.default_rng(5).integers(0, 256, (4, 3, SIDE, SIDE), dtype=np.uint8))
PICTURES = torch.cat([smooth_pictures(6), NOISE, PLAIN])


@pytest.mark.parametrize("amount", [-0.9, -0.3, 0.0, 0.45, 0.99])
@pytest.mark.parametrize(
    ("name", "enhancer"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("colour", ImageEnhance.Color),
        ("contrast", ImageEnhance.Contrast),
        ("sharpness", ImageEnhance.Sharpness),
    ],
)
def test_enhancing_gives_pillows_pixels(name: str, enhancer: type[ImageEnhance._Enhance], amount: float) -> None:
    amounts = torch.full((len(PICTURES),), amount)
    factor = float(1 + amounts[0])  # in float32, which Pillow takes too
    expected = by_pillow(PICTURES, lambda picture: enhancer(picture).enhance(factor))
    assert torch.equal(OPERATIONS[name](PICTURES, amounts), expected)


@pytest.mark.parametrize(
    ("name", "amount", "pillows"),
    [
        ("identity", 0.0, lambda picture: picture),
        ("posterize", 4.0, lambda picture: ImageOps.posterize(picture, 4)),
        ("posterize", -6.0, lambda picture: ImageOps.posterize(picture, 2)),
        ("posterize", 0.0, lambda picture: picture),
        ("solarize", 100.0, lambda picture: ImageOps.solarize(picture, 156)),
        ("solarize", -256.0, ImageOps.invert),
        ("solarize", 0.0, lambda picture: picture),
        ("autocontrast", 0.0, ImageOps.autocontrast),
        ("equalize", 0.0, ImageOps.equalize),
    ],
)
def test_changing_levels_gives_pillows_pixels(
    name: str, amount: float, pillows: Callable[[Image.Image], Image.Image]
) -> None:
    changed_pictures = OPERATIONS[name](PICTURES, torch.full((len(PICTURES),), amount))
    assert torch.equal(changed_pictures, by_pillow(PICTURES, pillows))


def test_every_span_of_levels_is_stretched_as_pillow_stretches_it() -> None:
    ramp = torch.arange(256).clamp(40, 200).view(1, 1, 16, 16)
    spans = torch.cat([(ramp.clamp(40, 40 + width)).expand(1, 3, 16, 16) for width in range(160)]).to(torch.uint8)
    zeros = torch.zeros(len(spans))
    assert torch.equal(OPERATIONS["autocontrast"](spans, zeros), by_pillow(spans, ImageOps.autocontrast))
    assert torch.equal(OPERATIONS["equalize"](spans, zeros), by_pillow(spans, ImageOps.equalize))


@pytest.mark.parametrize("amount", [-0.9, -0.25, 0.0, 0.3])
@pytest.mark.parametrize(
    ("name", "matrix"),
    [
        ("shear-x", lambda amount: (1, amount, 0, 0, 1, 0)),
        ("shear-y", lambda amount: (1, 0, 0, amount, 1, 0)),
    ],
)
def test_a_shear_is_pillows_to_one_level(
    name: str, matrix: Callable[[float], tuple[float, ...]], amount: float
) -> None:
    pictures = smooth_pictures(6)
    sheared = OPERATIONS[name](pictures, torch.full((6,), amount))
    expected = by_pillow(pictures, lambda picture: picture.transform(picture.size, AFFINE, matrix(amount), BILINEAR))
    assert levels_apart(sheared, expected).max() <= 1


@pytest.mark.parametrize("degrees", [-135.0, -30.0, 0.0, 7.5, 90.0])
def test_a_rotation_is_pillows_to_one_level_but_where_rounding_decides_what_is_outside(degrees: float) -> None:
    pictures = smooth_pictures(6)
    turned = OPERATIONS["rotate"](pictures, torch.full((6,), degrees))
    expected = by_pillow(pictures, lambda picture: picture.rotate(degrees, BILINEAR))
    assert (levels_apart(turned, expected) > 1).float().mean() < 0.01


def test_a_translation_moves_whole_pixels_and_leaves_black() -> None:
    pictures = smooth_pictures(3)
    moved = OPERATIONS["translate-x"](pictures, torch.tensor([3.9, -2.9, 0.9]))
    assert torch.equal(moved[0, :, :, :-3], pictures[0, :, :, 3:])
    assert not moved[0, :, :, -3:].any()
    assert torch.equal(moved[1, :, :, 2:], pictures[1, :, :, :-2])
    assert not moved[1, :, :, :2].any()
    assert torch.equal(moved[2], pictures[2])
    down = OPERATIONS["translate-y"](pictures.mT.contiguous(), torch.tensor([3.9, -2.9, 0.9]))
    assert torch.equal(down.mT, moved)


RECIPES = [
    Augment(policy="randaugment", policy_ops=2, policy_magnitude=7.0, policy_spread=0.5),
    Augment(policy="trivialaugment"),
]


def draws_for(count: int, recipe: Augment, seed: int = 0) -> Tensor:
    return torch.rand(count, num_operations(recipe), 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.policy)
def test_a_picture_comes_out_the_same_whoever_is_in_its_batch(recipe: Augment) -> None:
    pictures = torch.cat([smooth_pictures(40), NOISE])
    draws = draws_for(len(pictures), recipe)
    together = changed(pictures, draws, recipe)
    for index in range(len(pictures)):
        alone = changed(pictures[index : index + 1], draws[index : index + 1], recipe)
        assert torch.equal(alone[0], together[index])
    backwards = changed(pictures.flip(0), draws.flip(0), recipe)
    assert torch.equal(backwards.flip(0), together)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.policy)
def test_each_operation_is_drawn_as_often_at_the_policys_strength(
    recipe: Augment, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: dict[str, list[Tensor]] = {name: [] for name in OPERATIONS}

    def noting(name: str) -> policy.Operation:
        def note(pixels: Tensor, amount: Tensor) -> Tensor:
            met[name].append(amount)
            return pixels

        return note

    for name in OPERATIONS:
        monkeypatch.setitem(OPERATIONS, name, noting(name))
    count = 14_000
    changed(torch.zeros(count, 3, 4, 4, dtype=torch.uint8), draws_for(count, recipe), recipe)
    amounts = {name: torch.cat(parts) for name, parts in met.items()}
    for drawn in amounts.values():
        expected = count * num_operations(recipe) / 14
        assert abs(len(drawn) - expected) < 5 * expected**0.5
    turned = amounts["rotate"]
    assert abs((turned > 0).float().mean() - 0.5) < 0.08
    if recipe.policy == "randaugment":
        assert turned.abs().mean() == pytest.approx(21, abs=0.2)  # 7 tenths of 30 degrees
        assert (turned.abs() / 3).std() == pytest.approx(0.5, abs=0.05)
        assert amounts["translate-x"].abs().max() <= 150 / 331 * 4
    else:
        assert len(turned.abs().unique()) == 31
        assert turned.abs().max() == 135
        assert amounts["posterize"].abs().max() == 6
        assert amounts["translate-x"].abs().max() == 32


def test_each_operation_happens_by_the_probability_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As often either way; all others are the identity."""
    met: list[Tensor] = []

    def note(pixels: Tensor, amount: Tensor) -> Tensor:
        met.append(amount)
        return pixels

    monkeypatch.setitem(OPERATIONS, "rotate", note)
    recipe = Augment(policy="randaugment", policy_ops=2, policy_magnitude=7.0, policy_probability=0.25)
    count = 28_000
    changed(torch.zeros(count, 3, 4, 4, dtype=torch.uint8), draws_for(count, recipe), recipe)
    amounts = torch.cat(met)
    expected = 0.25 * count * 2 / 14
    assert abs(len(amounts) - expected) < 5 * expected**0.5
    assert abs((amounts > 0).float().mean() - 0.5) < 0.08
    never = recipe.model_copy(update={"policy_probability": 0.0})
    assert torch.equal(changed(NOISE, draws_for(len(NOISE), never), never), NOISE)


def test_the_least_and_the_largest_draw_pick_the_first_and_the_last() -> None:
    least, largest = torch.zeros(()), torch.tensor(1 - 2**-24)
    for count in range(1, 1000):
        assert picked(least, count) == 0
        assert picked(largest, count) == count - 1


def test_no_operation_happens_without_a_policy() -> None:
    assert num_operations(Augment()) == 0
    assert num_operations(Augment(policy="randaugment", policy_ops=3)) == 3
    assert num_operations(Augment(policy="trivialaugment")) == 1
