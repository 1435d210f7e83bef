from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from anabranch.errors import ArchError, DatasetError, Error, RecipeError
from anabranch.train.recipe import read_recipe
from anabranch.train.sets import open_sets

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


def test_an_unknown_key_is_refused_with_the_nearest_known_ones(tiny: Path) -> None:
    tiny.write_text(tiny.read_text().replace("label_smoothing", "label_smooting"))
    with pytest.raises(RecipeError, match=r"'optimise\.label_smooting'; the nearest are optimise.label_smoothing"):
        read_recipe(tiny)


def test_a_key_without_its_table_is_found_in_it(tiny):
    with pytest.raises(RecipeError, match=r"there is no key 'epochs'; the nearest are optimise\.epochs, "):
        read_recipe(tiny, overrides=["epochs=3"])


def test_a_mistyped_set_is_refused(tiny: Path) -> None:
    with pytest.raises(RecipeError, match=r"'optimise\.epoch'; the nearest are optimise.epochs"):
        read_recipe(tiny, overrides=["optimise.epoch=3"])


def test_a_set_without_a_value_is_refused(tiny: Path) -> None:
    with pytest.raises(RecipeError, match="wanted key=value"):
        read_recipe(tiny, overrides=["optimise.epochs"])


def test_a_set_into_a_value_as_if_it_were_a_table_is_refused(tiny: Path) -> None:
    with pytest.raises(RecipeError, match="'name' in 'name.first' is a value"):
        read_recipe(tiny, overrides=["name.first=1"])


def test_a_set_wins_over_smoke_and_smoke_over_the_recipe(tiny: Path) -> None:
    assert read_recipe(tiny).optimise.epochs == 3
    assert read_recipe(tiny, smoke=True).optimise.epochs == 1
    assert read_recipe(tiny, smoke=True, overrides=["optimise.epochs=7"]).optimise.epochs == 7


