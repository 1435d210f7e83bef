from __future__ import annotations

import pytest
import torch
from torch import Tensor

from anabranch.images.preprocess import Preprocess
from anabranch.train.augment import Batch, erased, mixed, num_draws, padded_crop
from anabranch.train.tables import Augment

INPUT = Preprocess(
    crop_px=8,
    resize_px=8,
    fit="shorter-side",
    resampler="pillow-bilinear",
    rounding="torchvision",
    mean=(0.1, 0.2, 0.3),
    std=(0.5, 0.25, 0.125),
)
PIXELS = torch.arange(2 * 8 * 8 * 3, dtype=torch.uint8).view(2, 8, 8, 3)
EVERYTHING = Augment(crop="padded", pad_px=2, flip=0.5, erase=0.5, policy="randaugment", policy_ops=2)


def draws_for(count: int, recipe: Augment, seed: int = 0) -> Tensor:
    return torch.rand(count, num_draws(recipe), generator=torch.Generator().manual_seed(seed))


def noise(count: int, side: int = 16) -> Tensor:
    return torch.randint(0, 256, (count, side, side, 3), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def test_outside_training_a_batch_is_normalised_and_nothing_else() -> None:
    to_input = Batch(Augment(crop="padded", pad_px=2, flip=1.0, erase=1.0), INPUT).eval()
    expected = (PIXELS / 255 - torch.tensor(INPUT.mean)) / torch.tensor(INPUT.std)
    torch.testing.assert_close(to_input(PIXELS), expected.permute(0, 3, 1, 2))


def test_a_certain_flip_mirrors_the_columns() -> None:
    recipe = Augment(flip=1.0)
    to_input = Batch(recipe, INPUT)
    flipped = to_input.train()(PIXELS, draws_for(2, recipe))
    assert torch.equal(flipped, to_input.eval()(PIXELS).flip(3))


def test_pictures_are_flipped_as_often_as_asked() -> None:
    recipe = Augment(flip=0.3)
    pixels = PIXELS[:1].expand(4000, -1, -1, -1)
    shown = Batch(recipe, INPUT).train()(pixels, draws_for(4000, recipe))
    flipped = (shown == Batch(recipe, INPUT).eval()(PIXELS[:1]).flip(3)).flatten(1).all(1)
    assert flipped.float().mean().item() == pytest.approx(0.3, abs=0.04)  # five standard deviations


def test_a_padded_crop_is_a_window_of_the_padded_picture_and_every_window_comes() -> None:
    count, pad = 3000, 2
    pixels = PIXELS[:1].expand(count, -1, -1, -1)
    draws = torch.rand(count, 2, generator=torch.Generator().manual_seed(0))
    cropped = padded_crop(pixels, draws, pad)
    padded = torch.zeros(12, 12, 3, dtype=torch.uint8)
    padded[2:10, 2:10] = PIXELS[0]
    windows = {
        padded[top : top + 8, left : left + 8].numpy().tobytes(): (top, left) for top in range(5) for left in range(5)
    }
    met = [windows[picture.numpy().tobytes()] for picture in cropped]
    assert len(set(met)) == 25
    assert met[:50] == [(int(5 * row), int(5 * column)) for row, column in draws[:50].tolist()]


@pytest.mark.parametrize("side", [8, 64])
def test_erasing_takes_a_box_of_the_area_and_aspect_asked_for(side: int) -> None:
    hidden = erased(torch.rand(2000, 4, generator=torch.Generator().manual_seed(0)), side)
    high, wide = hidden.any(2).sum(1), hidden.any(1).sum(1)
    assert torch.equal(hidden.flatten(1).sum(1), high * wide), "it is a box"
    if side == 64:  # the sides are rounded to whole pixels
        area = high * wide / side**2
        assert area.min() > 0.018
        assert area.max() < 0.345
        assert area.mean().item() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.01)
        assert (high / wide).min() > 0.27
        assert (high / wide).max() < 3.6
        assert (high > wide).float().mean().item() == pytest.approx(0.5, abs=0.06)
    assert hidden[:, 0].any()
    assert hidden[:, -1].any()


