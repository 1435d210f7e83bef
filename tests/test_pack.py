from __future__ import annotations

import copy
import json
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from anabranch.arch import ARCHITECTURES, Arch
from anabranch.artefact import read_card
from anabranch.calibration import Pictures
from anabranch.card import Agreement
from anabranch.errors import ArtefactError, ExportError, MissingExtra, UsageError
from anabranch.images.preprocess import Preprocess
from anabranch.nets.load import About, Trained, save_trained
from anabranch.nets.net import build
from anabranch.pack import pack, pack_checkpoint
from anabranch.pack.measure import F16_STORED_TOLERANCE, check_flips, flips_too_often, synthetic_pictures
from anabranch.runtimes import open_model

GIVEN = {
    "preprocess": Preprocess(crop_px=33, resize_px=40, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3)),
    "labels": ["a", "b", "c", "d", "e"],
    "weights_name": "tiny.random",
    "licence": "CC0-1.0",
}

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 33, 33, 3), dtype=np.uint8)


@pytest.fixture
def exported(packed, monkeypatch):
    """The packed net, whose ONNX file is not computed again but copied: the exporter takes seconds."""

    def copied(graph, path, *, size_px):
        shutil.copy(packed.folder / "f32.onnx", path)
        return [path.name]

    monkeypatch.setattr("anabranch.export.write.write_onnx", copied)
    return packed.net


@pytest.fixture
def net():
    return build(Arch(depths=(1,), width=8), num_classes=5).eval()


def test_the_card_that_is_returned_is_the_one_that_lies_there(packed):
    card = read_card(packed.folder)
    assert set(card.agreement) == {"openvino", "onnxruntime"}
    assert card.spec == packed.net.arch
    assert card.architecture is None


def test_the_agreement_on_the_card_is_what_anyone_measures(packed):
    card = read_card(packed.folder)
    pixels = synthetic_pictures(33)
    mean, std = torch.tensor(card.preprocess.mean), torch.tensor(card.preprocess.std)
    with torch.no_grad():
        wanted = packed.net(((torch.from_numpy(pixels) / 255 - mean) / std).permute(0, 3, 1, 2)).numpy()
    for engine, said in card.agreement.items():
        met = np.abs(open_model(packed.folder, engine=engine).predict(pixels) - wanted)
        assert said["f32"].largest_logit == pytest.approx(np.abs(wanted).max(), rel=1e-4)
        assert said["f32"].max_abs == pytest.approx(met.max(), abs=1e-5 * float(np.abs(wanted).max()))
        assert said["f32"].num_pictures == 8
        assert said["f32"].relative <= 1e-4


def test_no_path_of_this_machine_is_in_any_file(packed):
    for path in packed.folder.iterdir():
        held = path.read_bytes()
        assert b"/anabranch/" not in held, path.name
        assert b"site-packages" not in held, path.name


def test_pictures_of_ones_own_are_measured_on_and_named(exported, tmp_path):
    pictures = np.random.default_rng(1).integers(0, 256, (3, 33, 33, 3), dtype=np.uint8)
    card = pack(exported, tmp_path / "a", **GIVEN, pictures=Pictures("three of mine", pictures))
    assert card == read_card(tmp_path / "a", verify=True)
    assert card.pictures == "three of mine"
    assert card.agreement["openvino"]["f32"].num_pictures == 3


@pytest.mark.parametrize(
    ("kind", "engine", "files"),
    [("openvino", "openvino", {"f32.xml", "f32.bin"}), ("onnx", "onnxruntime", {"f32.onnx"})],
)
def test_one_format_writes_only_its_files(exported, tmp_path, kind, engine, files):
    card = pack(exported, tmp_path / "a", **GIVEN, formats=[kind])
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"card.json", "labels.txt"} | files
    assert (set(card.graphs), set(card.agreement)) == ({kind}, {engine})