def test_a_set_takes_text_numbers_and_tables(tiny: Path) -> None:
    recipe = read_recipe(
        tiny, overrides=["name=other", "optimise.lr=0.5", 'arch="resnet18"', "input.mean=[0.1, 0.2, 0.3]"]
    )
    assert recipe.name == "other"
    assert recipe.optimise.lr == 0.5
    assert recipe.spec().block == "basic"
    assert recipe.input.mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("override", "met"),
    [
        ("optimise.epochs=0", "optimise.epochs = 0"),
        ("optimise.epochs=1.5", "optimise.epochs = 1.5"),
        ("net.dropout=1.0", "net.dropout = 1.0"),
        ("input.mean=[0.5]", "input.mean"),
        ("augment.crop=middle", "augment.crop = 'middle'"),
        ("augment.pad_px=0", "augment.pad_px belongs to"),
        ("augment.crop=random-resized", "augment.pad_px belongs to"),
        ("augment.scale=[2.0, 3.0]", "augment.scale wants"),
        ("augment.aspect=[0.0, 1.0]", "augment.aspect wants"),
        ("name=../up", "name = '../up' does not fit: it must be of letters, digits,"),
        ("optimise.lr=inf", "optimise.lr = inf does not fit: it must be a finite number"),
        ("augment.cutmix=nan", "augment.cutmix = nan"),
    ],
)
def test_a_value_out_of_range_is_named(tiny: Path, override: str, met: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(tiny, overrides=[override])
    assert met in str(caught.value)
    assert str(tiny) in str(caught.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optimise=3", "optimise = 3 does not fit: it must be a table"),
        ("arch=3", "arch = 3 does not fit: it must be a text or a table"),
        ("augment.scale=[0.5]", "augment.scale = [0.5] does not fit: it must be a list of 2 numbers"),
        (
            "input.std=[1.0, 1.0, 1.0, 1.0]",
            "input.std = [1.0, 1.0, 1.0, 1.0] does not fit: it must be a list of 3 numbers",
        ),
        (
            "augment.side_px=[[0]]",
            "augment.side_px = [[0]] does not fit: it must be a list of lists of 2 whole numbers",
        ),
        (
            "data.class_names=left",
            "data.class_names = 'left' does not fit: it must be a list of texts or \"imagenet-1k\"",
        ),
        ("run.test_pictures=few", "run.test_pictures = 'few' does not fit: it must be a whole number"),
        ("run.compile=1", "run.compile = 1 does not fit: it must be true or false"),
        ("optimise.epochs=0", "optimise.epochs = 0 does not fit: it must be greater than or equal to 1"),
        ("run.result=first", "run.result = 'first' does not fit: it must be 'last', 'best' or 'average'"),
    ],
)
def test_what_a_key_wants_is_said_once_and_in_the_words_of_a_recipe(tiny: Path, override: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(tiny, overrides=[override])
    assert str(caught.value) == f"{tiny}: {said}"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["augment.scale=[0.5, 1.0]"], 'augment.scale belongs to augment.crop = "random-resized"'),
        (["augment.policy_magnitude=5.0"], 'augment.policy_magnitude belongs to augment.policy = "randaugment"'),
        (["augment.policy=trivialaugment", "augment.policy_ops=3"], "augment.policy_ops belongs to augment.policy"),
        (["optimise.step_factor=0.5"], 'optimise.step_factor belongs to optimise.schedule = "step"'),
        (
            ["optimise.schedule=step", "optimise.step_epochs=[1]", "optimise.final_lr=0.01"],
            'optimise.final_lr belongs to optimise.schedule = "cosine"',
        ),
        (["optimise.warmup_epochs=0.0", "optimise.warmup_from=0.1"], "warmup_from belongs to optimise.warmup_epochs"),
        (["optimise.optimiser=adamw", "optimise.momentum=0.8"], 'momentum belongs to optimise.optimiser = "sgd" and'),
        (["optimise.optimiser=lamb", "optimise.momentum=0.8"], 'momentum belongs to optimise.optimiser = "sgd" and'),
        (["optimise.binary_threshold=0.0"], 'optimise.binary_threshold belongs to optimise.loss = "binary"'),
        (["optimise.ema_decay=0.0", "optimise.ema_steps=2"], "optimise.ema_steps belongs to optimise.ema_decay"),
        (
            ["distil.teacher=random", "distil.labels=0.1", "distil.temperature=4.0"],
            'distil.temperature belongs to distil.loss = "kl"',
        ),
        (["distil.teacher=random"], "optimise.label_smoothing belongs to distil.labels, which is 0"),
    ],
)
def test_a_key_that_nothing_reads_is_refused(tiny: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(tiny, overrides=overrides)
    assert said in str(caught.value)
    assert "leave it out" in str(caught.value)


def test_a_key_that_nothing_reads_may_be_set_back_to_what_it_is_when_left_out(tiny: Path) -> None:
    tiny.write_text(tiny.read_text().replace("lr = 0.05", "lr = 0.05\nmomentum = 0.8"))
    with pytest.raises(RecipeError, match=r"leave it out, or set it to 0\.9, as it is when left out"):
        read_recipe(tiny, overrides=["optimise.optimiser=adamw"])
    read_recipe(tiny, overrides=["optimise.optimiser=adamw", "optimise.momentum=0.9", "optimise.nesterov=false"])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "it goes with [distil], with distil.labels = 0 and with data.test"),
        (["distil.teacher=random", "distil.labels=0.5"], "it goes with [distil], with distil.labels = 0"),
        (["data.balanced=true"], "data.balanced belongs to pictures with labels, and data.unlabelled"),
        (["data.train={path='a', labels='b'}"], "data.train.labels belongs to pictures with labels"),
    ],
)
def test_pictures_without_labels_want_a_teacher_and_others_to_be_tested_on(
    tiny: Path, overrides: list[str], said: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(tiny, overrides=["data.unlabelled=true", *overrides])
    assert said in str(caught.value)


def test_the_largest_seed_is_the_largest_that_torch_takes(tiny: Path) -> None:
    largest = 2**64 - 1
    torch.Generator().manual_seed(read_recipe(tiny, overrides=[f"run.seed={largest}"]).run.seed)
    with pytest.raises((RuntimeError, ValueError)):
        torch.Generator().manual_seed(largest + 1)
    with pytest.raises(RecipeError, match=r"run\.seed = 18446744073709551616 does not fit"):
        read_recipe(tiny, overrides=[f"run.seed={largest + 1}"])


PROBE = next(path for path in RECIPES if path.stem == "probe")


@pytest.mark.parametrize(
    "override",
    [
        "net.dropout=0.1",
        "start.frozen=['all but head']",
        "start.layer_decay=0.7",
        "data.balanced=true",
        "data.repeats=2",
        "augment.flip=0.0",
        "augment.mixup=0.2",
        "run.precision=bf16",
        "run.workers=2",
        "run.test_pictures=100",
    ],
)
def test_what_a_probe_does_not_read_is_refused(override: str) -> None:
    key = override.split("=")[0]
    with pytest.raises(RecipeError, match=f"{key} belongs to .*whose keys are weight_decay and precision"):
        read_recipe(PROBE, overrides=[override])


def test_what_a_probe_reads_is_taken() -> None:
    read = ["run.seed=1", "probe.precision=bf16", "data.unreadable=0.1", "start.head=keep", "input.resize_px=232"]
    recipe = read_recipe(PROBE, overrides=read)
    assert (recipe.run.seed, recipe.probe.precision) == (1, "bf16")


def test_a_crop_larger_than_the_resized_picture_is_refused(tiny: Path) -> None:
    with pytest.raises(RecipeError, match=r"input\.resize_px = 12 is less than input\.crop_px = 16.*raise both"):
        read_recipe(tiny, overrides=["input.crop_px=16"])
    assert read_recipe(tiny, overrides=["input.crop_px=16", "input.resize_px=16"]).input.crop_px == 16


def test_a_missing_key_is_named(tiny: Path) -> None:
    tiny.write_text(tiny.read_text().replace("lr = 0.05\n", ""))
    with pytest.raises(RecipeError, match=r"key 'optimise\.lr' is missing"):
        read_recipe(tiny)


def test_an_impossible_architecture_is_refused_before_anything_runs(tiny: Path) -> None:
    with pytest.raises(ArchError, match="splits = 1"):
        read_recipe(tiny, overrides=["arch.splits=1"])


def test_a_file_that_is_absent_or_not_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="nowhere.toml: cannot be read"):
        read_recipe(tmp_path / "nowhere.toml")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(RecipeError, match="bad.toml: not TOML"):
        read_recipe(tmp_path / "bad.toml")