def test_what_is_erased_shows_the_mean_colour_as_often_as_asked() -> None:
    recipe = Augment(flip=0.0, erase=0.25)
    pixels = torch.full((2000, 8, 8, 3), 200, dtype=torch.uint8)
    shown = Batch(recipe, INPUT).train()(pixels, draws_for(2000, recipe))
    whole = Batch(recipe, INPUT).eval()(pixels[:1])
    touched = (shown != whole).flatten(1).any(1)
    assert touched.float().mean().item() == pytest.approx(0.25, abs=0.05)
    assert set(shown[touched].unique().tolist()) == {0.0, *whole.unique().tolist()}


def test_a_picture_is_augmented_by_its_draws_alone() -> None:
    pixels, draws = noise(24), draws_for(24, EVERYTHING)
    to_input = Batch(EVERYTHING, INPUT).train()
    torch.manual_seed(0)
    together = to_input(pixels, draws)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    assert torch.equal(state, torch.get_rng_state()), "torch's generator was used"
    for share in (slice(0, 24, 2), slice(1, 24, 2), slice(7, 8)):
        assert torch.equal(to_input(pixels[share], draws[share]), together[share])
    assert not torch.equal(to_input(pixels, draws_for(24, EVERYTHING, seed=1)), together)


def test_a_batch_of_no_pictures_stays_one() -> None:
    to_input = Batch(EVERYTHING, INPUT).train()
    assert to_input(noise(0), draws_for(0, EVERYTHING)).shape == (0, 3, 16, 16)


def test_mixup_shares_pictures_and_targets_alike() -> None:
    torch.manual_seed(0)
    x = torch.eye(6).view(6, 6, 1, 1).expand(6, 6, 4, 4)
    mixed_x, targets = mixed(x, torch.eye(6), Augment(mixup=1.0))
    torch.testing.assert_close(mixed_x[:, :, 0, 0], targets)  # picture i is the one-hot of label i
    torch.testing.assert_close(targets.sum(1), torch.ones(6))
    assert ((targets > 0).sum(1) == 2).any()


def test_cutmix_takes_a_box_of_another_and_as_much_of_its_target() -> None:
    x = torch.eye(6).view(6, 6, 1, 1).expand(6, 6, 8, 8)
    met = set()
    for seed in range(40):
        torch.manual_seed(seed)
        mixed_x, targets = mixed(x, torch.eye(6), Augment(cutmix=1.0))
        assert set(mixed_x.unique().tolist()) == {0.0, 1.0}, "no pixel is a blend"
        torch.testing.assert_close(mixed_x.mean((2, 3)), targets)
        foreign = mixed_x[0].argmax(0) != 0  # (8, 8)
        assert torch.equal(foreign, foreign.any(1, keepdim=True) & foreign.any(0, keepdim=True)), "it is a box"
        met.add(int(foreign.sum()))
    assert len(met) > 10


def test_with_mixup_and_cutmix_a_batch_gets_one_of_the_two_as_often_as_the_other() -> None:
    x = torch.eye(8).view(8, 8, 1, 1).expand(8, 8, 8, 8)
    blended = 0
    for seed in range(200):
        torch.manual_seed(seed)
        mixed_x, _ = mixed(x, torch.eye(8), Augment(mixup=1.0, cutmix=1.0))
        blended += ((mixed_x > 0) & (mixed_x < 1)).any().item()
    assert 65 < blended < 135  # five standard deviations


def test_several_labels_a_picture_are_mixed_too() -> None:
    torch.manual_seed(3)
    targets = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    _, shares = mixed(torch.rand(2, 3, 4, 4), targets, Augment(mixup=1.0))
    torch.testing.assert_close(shares[:, 1], torch.ones(2))
    torch.testing.assert_close(shares[:, 0] + shares[:, 2], torch.ones(2))


def test_mixing_by_zero_changes_nothing() -> None:
    x, targets = torch.randn(3, 3, 4, 4), torch.eye(3)
    mixed_x, mixed_targets = mixed(x, targets, Augment())
    assert mixed_x is x
    assert mixed_targets is targets
