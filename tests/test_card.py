from __future__ import annotations

import copy
import json

import pytest

from anabranch.arch import ARCHITECTURES, arch_to_json
from anabranch.artefact import read_card
from anabranch.card import card_from_json, card_to_json
from anabranch.errors import ArtefactError


@pytest.fixture
def said(packed):
    """The card's JSON, to be spoiled."""
    return json.loads((packed.folder / "card.json").read_text())


@pytest.fixture
def read(packed):
    labels = read_card(packed.folder).labels
    return lambda value: card_from_json(value, labels, where="card.json")


def put(table, path, value):
    *way, last = path.split("/")
    for key in way:
        table = table[key]
    table[last] = value


def drop(table, path):
    *way, last = path.split("/")
    for key in way:
        table = table[key]
    del table[last]


EVERY_OBJECT = ["", "architecture", "architecture/spec", "weights", "labels", "preprocess", "graphs/openvino/f32",
                "graphs/openvino/f32/files/f32.xml", "agreement/openvino/f32"]  # fmt: skip


@pytest.mark.parametrize("path", EVERY_OBJECT)
def test_an_unknown_key_is_refused_by_name_wherever_it_stands(said, read, path):
    put(said, f"{path}/surprise".lstrip("/"), 1)
    with pytest.raises(ArtefactError, match="'surprise'"):
        read(said)


@pytest.mark.parametrize("path", EVERY_OBJECT)
def test_each_missing_key_is_named_wherever_it_stands(said, read, path):
    table = said
    for key in filter(None, path.split("/")):
        table = table[key]
    for key in list(table):
        spoiled = copy.deepcopy(said)
        drop(spoiled, f"{path}/{key}".lstrip("/"))
        with pytest.raises(ArtefactError, match=key):
            read(spoiled)


def test_a_model_of_several_labels_a_picture_says_so_and_others_say_nothing(said, read):
    assert "multi_label" not in said
    assert not read(said).multi_label
    card = read({**said, "multi_label": True})
    assert card.multi_label
    assert card_to_json(card)["multi_label"] is True


WRONG = [
    ("multi_label", "yes", "multi_label is 'yes'; true or false"),
    ("created", 3, "created"),
    ("licence", None, "licence"),
    ("weights/sha256", "cafe", "64 hexadecimal digits"),
    ("weights/name", ["a"], "a text was expected"),
    ("labels/count", 5.0, "a whole number"),
    ("labels/count", True, "at least 0"),
    ("architecture/name", 7, r"architecture\.name"),
    ("architecture/spec/depths", ["a"], r"architecture\.spec"),
    ("architecture/spec/depths", 3, "depths"),
    ("architecture/spec/quirks", ["LOUD"], "quirk"),
    ("architecture/spec/quirks", [[]], "quirk"),
    ("architecture/spec/width", 0, "width"),
    ("architecture/spec", [], "an object was expected"),
    ("preprocess/crop_px", -1, "crop_px"),
    ("preprocess", "none", r"^\S*card\.json: preprocess is 'none'; an object was expected"),
    ("graphs", [], "an object was expected"),
    ("graphs/openvino/f32/stored", "f8", "f32, f16 or int8"),
    ("graphs/openvino/f32/files", {}, "at least one file"),
    ("graphs/openvino/f32/files/f32.xml/bytes", -1, "at least 0"),
    ("agreement/openvino/f32/max_abs", -1.0, "finite number"),
    ("agreement/openvino/f32/max_abs", float("inf"), "finite number"),
    ("agreement/openvino/f32/max_abs", 10**310, "finite number"),
    ("agreement/openvino/f32/top1_flips", "none", "a whole number"),
    ("versions/torch", 2.6, r"versions\.torch"),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG)
def test_a_value_of_another_kind_is_refused_where_it_stands(said, read, path, value, message):
    put(said, path, value)
    with pytest.raises(ArtefactError, match=message):
        read(said)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../f32.xml", "a/../../b", "./f32.xml", "a//b", "a\\b", "C:f32.xml", "", ".", "..", "a/"]
)
def test_a_path_that_leaves_the_folder_is_refused(said, read, name):
    files = said["graphs"]["openvino"]["f32"]["files"]
    files[name] = files.pop("f32.xml")
    with pytest.raises(ArtefactError, match="leaves the folder"):
        read(said)


@pytest.mark.parametrize("name", ["f32\0.xml", "f32\ud800.xml", "f32\n.xml"])
def test_a_name_that_no_file_has_is_refused(said, read, name):
    files = said["graphs"]["openvino"]["f32"]["files"]
    files[name] = files.pop("f32.xml")
    with pytest.raises(ArtefactError, match="is no name of a file"):
        read(said)


def test_a_card_of_a_newer_version_says_to_upgrade(said, read):
    said["card_version"] = 2
    said["a key of the future"] = 1
    with pytest.raises(ArtefactError, match=r"made by a newer anabranch.*pip install -U anabranch"):
        read(said)


@pytest.mark.parametrize("version", [0, -1, "1", 1.0, True, None])
def test_a_version_that_never_was_is_refused(said, read, version):
    said["card_version"] = version
    with pytest.raises(ArtefactError, match="card_version"):
        read(said)


@pytest.mark.parametrize("value", [None, [], 3, "card"])
def test_a_card_that_is_not_an_object_is_refused(read, value):
    with pytest.raises(ArtefactError, match="an object was expected"):
        read(value)


def test_a_name_that_contradicts_the_spec_is_refused(said, read):
    said["architecture"] = {"name": "senet154", "spec": arch_to_json(ARCHITECTURES["resnet18"])}
    with pytest.raises(ArtefactError, match="'senet154', but the spec is not"):
        read(said)


def test_a_name_and_its_own_spec_are_read(said, read):
    said["architecture"] = {"name": "senet154", "spec": arch_to_json(ARCHITECTURES["senet154"])}
    assert read(said).spec == ARCHITECTURES["senet154"]


def test_what_was_right_on_labelled_pictures_is_read_back_and_read_strictly(said, read):
    assert card_to_json(read(said)).keys() == said.keys()
    said["accuracy"] = {"net": {"f32": {"top1_right": 5, "num_pictures": 8}}}
    card = read(said)
    assert card.accuracy["net"]["f32"].top1 == 62.5
    assert card_to_json(card)["accuracy"] == said["accuracy"]
    for spoiled in (
        {"top1_right": -5, "num_pictures": 8},
        {"top1_right": 5},
        {**said["accuracy"]["net"]["f32"], "x": 1},
    ):
        said["accuracy"]["net"]["f32"] = spoiled
        with pytest.raises(ArtefactError, match=r"accuracy\.net\.f32"):
            read(said)


def test_a_precision_that_is_none_is_refused_as_it_may_lead_elsewhere(said, read):
    said["graphs"]["openvino"]["/../../elsewhere"] = said["graphs"]["openvino"]["f32"]
    with pytest.raises(ArtefactError, match="unknown key '/../../elsewhere'; f32, int8 are precisions"):
        read(said)