def test_smoke_without_a_smoke_table_is_refused(tiny: Path) -> None:
    text = tiny.read_text().split("[smoke]")[0]
    for without in (text, f"smoke = true\n{text}"):
        tiny.write_text(without)
        with pytest.raises(RecipeError, match=r"has no \[smoke\] table"):
            read_recipe(tiny, smoke=True)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('"optimise.bacth" = 8', r"there is no key 'optimise\.bacth'; the nearest are optimise.batch"),
        ('"optimise.batch" = 0', r"optimise\.batch = 0 does not fit"),
        ('"run.precision" = 16', r"run\.precision = 16 does not fit"),
    ],
)
def test_a_mistake_in_smoke_is_refused_in_every_run(tiny: Path, line: str, said: str) -> None:
    tiny.write_text(f"{tiny.read_text()}{line}\n")
    for smoke in (False, True):
        with pytest.raises(RecipeError, match=said):
            read_recipe(tiny, smoke=smoke)


def test_overrides_that_do_not_fit_smoke_run_without_it(tiny: Path) -> None:
    tiny.write_text(f'{tiny.read_text()}"input.resize_px" = 16\n"arch.width" = 4\n')
    tiny.write_text(tiny.read_text().replace("resize_px = 12", "resize_px = 24"))
    recipe = read_recipe(tiny, overrides=["input.crop_px=20", "arch=resnet18"])
    assert (recipe.input.crop_px, recipe.arch) == (20, "resnet18")