def test_weights_stored_as_f16_halve_the_file_and_the_card_says_so(exported, tmp_path):
    whole = pack(exported, tmp_path / "f32", **GIVEN)
    half = pack(exported, tmp_path / "f16", **GIVEN, stored="f16")
    sizes = [card.graphs["openvino"]["f32"].files["f32.bin"].size_bytes for card in (whole, half)]
    assert sizes[1] == pytest.approx(sizes[0] / 2, rel=0.05)
    assert half.graphs["openvino"]["f32"].stored == "f16"
    assert half.graphs["onnx"]["f32"].stored == "f32"
    assert 1e-6 < half.agreement["openvino"]["f32"].relative <= F16_STORED_TOLERANCE
    assert half.agreement["onnxruntime"]["f32"].relative <= 1e-5


def test_a_net_that_need_not_be_kept_gives_the_same_artefact_and_ends_without_weights(exported, tmp_path):
    kept, spent = pack(exported, tmp_path / "kept", **GIVEN), copy.deepcopy(exported)
    card = pack(spent, tmp_path / "spent", **GIVEN, keep_net=False)
    assert (card.weights, card.graphs["onnx"]) == (kept.weights, kept.graphs["onnx"])
    assert (tmp_path / "kept/f32.bin").read_bytes() == (tmp_path / "spent/f32.bin").read_bytes()
    assert {tensor.device.type for tensor in exported.state_dict().values()} == {"cpu"}
    assert {tensor.device.type for tensor in spent.state_dict().values()} == {"meta"}


def test_a_net_of_the_table_is_called_by_its_name(exported, tmp_path, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "tiny", exported.arch)
    assert pack(exported, tmp_path / "a", **GIVEN).architecture == "tiny"


def test_what_a_checkpoint_says_of_several_labels_a_picture_is_on_the_card(exported, tmp_path):
    told = {
        "class_names": tuple(GIVEN["labels"]),
        "preprocess": GIVEN["preprocess"],
        "name": "tiny",
        "licence": "CC0-1.0",
    }
    for multi_label in (True, False):
        trained = Trained(exported, About(multi_label=multi_label, **told))
        save_trained(tmp_path / "a.safetensors", trained)
        pack_checkpoint(tmp_path / "a.safetensors", tmp_path / str(multi_label))
        assert read_card(tmp_path / str(multi_label)).multi_label is multi_label


def test_files_that_answer_otherwise_than_the_net_are_refused_and_leave_nothing(exported, tmp_path):
    other = copy.deepcopy(exported)
    other.head.bias.data[0] += 0.1
    with pytest.raises(ExportError, match=r"openvino in f32 answers up to 0\.1 away from the net"):
        pack(other, tmp_path / "a", **GIVEN)
    assert list(tmp_path.iterdir()) == []


SHOWN = np.random.default_rng(2).integers(0, 256, (24, 33, 33, 3), dtype=np.uint8)
BOTH = {"precisions": ["f32", "int8"], "pictures": Pictures("mine", SHOWN[:8], calibration=SHOWN[8:])}


def test_a_graph_in_int8_lies_beside_the_one_in_f32_and_says_what_it_costs(exported, tmp_path):
    card = pack(exported, tmp_path / "a", **GIVEN, **BOTH, max_flips=1.0)
    assert card == read_card(tmp_path / "a", verify=True)
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        "card.json", "labels.txt", "f32.onnx", "f32.xml", "f32.bin", "int8.onnx", "int8.xml", "int8.bin"}  # fmt: skip
    for engine in ("openvino", "onnxruntime"):
        said = card.agreement[engine]
        exact, rough = (open_model(tmp_path / "a", engine=engine, precision=each).predict(SHOWN[:8]) for each in said)
        assert list(said) == ["f32", "int8"]
        assert said["f32"].max_abs < 1e-4 < said["int8"].max_abs
        assert said["int8"].max_abs == pytest.approx(np.abs(rough - exact).max(), abs=1e-4)
        assert said["int8"].top1_flips == (rough.argmax(1) != exact.argmax(1)).sum()
    assert card.accuracy == {}


