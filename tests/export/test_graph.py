from __future__ import annotations

import numpy as np
import torch

from anabranch.export.graph import PixelsToLogits
from anabranch.images.preprocess import Preprocess

PREPROCESS = Preprocess(crop_px=4, resize_px=4, mean=(0.5, 0.25, 0.125), std=(0.5, 0.25, 0.875))


def test_pixels_are_normalised_channel_by_channel_as_numpy_does():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    met = PixelsToLogits(torch.nn.Identity(), PREPROCESS)(torch.from_numpy(pixels)).numpy()
    wanted = (pixels / np.float64(255) - [0.5, 0.25, 0.125]) / [0.5, 0.25, 0.875]
    assert met.dtype == np.float32
    np.testing.assert_allclose(met, wanted.transpose(0, 3, 1, 2), rtol=0, atol=1e-6)


def test_white_is_as_many_stds_above_the_mean_as_worked_out_by_hand():
    pixels = torch.tensor([255, 255, 255], dtype=torch.uint8).expand(1, 4, 4, 3)
    met = PixelsToLogits(torch.nn.Identity(), PREPROCESS)(pixels)[0, :, 0, 0]
    assert met.tolist() == [1.0, 3.0, 1.0]