def test_a_set_of_smoke_is_refused(tiny: Path) -> None:
    for override in ("smoke.optimise.epochs=9", "smoke={}"):
        with pytest.raises(RecipeError, match=r"\[smoke\] is the recipe's own; say --smoke"):
            read_recipe(tiny, smoke=True, overrides=[override])


def test_every_error_of_a_recipe_is_one_of_ours(tiny: Path) -> None:
    for override in ("arch=nonsense", "arch.quirks=['nonsense']", "input.resampler=nonsense", "run.seed=-1"):
        with pytest.raises(Error):
            read_recipe(tiny, overrides=[override])


def classes(folder: Path, *, count: int = 10) -> Path:
    for name in ("ant", "bee"):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / name / f"{name}{index}.png")
    return folder


def test_a_folder_with_its_own_splits_is_learnt_and_tested_as_it_says(tiny: Path, tmp_path: Path) -> None:
    for split in ("train", "valid"):
        classes(tmp_path / "photos" / split)
    data = read_recipe(tiny, pictures=tmp_path / "photos").data
    assert (data.train.path, data.train.split) == (str(tmp_path / "photos"), "train")
    assert data.test is not None
    assert (data.test.path, data.test.split) == (str(tmp_path / "photos"), "valid")


def test_a_class_that_is_called_train_is_no_split(tiny: Path, tmp_path: Path) -> None:
    folder = classes(tmp_path / "vehicles")
    (folder / "ant").rename(folder / "train")
    data = read_recipe(tiny, pictures=folder).data
    assert (data.train.path, data.train.split, data.test) == (str(folder), None, None)


@pytest.mark.parametrize("other", ["Val", "dev", "cat"])
def test_folders_beside_a_lone_train_are_refused_rather_than_passed_over(
    tiny: Path, tmp_path: Path, other: str
) -> None:
    for folder in ("train", other):
        classes(tmp_path / "photos" / folder)
    with pytest.raises(DatasetError, match=rf"photos: holds train and {other}, .* or give .*photos/train alone"):
        read_recipe(tiny, pictures=tmp_path / "photos")
    assert read_recipe(tiny, pictures=tmp_path / "photos/train").data.hold_out == 0.2


def test_a_val_that_leads_nowhere_or_holds_no_class_folders_is_not_passed_over(tiny: Path, tmp_path: Path) -> None:
    classes(tmp_path / "photos/train")
    (tmp_path / "photos/val").symlink_to(tmp_path / "unmounted")
    with pytest.raises(DatasetError, match="photos: holds train and val, but"):
        read_recipe(tiny, pictures=tmp_path / "photos")
    (tmp_path / "photos/val").unlink()
    (tmp_path / "photos/val").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos/val/0.png")
    with pytest.raises(DatasetError, match="photos: holds train and val, but no class folders"):
        read_recipe(tiny, pictures=tmp_path / "photos")


@pytest.mark.parametrize("learnt", ["photos", "photos/train"])
def test_a_set_to_test_on_may_lie_elsewhere(tiny: Path, tmp_path: Path, learnt: str) -> None:
    classes(tmp_path / learnt)
    classes(tmp_path / "others", count=3)
    overrides = [f"data.test.path={tmp_path / 'others'}"]
    sets = open_sets(read_recipe(tiny, pictures=tmp_path / "photos", overrides=overrides).data)
    assert (len(sets.shown), len(sets.tested)) == (20, 6)


def test_a_split_to_test_on_is_kept_where_another_key_of_it_is_set(tiny: Path, tmp_path: Path) -> None:
    for folder in ("train", "val"):
        classes(tmp_path / "photos" / folder)
    data = read_recipe(tiny, pictures=tmp_path / "photos", overrides=["data.test.labels=val.txt"]).data
    assert data.test is not None
    assert (data.test.split, data.test.labels) == ("val", "val.txt")