def test_int8_alone_is_what_opens_where_nothing_else_is_there(exported, tmp_path):
    alone = {**BOTH, "precisions": ["int8"]}
    card = pack(exported, tmp_path / "a", **GIVEN, **alone, formats=["openvino"], max_flips=1.0)
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"card.json", "labels.txt", "int8.xml", "int8.bin"}
    assert {kind: list(graphs) for kind, graphs in card.graphs.items()} == {"openvino": ["int8"]}
    opened = open_model(tmp_path / "a")
    assert opened.engine == "openvino int8"
    asked = open_model(tmp_path / "a", precision="int8")
    np.testing.assert_array_equal(opened.predict(SHOWN[:2]), asked.predict(SHOWN[:2]))
    with pytest.raises(ArtefactError, match="holds no files for openvino in f32; it holds openvino int8"):
        open_model(tmp_path / "a", precision="f32")


def test_where_the_pictures_are_labelled_the_card_says_how_many_are_right(exported, tmp_path):
    pack(exported, tmp_path / "f32", **GIVEN)
    best = open_model(tmp_path / "f32").predict(SHOWN[:8]).argmax(1)
    truth = np.where(np.arange(8) < 5, best, (best + 1) % 5)  # five are right, three wrong
    told = {**BOTH, "pictures": BOTH["pictures"]._replace(truth=truth)}
    card = pack(exported, tmp_path / "a", **GIVEN, **told, max_flips=1.0)
    assert card == read_card(tmp_path / "a")
    for each in (card.accuracy["net"]["f32"], card.accuracy["openvino"]["f32"], card.accuracy["onnxruntime"]["f32"]):
        assert (each.top1_right, each.num_pictures, each.top1) == (5, 8, 62.5)
    rough = open_model(tmp_path / "a", precision="int8").predict(SHOWN[:8])
    assert card.accuracy["openvino"]["int8"].top1_right == (rough.argmax(1) == truth).sum()


def test_int8_that_changes_more_answers_than_it_may_is_refused_and_leaves_nothing(exported, tmp_path):
    dark = BOTH["pictures"]._replace(calibration=np.zeros_like(SHOWN))
    with pytest.raises(
        ExportError, match=r"openvino in int8 gives \d of 8 pictures another top-1.*at most 1\.00% were"
    ):
        pack(exported, tmp_path / "a", **GIVEN, **{**BOTH, "pictures": dark})
    assert list(tmp_path.iterdir()) == []


def test_a_share_of_other_answers_may_be_met_exactly():
    for flips in range(101):
        met = Agreement(max_abs=1.0, mean_abs=0.1, largest_logit=1.0, top1_flips=flips, num_pictures=100)
        assert not flips_too_often(met, flips / 100)
        assert flips_too_often(replace(met, top1_flips=flips + 1), flips / 100)


@pytest.mark.parametrize(
    ("flips", "advice"),
    [
        (12, r"give or take 3 are chance: measure on more pictures with --measure, allow more with --max-flips, or"),
        (17, r"give or take 4 are chance"),  # 17 - 2 * 4.09 < 10
        (19, r"Nothing was written; allow more with --max-flips, or calibrate by other pictures"),  # 19 - 2 * 4.32 > 10
        (1000, r"Nothing was written; allow more"),
    ],
)
def test_more_pictures_are_advised_where_they_may_help(packed, flips, advice):
    met = Agreement(max_abs=1.0, mean_abs=0.1, largest_logit=1.0, top1_flips=flips, num_pictures=1000)
    card = replace(read_card(packed.folder), agreement={"openvino": {"int8": met}})
    with pytest.raises(ExportError, match=advice):
        check_flips(card, 0.01)


