from __future__ import annotations

import numpy as np
import pytest
import torch

from anabranch.artefact import read_card
from anabranch.errors import UsageError
from anabranch.export.eager import EagerPredictor


def test_it_answers_what_the_net_answers_to_pixels_normalised_in_numpy(packed):
    card = read_card(packed.folder)
    pixels = np.random.default_rng(3).integers(0, 256, (3, 33, 33, 3), dtype=np.uint8)
    normal = (pixels.astype(np.float32) / 255 - np.float32(card.preprocess.mean)) / np.float32(card.preprocess.std)
    with torch.no_grad():
        wanted = packed.net(torch.from_numpy(normal).permute(0, 3, 1, 2)).numpy()
    met = EagerPredictor(packed.net, card).predict(pixels)
    assert met.dtype == np.float32
    np.testing.assert_allclose(met, wanted, rtol=0, atol=1e-5)


def test_a_net_in_training_answers_as_in_evaluation_and_goes_on_training(packed):
    predictor = EagerPredictor(packed.net, read_card(packed.folder))
    pixels = np.random.default_rng(4).integers(0, 256, (4, 33, 33, 3), dtype=np.uint8)
    wanted = predictor.predict(pixels)
    packed.net.train()
    packed.net.stem.eval()  # as a frozen part is kept
    before = [part.training for part in packed.net.modules()]
    try:
        np.testing.assert_array_equal(predictor.predict(pixels), wanted)
        assert [part.training for part in packed.net.modules()] == before
    finally:
        packed.net.eval()


def test_pixels_of_another_shape_are_refused(packed):
    with pytest.raises(UsageError, match=r"\(N, 33, 33, 3\)"):
        EagerPredictor(packed.net, read_card(packed.folder)).predict(np.zeros((1, 32, 33, 3), np.uint8))
