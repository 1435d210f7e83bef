from __future__ import annotations

import math
import threading

import numpy as np
import pytest
import torch

from anabranch.errors import UsageError
from anabranch.runtimes import ENGINES, open_model, softmax


@pytest.fixture(scope="module", params=[name for name, each in ENGINES.items() if each.everyday])
def predictor(request, packed):
    return open_model(packed.folder, engine=request.param)


def answers_of_torch(net, card, pixels):
    mean, std = torch.tensor(card.preprocess.mean), torch.tensor(card.preprocess.std)
    with torch.no_grad():
        return net(((torch.from_numpy(pixels) / 255 - mean) / std).permute(0, 3, 1, 2)).numpy()


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 33, 33, 3), dtype=np.uint8)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_any_batch_gets_the_logits_of_the_net(predictor, packed, count):
    pixels = pictures(count, seed=count)
    wanted = answers_of_torch(packed.net, predictor.card, pixels)
    met = predictor.predict(pixels)
    assert (met.dtype, met.shape) == (np.float32, (count, 5))
    assert np.abs(met - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_a_later_answer_does_not_change_an_earlier_one(predictor):
    first = predictor.predict(pictures(2, seed=1))
    kept = first.copy()
    predictor.predict(pictures(2, seed=2))
    np.testing.assert_array_equal(first, kept)


def test_pixels_that_do_not_lie_in_one_piece_are_understood(predictor):
    pixels = pictures(4)
    np.testing.assert_array_equal(
        predictor.predict(pixels[::-1, :, ::-1]), predictor.predict(pixels[::-1, :, ::-1].copy())
    )


def test_pixels_that_may_not_be_written_to_are_understood(predictor):
    pixels = pictures(1)
    wanted = predictor.predict(pixels)
    pixels.flags.writeable = False
    np.testing.assert_array_equal(predictor.predict(pixels), wanted)


def test_threads_do_not_disturb_one_another(predictor):
    batches = [pictures(1 + seed % 3, seed=seed) for seed in range(12)]
    wanted = [predictor.predict(batch) for batch in batches]
    met = [None] * len(batches)

    def ask(first):
        for index in range(first, len(batches), 4):
            met[index] = predictor.predict(batches[index])

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ours, theirs in zip(met, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, 33, 33, 3), np.float32),
        np.zeros((33, 33, 3), np.uint8),
        np.zeros((1, 3, 33, 33), np.uint8),
        np.zeros((1, 32, 32, 3), np.uint8),
        np.zeros((0, 33, 33, 3), np.uint8),
        [[0]],
    ],
    ids=["float", "no batch", "channels first", "another size", "empty", "a list"],
)
def test_other_pixels_are_refused_with_what_was_met(predictor, pixels):
    with pytest.raises(UsageError, match=r"takes pixels as uint8 \(N, 33, 33, 3\) with N at least 1; it met"):
        predictor.predict(pixels)


def test_one_thread_answers_as_many_do(predictor, packed):
    engine = next(name for name, entry in ENGINES.items() if type(predictor).__name__ in entry.predictor)
    met = open_model(packed.folder, engine=engine, threads=1).predict(pictures(3))
    np.testing.assert_allclose(met, predictor.predict(pictures(3)), rtol=0, atol=1e-5)


def test_probabilities_are_those_that_the_definition_gives():
    met = softmax(np.array([[0.0, math.log(3)], [1.0, 1.0]], np.float32))
    assert met.dtype == np.float32
    np.testing.assert_allclose(met, [[0.25, 0.75], [0.5, 0.5]], rtol=1e-6)


def test_huge_logits_neither_overflow_nor_vanish():
    np.testing.assert_array_equal(softmax(np.array([3e38, -3e38, 3e38], np.float32)), [0.5, 0, 0.5])