def test_int8_that_misses_the_share_keeps_its_sums_in_floats(shake, tmp_path, monkeypatch):
    torch.manual_seed(0)
    net = shake(build(Arch(depths=(6,), width=8), num_classes=5))
    for block in net.stages[0]:  # adds little to what passes through, so that its rounding costs the most
        block.branch.expand.norm.weight.data *= 0.02
        block.branch.expand.norm.bias.data *= 0.02
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 256, (1200, 1, 1, 3)) + rng.normal(0, 40, (1200, 33, 33, 3))
    pixels = np.clip(drawn, 0, 255).astype(np.uint8)
    with torch.inference_mode():
        best = net(torch.from_numpy(GIVEN["preprocess"].normalise(pixels))).topk(2).values
    close = (best[:, 0] - best[:, 1]).argsort()[:200].numpy()  # those that change their answer most easily
    shown = {"pictures": Pictures("mine", pixels[close], calibration=pixels[-32:]), "precisions": ["f32", "int8"]}
    rounded = pack(net, tmp_path / "rounded", **GIVEN, **shown, max_flips=1.0, any_size=True)
    monkeypatch.setattr(  # the exporter takes seconds
        "anabranch.export.write.write_onnx",
        lambda graph, path, *, size_px: [shutil.copy(tmp_path / "rounded" / "f32.onnx", path) and path.name],
    )
    flips = {name: each["int8"].top1_flips for name, each in rounded.agreement.items()}
    share = (min(flips.values()) - 1) / 200  # none of them keeps it
    card = pack(net, tmp_path / "kept", **GIVEN, **shown, max_flips=share, any_size=True)
    assert card == read_card(tmp_path / "kept", verify=True)
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {
        each.name for each in (tmp_path / "rounded").iterdir()
    }
    sums = {kind: [name for name, each in graphs.items() if each.float_sums] for kind, graphs in card.graphs.items()}
    assert sums == {"openvino": ["int8", "any-size-int8"], "onnx": ["int8"]}
    assert not any(each.float_sums for graphs in rounded.graphs.values() for each in graphs.values())
    exact = open_model(tmp_path / "kept").predict(pixels[close]).argmax(1)
    for engine in ("openvino", "onnxruntime"):
        met = open_model(tmp_path / "kept", engine=engine, precision="int8").predict(pixels[close]).argmax(1)
        assert card.agreement[engine]["int8"].top1_flips == pytest.approx((met != exact).sum(), abs=1)
        assert card.agreement[engine]["int8"].top1_flips <= share * 200
        assert card.agreement[engine]["f32"] == rounded.agreement[engine]["f32"]
    with pytest.raises(
        ExportError, match="in int8 gives .* with the sums between its blocks in f32 too; at most 0.00%"
    ):
        pack(net, tmp_path / "none", **GIVEN, **shown, max_flips=0.0)
    assert not (tmp_path / "none").exists()


