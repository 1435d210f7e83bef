from __future__ import annotations

import io
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from anabranch.errors import ImageError, UsageError
from anabranch.runtimes import open_model
from anabranch.runtimes.pipeline import Picture, answer, classify

LABELS = ("dark", "mid", "bright")


class Brightness:
    """Logits by hand for pictures of one pixel; keeps the sizes of the batches that it was asked."""

    card = SimpleNamespace(labels=LABELS, multi_label=False, preprocess=lambda picture: picture[:1, :1])

    def __init__(self, streams=1):
        self.batches = []
        self.streams = streams

    def predict(self, pixels):
        self.batches.append(len(pixels))
        level = pixels[:, 0, 0, 0].astype(np.float32)
        return np.stack([-level, np.full_like(level, -100), level - 200], 1)


def grey(level, name=None):
    return Picture(name or f"grey {level}", lambda: np.full((1, 1, 3), level, np.uint8))


def broken(name):
    def read():
        raise ImageError(f"{name} is broken")

    return Picture(name, read)


def test_logits_that_are_not_finite_are_told_and_the_others_are_answered():
    class Overflowing(Brightness):
        card = SimpleNamespace(**vars(Brightness.card), weights=SimpleNamespace(name="tiny"))

        def predict(self, pixels):
            logits = super().predict(pixels)
            logits[logits[:, 0] == -7, 1] = np.nan
            logits[logits[:, 0] == -8, 2] = np.inf
            return logits

    met = list(answer(Overflowing(), [grey(0), grey(7), grey(8), grey(255)]))
    assert [one.guesses[0].label if one.guesses else None for one in met] == ["dark", None, None, "bright"]
    told = "tiny answers with logits that are not finite; export it again"
    assert [one.error for one in met] == [None, f"grey 7: {told}", f"grey 8: {told}", None]


def test_to_give_up_waits_for_no_picture():
    """It may happen as garbage is collected, in the midst of anything."""
    go_on, read = threading.Event(), []

    def stuck():
        go_on.wait(timeout=60)
        read.append("stuck")
        return np.zeros((1, 1, 3), np.uint8)

    met = answer(Brightness(), [grey(0), Picture("stuck", stuck), *map(grey, range(50))], workers=2)
    next(met)
    met.close()
    assert read == []
    go_on.set()


def test_answers_come_in_the_order_of_the_pictures():
    late = threading.Event()

    def slow():
        late.wait(timeout=10)
        return np.zeros((1, 1, 3), np.uint8)

    def last():
        late.set()
        return np.full((1, 1, 3), 255, np.uint8)

    met = list(answer(Brightness(), [Picture("slow", slow), Picture("fast", last)], workers=2))
    assert [(one.name, one.guesses[0].label) for one in met] == [("slow", "dark"), ("fast", "bright")]


def test_a_bad_picture_says_why_and_the_others_are_answered():
    met = list(answer(Brightness(), [grey(0), broken("b.jpg"), grey(255)]))
    assert [one.error for one in met] == [None, "b.jpg is broken", None]
    assert [one.guesses[0].label for one in met if one.guesses] == ["dark", "bright"]
    assert (met[1].logits, met[1].guesses) == (None, ())


def test_pictures_that_are_all_bad_ask_the_predictor_nothing():
    predictor = Brightness()
    assert all(one.error for one in answer(predictor, [broken(str(i)) for i in range(20)]))
    assert predictor.batches == []


def test_a_mistake_of_ours_is_not_taken_for_a_bad_picture():
    def read():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(answer(Brightness(), [Picture("one", read)]))


def test_one_picture_is_a_batch_of_one():
    predictor = Brightness()
    list(answer(predictor, [grey(3)], batch=8))
    assert predictor.batches == [1]


def test_batches_are_powers_of_two_up_to_the_limit():
    predictor = Brightness()
    assert len(list(answer(predictor, [grey(i % 256) for i in range(301)], batch=6))) == 301
    assert set(predictor.batches) <= {1, 2, 4}
    assert sum(predictor.batches) == 301


def test_the_first_answer_does_not_wait_for_the_second_picture():
    late = threading.Event()

    def held():
        assert late.wait(timeout=10), "the first answer never came"
        return np.zeros((1, 1, 3), np.uint8)

    answers = answer(Brightness(), [grey(1), Picture("held", held)], workers=2)
    assert next(answers).name == "grey 1"
    late.set()
    assert next(answers).name == "held"


@pytest.mark.parametrize("streams", [1, 3])
def test_no_more_pictures_are_taken_than_the_window_holds(streams):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield grey(1)

    answers = answer(Brightness(streams), endless(), batch=4, workers=2)
    for _ in range(50):
        next(answers)
    answers.close()
    assert len(taken) <= 50 + (streams + 3) * 4 + 2


