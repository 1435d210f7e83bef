"""What is done to a batch on the device: crop, flip, erase, normalise, mix."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anabranch.errors import need
from anabranch.images.preprocess import Preprocess
from anabranch.train.recipe import Augment


class Batch(nn.Module):
    """(n, S, S, 3) uint8 -> (n, 3, S, S) float32, augmented while training, then normalised."""

    mean: Tensor
    std: Tensor

    def __init__(self, recipe: Augment, preprocess: Preprocess):
        super().__init__()
        kornia = need("kornia.augmentation", extra="train")
        side = (preprocess.crop_px, preprocess.crop_px)
        steps: list[nn.Module] = []
        if recipe.pad_px:
            steps.append(kornia.RandomCrop(side, padding=recipe.pad_px))
        if recipe.flip:
            steps.append(kornia.RandomHorizontalFlip(recipe.flip))
        if recipe.erase:
            steps.append(kornia.RandomErasing(p=recipe.erase, scale=(0.02, 0.2)))
        self.augment = nn.Sequential(*steps)
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocess.std).view(3, 1, 1))

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels.permute(0, 3, 1, 2).float() / 255  # (n, S, S, 3) -> (n, 3, S, S)
        if self.training:
            x = self.augment(x)
        return (x - self.mean) / self.std


def mixed(x: Tensor, labels: Tensor, num_classes: int, alpha: float) -> tuple[Tensor, Tensor]:
    """Each picture with a share of another, and the two labels' shares: (n, num_classes) float32.

    One share a batch, from Beta(alpha, alpha); alpha 0 mixes nothing. Source: Zhang et al. 2018, eq. 1.
    """
    targets = F.one_hot(labels, num_classes).float()
    if alpha == 0:
        return x, targets
    share = torch.distributions.Beta(alpha, alpha).sample().item()
    other = torch.randperm(len(x)).to(x.device)
    return share * x + (1 - share) * x[other], share * targets + (1 - share) * targets[other]
