from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anabranch.errors import DatasetError, ImageError, UsageError
from anabranch.images import duplicates
from anabranch.images.duplicates import Group, Pair, alike_groups, close_pairs, find_duplicates
from anabranch.images.labelled import LabelledArray, open_labelled, open_pictures

pytest.importorskip("imagehash")


def put(path: Path, picture: Image.Image, **settings: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **settings)
    return path


def photo(seed: int, side_px: int = 96) -> Image.Image:
    """Blotches as large as what a photo shows: noise would not survive a JPEG."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side_px, side_px), Image.Resampling.BICUBIC)


@pytest.fixture
def leak(tmp_path: Path) -> Path:
    """train and val of two classes: one picture is in both, one again as a small JPEG, and one twice within train."""
    for number in range(6):
        put(tmp_path / "train" / ("ant" if number < 3 else "bee") / f"{number}.png", photo(number))
    put(tmp_path / "train" / "bee" / "again.bmp", photo(4))
    for number in (10, 11):
        put(tmp_path / "val" / "ant" / f"{number}.png", photo(number))
    put(tmp_path / "val" / "bee" / "copy.png", photo(1))
    put(tmp_path / "val" / "bee" / "small.jpg", photo(5).resize((64, 64)), quality=70)
    return tmp_path


# ---- Codes ---------------------------------------------------------------------------------------------------------


def near(rng: np.random.Generator, count: int) -> np.ndarray:
    """Different codes, most of them a few bits from another."""
    codes = rng.integers(0, 1 << 63, count // 4, dtype=np.uint64)
    flips = np.uint64(1) << rng.integers(0, 64, (3, 3, len(codes)), dtype=np.uint64)
    near_by = codes ^ np.concatenate([np.bitwise_or.reduce(flips, axis=1), flips[0]])
    return np.unique(np.concatenate([codes, near_by.ravel()]))


@pytest.mark.parametrize("radius", range(9))
def test_every_close_pair_is_found_once(radius):
    codes = near(np.random.default_rng(radius), 300)
    pairs, distances = close_pairs(codes, radius)
    wanted = {
        (a, b): bits
        for a, b in itertools.combinations(range(len(codes)), 2)
        if (bits := (int(codes[a]) ^ int(codes[b])).bit_count()) <= radius
    }
    assert len(pairs) == len(wanted)
    assert {tuple(pair): bits for pair, bits in zip(pairs.tolist(), distances.tolist(), strict=True)} == wanted
    assert (radius > 0) == bool(wanted)


def test_no_codes_and_one_code_have_no_pairs():
    for codes in ([], [7]):
        pairs, distances = close_pairs(np.array(codes, np.uint64), 4)
        assert (pairs.shape, distances.shape) == ((0, 2), (0,))


def test_more_pairs_than_a_person_can_use_are_refused(monkeypatch):
    monkeypatch.setattr(duplicates, "MOST_PAIRS", 10)
    with pytest.raises(DatasetError, match="more than 10 pairs .* ask for a smaller radius"):
        close_pairs(np.arange(64, dtype=np.uint64), 6)


@pytest.mark.parametrize("radius", [-1, 9])
def test_a_radius_beyond_reason_is_refused_before_anything_is_decoded(radius, tmp_path):
    put(tmp_path / "a" / "b.png", photo(0)).write_bytes(b"")
    with pytest.raises(UsageError, match=f"radius {radius} does not fit: from 0 to 8"):
        find_duplicates(open_labelled(tmp_path), radius=radius)


# ---- Pictures ------------------------------------------------------------------------------------------------------


def test_a_leak_between_two_sets_is_found_and_what_is_within_each_is_left(leak):
    found = find_duplicates(open_labelled(leak, split="train"), open_labelled(leak, split="val"))
    assert found.groups == (Group("same", ("ant/1.png",), ("bee/copy.png",), labels_differ=True),)
    (pair,) = found.pairs
    assert (pair.first, pair.second, pair.labels_differ) == ("bee/5.png", "bee/small.jpg", False)
    assert 0 < pair.distance <= 4
    assert (found.num_pictures, found.num_other, found.num_met, found.unreadable) == (7, 4, 2, ())


def test_pictures_of_several_labels_each_are_compared_by_the_names_of_all(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        put(tmp_path / name, photo("abc".index(name[0])))
    (tmp_path / "one.csv").write_text("path,label\na.png,dog;ball\nb.png,ball\nc.png,\n")
    (tmp_path / "other.csv").write_text("path,label\na.png,ball;dog\nb.png,cat\n")
    found = find_duplicates(open_pictures(tmp_path / "one.csv"), open_pictures(tmp_path / "other.csv"))
    differing = {group.first: group.labels_differ for group in found.groups}
    assert differing == {("a.png",): False, ("b.png",): True}


def test_equal_pixels_within_a_set_are_found_whatever_their_format(leak):
    found = find_duplicates(open_labelled(leak, split="train"), radius=None)
    assert found.groups == (Group("same", ("bee/4.png", "bee/again.bmp"), (), labels_differ=False),)
    assert (found.pairs, found.num_met, found.num_other) == ((), 2, None)


def test_pictures_of_other_sizes_and_formats_are_alike(tmp_path):
    put(tmp_path / "a" / "0.png", photo(3, 200))
    put(tmp_path / "a" / "1.jpg", photo(3, 200).resize((120, 120)), quality=60)
    put(tmp_path / "a" / "2.webp", photo(3, 200).resize((90, 110)), quality=60)
    put(tmp_path / "a" / "other.png", photo(4, 200))
    found = find_duplicates(open_labelled(tmp_path), radius=8)
    met = {name for group in found.groups for name in group.first} | {n for p in found.pairs for n in p[:2]}
    assert met == {"a/0.png", "a/1.jpg", "a/2.webp"}
    assert found.num_met == 3


def test_the_hash_is_imagehashs_own(tmp_path):
    imagehash = pytest.importorskip("imagehash")
    pictures = [photo(seed, 64) for seed in range(40)]
    rng = np.random.default_rng(0)
    for number, picture in enumerate(pictures):
        noisy = np.asarray(picture) + rng.normal(0, 12, (64, 64, 3))
        pictures.append(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)))
        put(tmp_path / "a" / f"{number:03d}.png", picture)
        put(tmp_path / "a" / f"{number + 40:03d}.png", pictures[-1])
        if len(pictures) == 80:
            break
    hashes = [imagehash.phash(picture) for picture in pictures]
    wanted = {
        (f"a/{a:03d}.png", f"a/{b:03d}.png"): int(hashes[a] - hashes[b])
        for a, b in itertools.combinations(range(80), 2)
        if 0 < hashes[a] - hashes[b] <= 4
    }
    pairs = find_duplicates(open_labelled(tmp_path)).pairs
    assert {(pair.first, pair.second): pair.distance for pair in pairs} == wanted
    assert wanted


def test_blank_pictures_are_one_group_and_no_pairs():
    pixels = np.full((300, 8, 8), 128, np.uint8)
    data = LabelledArray([str(index) for index in range(300)], pixels, np.arange(300) % 2)
    found = find_duplicates(data)
    assert found.groups == (Group("same", tuple(data.names), (), labels_differ=True),)
    assert found.pairs == ()
    assert found.num_met == 300


def test_blank_pictures_of_any_grey_are_one_group_and_no_pairs():
    pixels = np.repeat(np.arange(1, 201, dtype=np.uint8), 64).reshape(200, 8, 8)
    data = LabelledArray([str(index) for index in range(200)], pixels, np.zeros(200, np.int64))
    found = find_duplicates(data, radius=8)
    assert found.groups == (Group("alike", tuple(data.names), (), labels_differ=False),)
    assert (found.pairs, found.num_met) == ((), 200)


def test_of_equal_pictures_one_stands_for_all_among_those_of_the_same_hash(tmp_path):
    picture = photo(7, 64)
    touched = np.asarray(picture).copy()
    touched[0, 0] ^= 1
    for name in ("0", "1"):
        put(tmp_path / "a" / f"{name}.png", picture)
    put(tmp_path / "b" / "2.png", Image.fromarray(touched))
    assert find_duplicates(open_labelled(tmp_path), radius=0).groups == (
        Group("same", ("a/0.png", "a/1.png"), (), labels_differ=False),
        Group("alike", ("a/0.png", "b/2.png"), (), labels_differ=True),
    )


def test_labels_are_compared_by_name_where_both_sets_name_their_classes(tmp_path):
    for folder, names in (("one", ("ant", "bee")), ("two", ("bee", "cat"))):
        for number, name in enumerate(names):
            put(tmp_path / folder / name / "x.png", photo(10 + number if folder == "one" else 11 + number))
    found = find_duplicates(open_labelled(tmp_path / "one"), open_labelled(tmp_path / "two"), radius=None)
    assert found.groups == (Group("same", ("bee/x.png",), ("bee/x.png",), labels_differ=False),)


def test_unreadable_pictures_are_listed_and_the_rest_is_compared(leak):
    (leak / "val" / "ant" / "10.png").write_bytes(b"")
    found = find_duplicates(open_labelled(leak, split="train"), open_labelled(leak, split="val"))
    assert [name for name, _ in found.unreadable] == ["ant/10.png"]
    assert "the file is empty" in found.unreadable[0][1]
    assert (found.num_other, found.num_met) == (3, 2)


def test_a_set_of_which_nothing_can_be_read_matches_nothing(leak):
    for path in (leak / "val").rglob("*.*"):
        path.write_bytes(b"")
    found = find_duplicates(open_labelled(leak, split="train"), open_labelled(leak, split="val"))
    assert (found.groups, found.pairs, found.num_met, len(found.unreadable)) == ((), (), 0, 4)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_answer_does_not_depend_on_the_threads_and_every_picture_is_reported(leak, workers):
    done = []
    sets = [open_labelled(leak, split=split) for split in ("train", "val")]
    found = find_duplicates(*sets, workers=workers, report=lambda: done.append(1))
    assert found == find_duplicates(*sets)
    assert len(done) == 11


# ---- Groups --------------------------------------------------------------------------------------------------------


def test_what_is_linked_over_others_is_one_group(monkeypatch):
    # codes in a row, each one bit from the next: the first and the last are three bits apart
    codes = iter([0b0000, 0b0111, 0b0011, 0b0001, 3 << 40, 0b0000])
    monkeypatch.setattr(
        duplicates, "_fingerprint", lambda data, index, perceptual: (bytes([index % 5]) * 16, next(codes))
    )
    data = LabelledArray(list("abcdef"), np.zeros((6, 2, 2), np.uint8), np.zeros(6, np.int64))
    groups = alike_groups(data, radius=1, workers=1).tolist()
    assert groups[0] == groups[1] == groups[2] == groups[3] == groups[5] != groups[4]


def test_pictures_without_a_likeness_are_groups_of_one(leak):
    groups = alike_groups(open_labelled(leak, split="train")).tolist()
    names = open_labelled(leak, split="train").names
    again = {names.index("bee/4.png"), names.index("bee/again.bmp")}
    assert len(set(groups)) == 6
    assert {at for at, group in enumerate(groups) if groups.count(group) > 1} == again


def test_groups_want_every_picture_to_be_readable(leak):
    (leak / "val" / "ant" / "10.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"10\.png: the file is empty"):
        alike_groups(open_labelled(leak, split="val"))


def test_a_pair_of_one_set_names_the_earlier_first(tmp_path):
    buffer = io.BytesIO()
    photo(5).resize((64, 64)).save(buffer, "JPEG", quality=70)
    put(tmp_path / "a" / "0.png", Image.open(buffer))
    put(tmp_path / "a" / "1.png", photo(5))
    (pair,) = find_duplicates(open_labelled(tmp_path), radius=8).pairs
    assert pair == Pair("a/0.png", "a/1.png", pair.distance, labels_differ=False)
