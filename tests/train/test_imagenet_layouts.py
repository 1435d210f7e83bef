"""Every shipped recipe for ImageNet finds its pictures in the layouts in which people have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import webdataset
from PIL import Image

from anabranch.catalogue.classes import imagenet_1k
from anabranch.errors import DatasetError
from anabranch.train.recipe import read_recipe
from anabranch.train.sets import open_sets

RECIPES = sorted(
    path for path in (Path(__file__).parents[2] / "recipes").glob("*.toml") if '"imagenet"' in path.read_text()
)
SYNSETS = [wordnet_id for wordnet_id, _ in imagenet_1k()]
VAL = ["ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG"]  # whose classes are these:
OF_VAL = [65, 970]


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(JPEG)
    return path


@pytest.fixture(scope="module", autouse=True)
def _jpeg(tmp_path_factory) -> None:
    global JPEG
    path = tmp_path_factory.mktemp("jpeg") / "a.jpg"
    Image.new("RGB", (4, 3)).save(path)
    JPEG = path.read_bytes()


def train_folders(folder: Path) -> None:
    for synset in SYNSETS:
        put(folder / "train" / synset / f"{synset}_1.JPEG")


def class_folders(folder: Path) -> None:
    train_folders(folder)
    for synset in SYNSETS:
        put(folder / "val" / synset / f"ILSVRC2012_val_{SYNSETS.index(synset):08d}.JPEG")


def flat_val(folder: Path) -> None:
    train_folders(folder)
    for name in VAL:
        put(folder / "val" / name)


def with_paddles_list(folder: Path) -> None:
    flat_val(folder)
    lines = [f"val/{name} {label}" for name, label in zip(VAL, OF_VAL, strict=True)]
    (folder / "val_list.txt").write_text("\n".join(lines))


def with_a_list_inside(folder: Path) -> None:
    flat_val(folder)
    lines = [f"{name} {label}" for name, label in zip(VAL, OF_VAL, strict=True)]
    (folder / "val/val_list.txt").write_text("\n".join(lines))


def with_archives_beside(folder: Path) -> None:
    """As torchvision leaves them, and its meta.bin."""
    with_paddles_list(folder)
    for name in ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "meta.bin"):
        (folder / name).touch()


def kaggles(folder: Path) -> None:
    """Whose solution has pictures of each class, as it really has."""
    train_folders(folder)
    rows = [f"ILSVRC2012_val_{label + 1:08d},{synset} 1 2 3 4" for label, synset in enumerate(SYNSETS)]
    for row in rows:
        put(folder / "val" / f"{row.split(',')[0]}.JPEG")
    (folder / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows]))


def kaggles_as_unpacked(folder: Path) -> None:
    kaggles(folder / "ILSVRC/Data/CLS-LOC")
    (folder / "ILSVRC/Data/CLS-LOC/LOC_val_solution.csv").rename(folder / "LOC_val_solution.csv")


def with_the_devkit(folder: Path) -> None:
    flat_val(folder)
    devkit = folder / "ILSVRC2012_devkit_t12/data"
    devkit.mkdir(parents=True)
    order = np.random.default_rng(0).permutation(len(SYNSETS))  # which is the devkit's own
    rows = np.array(
        [(number, SYNSETS[label], "", "", 0) for number, label in enumerate(order, start=1)],
        dtype=[(name, object) for name in ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children")],
    )
    scipy.io.savemat(devkit / "meta.mat", {"synsets": rows[:, None]})
    truth = [str(order.tolist().index(label) + 1) for label in OF_VAL]
    (devkit / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(truth))


def paddles_lists(folder: Path) -> None:
    with_paddles_list(folder)
    lines = [f"train/{synset}/{synset}_1.JPEG {label}" for label, synset in enumerate(SYNSETS)]
    (folder / "train_list.txt").write_text("\n".join(lines))
    (folder / "train").rename(folder / "pictures")  # so that the lists alone say what is learnt
    (folder / "train_list.txt").write_text("\n".join(lines).replace("train/", "pictures/"))


def shards(folder: Path) -> None:
    folder.mkdir(parents=True)
    for split, labels in (("train", range(1000)), ("validation", OF_VAL)):
        with webdataset.TarWriter(str(folder / f"imagenet1k-{split}-0000.tar"), encoder=False) as writer:
            for label in labels:
                writer.write({"__key__": f"{label:08d}", "jpg": JPEG, "cls": str(label).encode()})


LAYOUTS: list[Callable[[Path], None]] = [
    *(class_folders, with_paddles_list, with_a_list_inside, with_archives_beside, kaggles, kaggles_as_unpacked),
    *(with_the_devkit, paddles_lists, shards),
]


@pytest.fixture(scope="module")
def layouts(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("layouts")
    for layout in LAYOUTS:
        layout(root / layout.__name__)
    return {layout.__name__: root / layout.__name__ for layout in LAYOUTS}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
@pytest.mark.parametrize("layout", [layout.__name__ for layout in LAYOUTS])
def test_a_recipe_finds_its_pictures_and_their_classes(recipe: Path, layout: str, layouts: dict[str, Path]) -> None:
    folder = layouts[layout] / ("ILSVRC/Data/CLS-LOC" if layout == "kaggles_as_unpacked" else "")
    sets = open_sets(read_recipe(recipe, pictures=folder).data)
    assert list(sets.class_names) == SYNSETS
    assert sorted(sets.shown.labels.tolist()) == list(range(1000))
    of_each_class = layout in ("class_folders", "kaggles", "kaggles_as_unpacked")
    assert sets.tested.labels.tolist() == (list(range(1000)) if of_each_class else OF_VAL)
    assert sets.shown.picture(0).shape == sets.tested.picture(1).shape == (3, 4, 3)


def test_shards_and_lists_of_other_numbers_are_not_given_imagenets_names(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg")
    for name in ("train.txt", "val.txt"):
        (tmp_path / name).write_text("a.jpg 0\na.jpg 1\n")
    recipe = read_recipe(RECIPES[0], pictures=tmp_path)
    with pytest.raises(DatasetError, match="no names, and 2 numbers up to 1 are not ImageNet-1k's 0 to 999"):
        open_sets(recipe.data)


def test_a_flat_val_without_a_list_says_that_one_is_wanted(tmp_path: Path) -> None:
    put(tmp_path / "train/n01440764/a.JPEG")
    put(tmp_path / "val" / VAL[0])
    with pytest.raises(DatasetError, match=r"nor a list of the pictures in it such as val_list\.txt"):
        read_recipe(RECIPES[0], pictures=tmp_path)


def test_the_recipe_for_cifar_finds_its_binary_files(tmp_path: Path) -> None:
    record = bytes([0, 1]) + bytes(3072)
    (tmp_path / "train.bin").write_bytes(record * 3)
    (tmp_path / "test.bin").write_bytes(record * 2)
    (tmp_path / "fine_label_names.txt").write_text("apple\naquarium_fish\n")
    sets = open_sets(read_recipe(RECIPES[0].with_name("cifar100.toml"), pictures=tmp_path).data)
    assert (len(sets.shown), len(sets.tested), sets.class_names) == (3, 2, ("apple", "aquarium_fish"))
    assert sets.shown.picture(0).shape == (32, 32, 3)
