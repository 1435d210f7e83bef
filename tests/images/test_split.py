from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anabranch.errors import DatasetError, UsageError
from anabranch.images.labelled import LabelledArray, LabelledFiles, open_labelled
from anabranch.images.split import parts, split


def named(names: list[str], labels: list[int], classes: tuple[str, ...] | None = None) -> LabelledFiles:
    return LabelledFiles("nowhere", names, np.array(labels, np.int64), classes)


def many(count: int, num_classes: int = 2) -> LabelledFiles:
    return named([f"{index:05d}.jpg" for index in range(count)], [index % num_classes for index in range(count)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for at in range(20):
        path = tmp_path / "data set" / ("ant" if at % 2 else "bée") / f"{at} ä.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2), at).save(path)
    return tmp_path / "data set"


# ---- Lists ---------------------------------------------------------------------------------------------------------


def test_the_lists_hold_every_picture_once_and_are_read_as_labelled_sets(folder, tmp_path):
    data = open_labelled(folder)
    lists = split(data, tmp_path / "out" / "deep", shares={"train": 0.7, "val": 0.2, "test": 0.1})
    assert list(lists) == ["train", "val", "test"]
    seen = {}
    for path in lists.values():
        part = open_labelled(path)
        assert part.class_names == ("ant", "bée")
        seen |= {int(part.picture(index)[0, 0, 0]): int(part.labels[index]) for index in range(len(part))}
    assert seen == {at: 1 - at % 2 for at in range(20)}
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in lists.values()) == 20


def test_lists_are_made_of_a_list_and_through_links(folder, tmp_path):
    (folder / "list.txt").write_text("".join(f"ant/{at} ä.png {at % 4 // 2}\n" for at in range(1, 20, 2)))
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    lists = split(open_labelled(folder / "list.txt"), tmp_path / "link" / "out", shares={"a": 0.5, "b": 0.5})
    assert sum(len(open_labelled(path)) for path in lists.values()) == 10
    assert open_labelled(lists["a"]).picture(0).shape == (2, 2, 3)
    assert not (tmp_path / "link" / "out" / "classes.json").exists()


def test_a_link_to_an_empty_folder_is_filled_and_stays_a_link(folder, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    split(open_labelled(folder), tmp_path / "link", shares={"train": 0.8, "val": 0.2})
    assert (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in (tmp_path / "real").iterdir()) == ["classes.json", "train.txt", "val.txt"]


def test_a_part_is_a_split_of_the_lists_folder(folder, tmp_path):
    lists = split(open_labelled(folder), tmp_path / "lists", shares={"train": 0.8, "val": 0.2})
    met, wanted = open_labelled(tmp_path / "lists", split="val"), open_labelled(lists["val"])
    assert (list(met.names), met.class_names) == (list(wanted.names), wanted.class_names)
    assert np.array_equal(met.picture(0), wanted.picture(0))
    with pytest.raises(DatasetError, match="holds no split 'test'"):
        open_labelled(tmp_path / "lists", split="test")


def test_class_names_stand_beside_the_lists(folder, tmp_path):
    split(open_labelled(folder), tmp_path / "out", shares={"train": 0.5, "val": 0.5})
    assert json.loads((tmp_path / "out" / "classes.json").read_text(encoding="utf-8")) == ["ant", "bée"]


def test_a_place_that_holds_something_is_not_written_to(folder, tmp_path):
    with pytest.raises(DatasetError, match="is there already"):
        split(open_labelled(folder), folder, shares={"train": 0.5, "val": 0.5})


def test_a_name_that_no_line_can_hold_is_named_and_nothing_is_left(tmp_path):
    for name, said in (("a\nb.png", r"'a\\nb\.png'"), ("\udce4.png", r"'\\udce4\.png'"), ("a.png ", r"'a\.png '")):
        with pytest.raises(DatasetError, match=f"{said}: this name cannot stand in a list"):
            split(named([name, "c.png"], [0, 0]), tmp_path / "out", shares={"train": 0.5, "val": 0.5})
        assert list(tmp_path.iterdir()) == []


def test_pictures_without_files_of_their_own_are_refused(tmp_path):
    data = LabelledArray(["a", "b"], np.zeros((2, 2, 2), np.uint8), np.zeros(2, np.int64))
    with pytest.raises(DatasetError, match="these pictures lie in none of their own"):
        split(data, tmp_path / "out", shares={"train": 0.5, "val": 0.5})
    several = LabelledFiles(".", ["a", "b"], np.full(2, -1), None, np.ones((2, 3), np.uint8))
    with pytest.raises(DatasetError, match="pictures of several labels each are not parted"):
        split(several, tmp_path / "out", shares={"train": 0.5, "val": 0.5})


# ---- Parts ---------------------------------------------------------------------------------------------------------


def test_the_shares_are_met_in_each_class_as_chance_has_it():
    data = many(9000, 3)
    part = parts(data, [0.7, 0.2, 0.1], seed=0)
    for label in range(3):
        counts = np.bincount(part[data.labels == label], minlength=3)
        # five standard deviations of the binomial law
        assert np.all(np.abs(counts - 3000 * np.array([0.7, 0.2, 0.1])) < 5 * np.sqrt(3000 * 0.25))


def test_pictures_added_later_move_none_of_the_others():
    fewer, more = many(400), many(1000)
    before, after = parts(fewer, [0.8, 0.2], seed=3), parts(more, [0.8, 0.2], seed=3)
    assert np.array_equal(after[:400], before)
    order = np.random.default_rng(0).permutation(400)
    mixed = named([fewer.names[at] for at in order], fewer.labels[order].tolist())
    assert np.array_equal(parts(mixed, [0.8, 0.2], seed=3), before[order])


def test_another_seed_parts_otherwise():
    first, second = (parts(many(400), [0.5, 0.5], seed=seed) for seed in (0, 1))
    assert 100 < (first != second).sum() < 300


@pytest.mark.parametrize("size", [3, 4, 7])
def test_every_class_is_in_every_part_even_where_it_is_small(size):
    data = many(200 * size, 200)
    part = parts(data, [0.9, 0.05, 0.05], seed=1)
    for label in range(200):
        assert set(part[data.labels == label].tolist()) == {0, 1, 2}


def test_a_class_of_fewer_pictures_than_parts_is_in_the_largest_ones():
    data = many(200, 100)
    part = parts(data, [0.1, 0.6, 0.3], seed=1)
    for label in range(100):
        assert set(part[data.labels == label].tolist()) == {1, 2}


def test_a_part_that_no_class_is_large_enough_for_is_named_and_nothing_is_left(tmp_path):
    data = many(4)
    with pytest.raises(DatasetError, match="no picture would be in test: each class is too small for so many parts"):
        split(data, tmp_path / "out", shares={"train": 0.8, "val": 0.15, "test": 0.05})
    assert list(tmp_path.iterdir()) == []


def test_a_class_with_one_picture_is_named():
    data = named(["a/1.png", "a/2.png", "b/3.png"], [0, 0, 1], ("a", "b"))
    with pytest.raises(DatasetError, match=r"class 'b' has one picture, b/3\.png, which cannot be in two parts"):
        parts(data, [0.5, 0.5], seed=0)


def test_what_belongs_together_is_in_one_part():
    data = many(600, 3)
    together = np.arange(600) // 4  # groups of four, over all three classes
    part = parts(data, [0.6, 0.2, 0.2], seed=0, together=together)
    assert all(len(set(part[at : at + 4].tolist())) == 1 for at in range(0, 600, 4))
    assert len(set(part.tolist())) == 3
    ungrouped = parts(data, [0.6, 0.2, 0.2], seed=0, together=np.arange(600)[::-1])
    assert np.array_equal(ungrouped, parts(data, [0.6, 0.2, 0.2], seed=0))


def test_a_class_whose_pictures_are_all_alike_is_named():
    data = named(["1.png", "2.png", "3.png", "4.png"], [0, 0, 5, 5])
    with pytest.raises(DatasetError, match=r"class 5 has 2 pictures that are all alike, 3\.png"):
        parts(data, [0.5, 0.5], seed=0, together=np.array([0, 1, 2, 2]))


def test_classes_that_groups_tie_beyond_repair_are_named():
    # three groups, each of two of three classes: two of the groups share a part, and so a class is in that part alone
    data = named([f"{index}.png" for index in range(6)], [0, 1, 0, 2, 1, 2])
    with pytest.raises(DatasetError, match=r"class \d: its pictures are alike to those of other classes"):
        parts(data, [0.5, 0.5], seed=0, together=np.array([0, 0, 1, 1, 2, 2]))


def test_classes_stay_whole_where_groups_tie_them_together():
    rng = np.random.default_rng(0)
    for seed in range(20):
        labels = rng.integers(0, 6, 60).tolist() + list(range(6)) * 2
        data = named([f"{index}.png" for index in range(72)], labels)
        together = np.concatenate([rng.integers(0, 40, 60), np.arange(100, 112)])
        part = parts(data, [0.8, 0.1, 0.1], seed=seed, together=together)
        for label in range(6):
            assert set(part[data.labels == label].tolist()) == {0, 1, 2}
        for group in set(together.tolist()):
            assert len(set(part[together == group].tolist())) == 1


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ({"train": 0.8, "val": 0.3}, r"the shares are 0\.8 \+ 0\.3: two or more are wanted whose sum is 1"),
        ({}, "the shares are none"),
        ({"train": 1.0}, "the share of train is 1.0"),
        ({"train": 1.2, "val": -0.2}, "the share of train is 1.2: more than 0 and less than 1"),
        ({"train": float("nan"), "val": 0.5}, "the share of train is nan"),
        ({"../train": 0.5, "val": 0.5}, r"part '\.\./train' does not fit"),
    ],
)
def test_shares_that_do_not_fit_are_refused(tmp_path, shares, said):
    with pytest.raises(UsageError, match=said):
        split(many(10), tmp_path / "out", shares=shares)