def test_a_split_to_test_on_may_have_any_name(tiny: Path, tmp_path: Path) -> None:
    for folder in ("train", "val", "dev"):
        classes(tmp_path / "photos" / folder, count=len(folder))
    sets = open_sets(read_recipe(tiny, pictures=tmp_path / "photos", overrides=["data.test.split=dev"]).data)
    assert sets.tested.names[0] == "ant/ant0.png"
    assert Path(sets.tested.folder).name == "dev"


def test_a_folder_that_is_called_train_and_holds_shards_is_a_split(tiny: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "shards" / split).mkdir(parents=True)
        (tmp_path / "shards" / split / "000000.tar").touch()
    data = read_recipe(tiny, pictures=tmp_path / "shards").data
    assert data.test is not None
    assert (data.train.split, data.test.split) == ("train", "test")


def _without_splits(tiny: Path) -> None:
    tiny.write_text(tiny.read_text().replace(', split = "train"', "").replace(', split = "test"', ""))


@pytest.mark.parametrize(
    "files", [["000000.tar", "000001.tar"], ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"]]
)
def test_packed_pictures_that_do_not_say_what_is_tested_are_refused(
    tiny: Path, tmp_path: Path, files: list[str]
) -> None:
    _without_splits(tiny)
    (tmp_path / "packed").mkdir()
    for name in files:
        (tmp_path / "packed" / name).touch()
    with pytest.raises(DatasetError, match="do not say what is to be tested on; call them train-"):
        read_recipe(tiny, pictures=tmp_path / "packed")
    data = read_recipe(tiny, pictures=tmp_path / "packed", overrides=["data.test.path='elsewhere'"]).data
    assert data.test is not None
    assert (data.train.path, data.test.path) == (str(tmp_path / "packed"), "elsewhere")


@pytest.mark.parametrize(
    "files",
    [
        ["train-images-idx3-ubyte", "t10k-images-idx3-ubyte.gz"],
        ["batches.meta.txt", *(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"],
        ["fine_label_names.txt", "coarse_label_names.txt", "train.bin", "test.bin"],
        ["photos-train-000.tar", "photos-test-000.tar"],
    ],
)
def test_packed_pictures_are_known_as_what_they_are_called(tiny: Path, tmp_path: Path, files: list[str]) -> None:
    _without_splits(tiny)
    (tmp_path / "packed").mkdir()
    for name in files:
        (tmp_path / "packed" / name).touch()
    data = read_recipe(tiny, pictures=tmp_path / "packed").data
    assert data.test is not None
    assert (data.train.split, data.test.split) == ("train", "test")


def test_a_recipe_says_how_much_of_a_folder_is_held_out(tiny: Path, tmp_path: Path) -> None:
    classes(tmp_path / "photos")
    text = tiny.read_text()
    first = text.index("test = {")
    tiny.write_text(text[:first] + "hold_out = 0.4" + text[text.index("\n", first) :])
    assert read_recipe(tiny, pictures=tmp_path / "photos").data.hold_out == 0.4


@pytest.mark.parametrize("splits", [[""], ["train", "val"]])
def test_class_folders_name_their_classes_in_place_of_the_recipe(tiny: Path, tmp_path: Path, splits: list[str]) -> None:
    for split in splits:
        classes(tmp_path / "photos" / split)
    assert open_sets(read_recipe(tiny, pictures=tmp_path / "photos").data).class_names == ("ant", "bee")


def test_a_recipe_names_the_classes_of_pictures_that_lie_in_one_file(tiny: Path) -> None:
    assert open_sets(read_recipe(tiny, pictures=tiny.parent).data).class_names == ("left", "right")


@pytest.mark.parametrize("name", ["Train", "TRAIN", "Training"])
def test_splits_of_other_names_are_refused_rather_than_learnt_as_classes(tiny: Path, tmp_path: Path, name: str) -> None:
    for split in (name, "Test"):
        classes(tmp_path / "fruits" / split)
    with pytest.raises(DatasetError, match=r"fruits: holds \w+, \w+: these are splits"):
        open_sets(read_recipe(tiny, pictures=tmp_path / "fruits").data)


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """The folder of two lists, as `anabranch split` writes them."""
    classes(tmp_path / "photos")
    (tmp_path / "lists").mkdir()
    for name, places in (("train", range(8)), ("val", range(8, 10))):
        lines = [
            f"../photos/{each}/{each}{at}.png {label}\n" for label, each in enumerate(("ant", "bee")) for at in places
        ]
        (tmp_path / "lists" / f"{name}.txt").write_text("".join(lines))
    (tmp_path / "lists/classes.json").write_text('["ant", "bee"]')
    return tmp_path / "lists"


NO_NAMES = "data.class_names=['ant', 'bee']"  # the tiny recipe's own are others


def test_a_folder_of_two_lists_is_learnt_and_tested_as_they_say(tiny: Path, lists: Path) -> None:
    sets = open_sets(read_recipe(tiny, pictures=lists, overrides=[NO_NAMES]).data)
    assert (len(sets.shown), len(sets.tested)) == (16, 4)
    assert sets.shown.names[0] == "../photos/ant/ant0.png"


def test_a_list_beside_class_folders_is_of_no_account_without_a_second(tiny: Path, lists: Path) -> None:
    (lists.parent / "photos/train.txt").touch()
    data = read_recipe(tiny, pictures=lists.parent / "photos").data
    assert (data.train.path, data.test) == (str(lists.parent / "photos"), None)


def test_a_list_that_is_set_leaves_the_split_of_the_recipes_folder_behind(tiny: Path, lists: Path) -> None:
    paths = [f"data.train.path={lists}/train.txt", f"data.test.path={lists}/val.txt"]
    sets = open_sets(read_recipe(tiny, overrides=[*paths, NO_NAMES]).data)
    assert (len(sets.shown), len(sets.tested)) == (16, 4)
    asked = read_recipe(tiny, overrides=[*paths, "data.train.split=train", NO_NAMES])
    with pytest.raises(DatasetError, match=r"train\.txt: this is a file, and split 'train' chooses within a folder"):
        open_sets(asked.data)


def test_of_a_folder_in_one_piece_a_fifth_of_each_class_is_held_out(tiny: Path, tmp_path: Path) -> None:
    classes(tmp_path / "photos", count=50)
    recipe = read_recipe(tiny, pictures=tmp_path / "photos")
    sets = open_sets(recipe.data)
    assert not set(sets.shown.names) & set(sets.tested.names)
    assert len(sets.shown) + len(sets.tested) == 100
    for label in (0, 1):
        assert 4 <= (sets.tested.labels == label).sum() <= 18
    assert sets.class_names == ("ant", "bee")
    assert open_sets(recipe.data).tested.names == sets.tested.names


def test_pictures_that_lie_in_one_file_cannot_be_held_out(tiny: Path, tmp_path: Path) -> None:
    recipe = read_recipe(tiny, overrides=[f"data={{train={{path='{tiny.parent}', split='train'}}, hold_out=0.2}}"])
    with pytest.raises(DatasetError, match="can be held out; name others in data.test. 'anabranch split' parts"):
        open_sets(recipe.data)


def test_a_folder_that_is_not_there_is_said(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="photos: no such folder or list"):
        read_recipe(tiny, pictures=tmp_path / "photos")


def test_a_recipe_tests_either_on_a_set_or_on_what_it_holds_out(tiny: Path) -> None:
    with pytest.raises(RecipeError, match="either a test set, data.test, or a share"):
        read_recipe(tiny, overrides=["data.hold_out=0.2"])


def test_pairs_within_lists_are_read(tiny: Path) -> None:
    sizes = ["augment.side_px=[[0, 8], [1, 12]]", "augment.crop='random-resized'", "augment.pad_px=0"]
    assert read_recipe(tiny, overrides=sizes).augment.side_px == ((0, 8), (1, 12))