def test_no_thread_is_left_behind_by_a_reader_who_stops():
    others = set(threading.enumerate())
    answers = answer(Brightness(), [grey(i) for i in range(100)], workers=3)
    next(answers)
    started = set(threading.enumerate()) - others
    answers.close()
    assert started
    for thread in started:
        thread.join(timeout=60)
        assert not thread.is_alive()


def test_all_streams_are_asked_at_once_and_the_order_stays():
    together = threading.Barrier(3, timeout=10)

    class Three(Brightness):
        def predict(self, pixels):
            together.wait()
            return super().predict(pixels)

    names = [f"grey {level}" for level in range(24)]
    answers = answer(Three(streams=3), [grey(level) for level in range(24)], batch=1)
    assert [one.name for one in answers] == names


def test_an_answer_that_is_ready_does_not_wait_for_another_stream_s_pictures():
    late = threading.Event()

    def held():
        assert late.wait(timeout=10), "the first answer never came"
        return np.zeros((1, 1, 3), np.uint8)

    answers = answer(Brightness(streams=3), [grey(1), Picture("held", held)], workers=2)
    assert next(answers).name == "grey 1"
    late.set()
    assert next(answers).name == "held"


def test_a_mistake_within_the_engine_reaches_the_caller():
    class Failing(Brightness):
        def predict(self, pixels):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(answer(Failing(streams=2), [grey(1)]))


def test_no_pictures_give_no_answers():
    assert list(answer(Brightness(), [])) == []


def test_guesses_are_the_best_ones_best_first():
    one = next(answer(Brightness(), [grey(100)], top=2))
    assert [guess.label for guess in one.guesses] == ["dark", "mid"]
    assert [guess.class_index for guess in one.guesses] == [0, 1]
    assert [guess.probability for guess in one.guesses] == pytest.approx([1 / 3, 1 / 3])


def test_where_a_picture_may_show_several_classes_each_has_a_probability_of_its_own():
    class Several(Brightness):
        card = SimpleNamespace(**{**vars(Brightness.card), "multi_label": True})

        def predict(self, pixels):
            return np.log(np.array([[1, 3, 1 / 3]], np.float32))  # odds

    one = next(answer(Several(), [grey(100)], top=3))
    assert [guess.label for guess in one.guesses] == ["mid", "dark", "bright"]
    assert [guess.probability for guess in one.guesses] == pytest.approx([3 / 4, 1 / 2, 1 / 4])


def test_more_guesses_than_classes_are_all_classes():
    assert len(next(answer(Brightness(), [grey(9)], top=50)).guesses) == 3


@pytest.mark.parametrize("wrong", [{"top": 0}, {"batch": 0}, {"workers": -1}])
def test_numbers_below_one_are_refused_at_once(wrong):
    with pytest.raises(UsageError, match="at least 1"):
        answer(Brightness(), [], **wrong)


def test_files_and_bytes_are_answered_as_the_predictor_answers_their_pixels(packed, tmp_path):
    predictor = open_model(packed.folder)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 60, 50, 3), dtype=np.uint8)
    held = []
    for index, picture in enumerate(pixels):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        held.append(file.getvalue())
        (tmp_path / f"{index}.png").write_bytes(file.getvalue())
    (tmp_path / "bad.png").write_bytes(b"no picture")
    sources = [tmp_path / "0.png", ("second", held[1]), tmp_path / "bad.png", tmp_path / "2.png", ("empty", b"")]
    met = list(classify(predictor, sources, top=1))
    assert [one.name for one in met] == [
        str(tmp_path / "0.png"), "second", str(tmp_path / "bad.png"), str(tmp_path / "2.png"), "empty"]  # fmt: skip
    wanted = predictor.predict(np.stack([predictor.card.preprocess(picture) for picture in pixels]))
    answered = [one for one in met if one.error is None]
    np.testing.assert_allclose(np.stack([one.logits for one in answered]), wanted, rtol=0, atol=1e-5)
    assert [one.guesses[0].class_index for one in answered] == wanted.argmax(1).tolist()
    assert ["bad.png" in met[2].error, "empty" in met[4].error] == [True, True]


def test_a_path_may_be_text_and_what_is_no_picture_is_refused(packed, tmp_path):
    Image.new("RGB", (40, 40), (9, 8, 7)).save(tmp_path / "a.png")
    predictor = open_model(packed.folder)
    by_text, by_path = (next(classify(predictor, [source])) for source in (str(tmp_path / "a.png"), tmp_path / "a.png"))
    assert by_text.name == by_path.name
    np.testing.assert_array_equal(by_text.logits, by_path.logits)
    for wrong in (3, b"bytes", ("name",), Image.new("RGB", (4, 4))):
        with pytest.raises(UsageError, match="a picture is a path, or a name and the bytes of a file; this is a"):
            list(classify(predictor, [wrong]))
