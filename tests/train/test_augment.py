from __future__ import annotations

import torch

from anabranch.images.preprocess import Preprocess
from anabranch.train.augment import Batch, mixed
from anabranch.train.recipe import Augment

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


def test_outside_training_a_batch_is_normalised_and_nothing_else() -> None:
    to_input = Batch(Augment(crop="padded", pad_px=2, flip=1.0, erase=1.0), INPUT).eval()
    expected = (PIXELS / 255 - torch.tensor(INPUT.mean)) / torch.tensor(INPUT.std)
    torch.testing.assert_close(to_input(PIXELS), expected.permute(0, 3, 1, 2))


def test_a_certain_flip_mirrors_the_columns() -> None:
    to_input = Batch(Augment(flip=1.0), INPUT)
    torch.testing.assert_close(to_input.train()(PIXELS), to_input.eval()(PIXELS).flip(3))


def test_a_padded_crop_is_the_picture_moved_by_at_most_the_padding() -> None:
    to_input = Batch(Augment(crop="padded", pad_px=2, flip=0.0), INPUT)
    pixels = torch.full((64, 8, 8, 3), 200, dtype=torch.uint8)
    black = to_input.eval()(torch.zeros(1, 8, 8, 3, dtype=torch.uint8))[0, 0, 0, 0]
    torch.manual_seed(0)
    shown = (to_input.train()(pixels)[:, 0] != black).sum((1, 2))
    assert set(shown.tolist()) <= {high * wide for high in (6, 7, 8) for wide in (6, 7, 8)}
    assert shown.min() == 36
    assert shown.max() == 64


def test_erasing_blackens_part_of_a_picture() -> None:
    to_input = Batch(Augment(flip=0.0, erase=1.0), INPUT)
    black = to_input.eval()(torch.zeros(1, 8, 8, 3, dtype=torch.uint8))[0, 0, 0, 0]
    torch.manual_seed(0)
    erased = (to_input.train()(torch.full((32, 8, 8, 3), 200, dtype=torch.uint8))[:, 0] == black).float().mean((1, 2))
    assert erased.min() > 0
    assert erased.max() < 0.4


def test_augmentation_draws_from_torchs_generator() -> None:
    to_input = Batch(Augment(crop="padded", pad_px=2, erase=0.5), INPUT).train()
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(to_input(PIXELS))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_mixing_shares_pictures_and_labels_alike() -> None:
    torch.manual_seed(0)
    x = torch.eye(6)
    mixed_x, targets = mixed(x, torch.arange(6), 6, alpha=1.0)
    torch.testing.assert_close(mixed_x, targets)  # picture i is the one-hot of label i
    torch.testing.assert_close(targets.sum(1), torch.ones(6))
    assert ((targets > 0).sum(1) == 2).any()


def test_mixing_by_zero_changes_nothing() -> None:
    x = torch.randn(3, 4)
    mixed_x, targets = mixed(x, torch.tensor([2, 0, 1]), 3, alpha=0)
    assert mixed_x is x
    assert targets.tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