def test_int8_is_not_measured_on_pictures_that_nobody_would_ask_about(net, tmp_path):
    with pytest.raises(UsageError, match="int8 is calibrated by real pictures, and measured on others; give some"):
        pack(net, tmp_path / "a", **GIVEN, precisions=["int8"])


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ({"calibration": PIXELS[:, 1:]}, r"pictures\.calibration is uint8 \(.*\); uint8 \(N, 33, 33, 3\) is wanted"),
        ({"calibration": PIXELS[:0]}, r"pictures\.calibration is uint8 \(0, 33, 33, 3\)"),
        ({"measured": PIXELS.astype(np.float32)}, r"pictures\.measured is float32"),
        ({"truth": np.zeros(3, np.int64)}, r"pictures\.truth has 3 classes for"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(net, tmp_path, odd, message):
    pictures = Pictures("some", PIXELS, calibration=PIXELS)._replace(**odd)
    with pytest.raises(UsageError, match=message):
        pack(net, tmp_path / "a", **GIVEN, precisions=["int8"], pictures=pictures)


def test_int8_without_onnxruntime_names_the_extra(net, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match=r"pip install 'anabranch\[onnxruntime\]'"):
        pack(net, tmp_path / "a", **GIVEN, **BOTH, formats=["openvino"])


@pytest.mark.parametrize(
    ("formats", "precisions", "message"),
    [
        (["onnx"], ["bf16"], "onnx files are not computed in 'bf16', but in f32, int8"),
        (["openvino"], ["int4"], "openvino files are not computed in 'int4', but in f32, bf16, int8"),
        (["openvino"], [], "no precision was asked for; there are f32, bf16, int8"),
    ],
)
def test_a_precision_that_no_engine_of_the_formats_computes_in_is_refused(net, tmp_path, formats, precisions, message):
    with pytest.raises(UsageError, match=message):
        pack(net, tmp_path / "a", **GIVEN, formats=formats, precisions=precisions)


def test_an_artefact_that_is_there_is_refused_before_any_work(net, tmp_path):
    (tmp_path / "card.json").write_text(json.dumps({}))
    with pytest.raises(ArtefactError, match="already holds an artefact"):
        pack(net, tmp_path, **GIVEN)


def test_labels_that_are_not_as_many_as_the_classes_are_refused(net, tmp_path):
    with pytest.raises(UsageError, match="2 labels for a net of 5 classes"):
        pack(net, tmp_path / "a", **{**GIVEN, "labels": ["a", "b"]})


def test_an_unknown_format_is_answered_with_the_choices(net, tmp_path):
    with pytest.raises(UsageError, match="'onxx'; the nearest is onnx"):
        pack(net, tmp_path / "a", **GIVEN, formats=["onxx"])


def test_a_net_with_a_value_that_is_not_finite_is_refused(net, tmp_path):
    net.head.weight.data[0, 0] = float("nan")
    with pytest.raises(ExportError, match=r"head\.weight holds a value that is not finite"):
        pack(net, tmp_path / "a", **GIVEN)


def test_a_net_in_half_precision_is_refused(net, tmp_path):
    with pytest.raises(ExportError, match=r"is float16 on cpu.*net\.float\(\)\.cpu\(\)"):
        pack(net.half(), tmp_path / "a", **GIVEN)


def test_a_net_for_other_than_three_channels_is_refused(tmp_path):
    with pytest.raises(ExportError, match="takes 1 channels"):
        pack(build(Arch(depths=(1,)), num_classes=5, in_channels=1), tmp_path / "a", **GIVEN)


def test_the_synthetic_pictures_are_the_same_everywhere_and_cover_the_range():
    pictures = synthetic_pictures(16)
    assert (pictures.shape, pictures.dtype) == ((8, 16, 16, 3), np.uint8)
    assert (pictures[:4].min(), pictures[:4].max()) == (0, 255)
    assert pictures[0, 0, 0].tolist() == [95, 130, 194]
    assert all(np.ptp(picture) > 0 for picture in pictures)


def test_f16_is_refused_where_no_openvino_file_is_asked_for(net, tmp_path):
    with pytest.raises(UsageError, match="'f16' is for OpenVINO's files; ask for the format openvino too"):
        pack(net, tmp_path / "a", **GIVEN, formats=["onnx"], stored="f16")


def test_a_disk_without_room_is_said_before_any_work(net, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(ExportError, match="has room for 1,000 bytes, and [0-9,]+ are wanted; make room"):
        pack(net, tmp_path / "a", **GIVEN)
    assert list(tmp_path.iterdir()) == []


def test_without_onnx_runtime_its_files_are_left_out_and_asked_for_they_are_refused(exported, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    monkeypatch.setattr("anabranch.runtimes.open.find_spec", lambda name: None)
    assert pack(exported, tmp_path / "a", **GIVEN).agreement.keys() == {"openvino"}
    with pytest.raises(MissingExtra, match=r"pip install 'anabranch\[onnxruntime\]'"):
        pack(exported, tmp_path / "b", **GIVEN, formats=["onnx"])
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("tensorrt", "tensorrt_rtx", "tensorrt"),
        ("ncnn", "ncnn", "edge"),
        ("mnn", "MNN", "edge"),
        ("executorch", "executorch", "executorch"),
        ("litert", "ai_edge_litert", "litert"),
    ],
)
def test_a_format_whose_engine_is_absent_says_how_to_install_it(net, tmp_path, monkeypatch, name, module, extra):
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed, wherever this runs
    with pytest.raises(MissingExtra, match=rf"this needs {module}, .* pip install 'anabranch\[{extra}\]'"):
        pack(net, tmp_path / "out", formats=[name], **GIVEN)
    assert not (tmp_path / "out").exists()
