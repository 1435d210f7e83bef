from __future__ import annotations

import pickle
import pickletools
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from anabranch.checkpoints.convert import convert
from anabranch.errors import CheckpointError, UnknownName, UsageError, WeightsMismatch
from anabranch.images.preprocess import Preprocess
from anabranch.nets.load import About, Trained, load_trained, save_trained


def same(met, wanted) -> None:
    assert met.keys() == wanted.keys()
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(np.asarray(met[name]), np.asarray(tensor))


def test_a_timm_file_becomes_an_mmpretrain_file(tmp_path, saved, spelled):
    done = convert(saved("resnet18d", "timm"), tmp_path / "mm.pth", to="mmpretrain")
    assert (done.dialect, done.num_tensors) == ("mmpretrain", len(spelled("resnet18d", "timm")))
    same(torch.load(tmp_path / "mm.pth"), spelled("resnet18d", "mmpretrain"))


def test_a_paddle_file_becomes_one_again(tmp_path, saved, spelled):
    convert(saved("seresnet18d_paddle", "paddleclas"), tmp_path / "again.pdparams", to="paddleclas")
    written = (tmp_path / "again.pdparams").read_bytes()
    same(pickle.loads(written), spelled("seresnet18d_paddle", "paddleclas"))
    modules = {said for _, said, _ in pickletools.genops(written) if isinstance(said, str) and "numpy" in said}
    assert modules == {"numpy", "numpy.core.multiarray"}  # NumPy 1, which PaddleClas pins, has no numpy._core


def test_a_safetensors_file_is_one_that_torchs_friends_read(tmp_path, saved, spelled):
    convert(saved("resnet18", "timm"), tmp_path / "out.safetensors", to="torchvision")
    same(load_file(tmp_path / "out.safetensors"), spelled("resnet18", "timm"))


def test_a_net_that_the_other_zoo_computes_differently_is_not_converted(tmp_path, saved):
    with pytest.raises(WeightsMismatch, match="timm does not compute seresnet18d_paddle"):
        convert(saved("seresnet18d_paddle", "paddleclas"), tmp_path / "out.pth", to="timm")
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize(
    ("out", "to", "reason"),
    [
        ("out.pdparams", "timm", "read by Paddle"),
        ("out.onnx", "timm", "files end in .safetensors, .pth"),
        ("out.pth", "anabranch", "own checkpoints are .safetensors"),
    ],
)
def test_a_kind_of_file_that_does_not_go_with_the_dialect_is_refused(tmp_path, saved, out, to, reason):
    with pytest.raises(UsageError, match=reason):
        convert(saved("resnet18", "timm"), tmp_path / out, to=to)


def test_what_is_there_is_not_written_over(tmp_path, saved):
    source = saved("resnet18", "timm")
    (tmp_path / "there.pth").write_bytes(b"mine")
    with pytest.raises(UsageError, match="is there already.*--overwrite"):
        convert(source, tmp_path / "there.pth", to="timm")
    assert (tmp_path / "there.pth").read_bytes() == b"mine"
    with pytest.raises(UsageError, match="is the file that is to be converted; choose another place"):
        convert(source, source, to="timm", overwrite=True)


def test_a_failed_conversion_leaves_nothing_behind(tmp_path):
    (tmp_path / "broken.pth").write_bytes(b"PK\x03\x04 nothing more")
    with pytest.raises(CheckpointError):
        convert(tmp_path / "broken.pth", tmp_path / "out.pth", to="timm")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.pth"]


def test_our_own_file_gets_the_input_and_the_classes_of_the_weights_it_is_like(tmp_path, saved):
    source = saved("resnet18", "timm")
    with pytest.raises(UsageError, match="no published weights have its hash"):
        convert(source, tmp_path / "ours.safetensors", to="anabranch")
    convert(source, tmp_path / "ours.safetensors", to="anabranch", like="resnet18.gluon_in1k")
    trained = load_trained(tmp_path / "ours.safetensors")
    assert (trained.about.name, trained.about.licence, trained.about.preprocess.resampler) == (
        "resnet18.gluon_in1k", "Apache-2.0", "pillow-bicubic")  # fmt: skip
    assert trained.about.class_names[0] == "tench"


@pytest.fixture
def own(tmp_path, small_net):
    trained = Trained(
        small_net("seresnet18d_paddle"),
        About(
            name="mine",
            licence="CC0-1.0",
            class_names=tuple(f"class {index}" for index in range(1000)),
            preprocess=Preprocess(crop_px=32, resize_px=32),
        ),
    )
    save_trained(tmp_path / "mine.safetensors", trained)
    return tmp_path / "mine.safetensors"


def test_a_file_of_ours_becomes_another_zoos_whole(tmp_path, own, spelled):
    convert(own, tmp_path / "out.pdparams", to="paddleclas")
    same(pickle.loads((tmp_path / "out.pdparams").read_bytes()), spelled("seresnet18d_paddle", "paddleclas"))


def test_a_paddle_file_is_written_a_tensor_at_a_time(tmp_path, own, spelled):
    tracemalloc.start()
    try:
        convert(own, tmp_path / "out.pdparams", to="paddleclas")
        held_bytes = tracemalloc.get_traced_memory()[1]  # by Python: torch's own memory is not among it
    finally:
        tracemalloc.stop()
    assert held_bytes < sum(tensor.nbytes for tensor in spelled("seresnet18d_paddle", "paddleclas").values()) / 2


@pytest.mark.parametrize("asked", [{"architecture": "resnet18d"}, {"architecture": "resnet34"}, {"told": "paddleclas"}])
def test_a_file_of_ours_loses_nothing_by_being_called_something_else(tmp_path, own, asked):
    with pytest.raises(WeightsMismatch, match="is seresnet18d_paddle as anabranch spells it, and .* was asked for"):
        convert(own, tmp_path / "out.pth", to="timm", **asked)


def test_our_own_names_are_not_expected_of_another_zoos_file(tmp_path, saved):
    with pytest.raises(WeightsMismatch, match="does not fit resnet18 as anabranch spells it"):
        convert(saved("resnet18", "timm"), tmp_path / "out.pth", to="timm", told="anabranch", architecture="resnet18")


@pytest.mark.parametrize(
    ("asked", "error", "told"),
    [
        ({"ema": True}, CheckpointError, "holds no averaged weights"),
        ({"architecture": "resnet34"}, WeightsMismatch, "and resnet34 was asked for"),
        ({"told": "mmpretrain"}, WeightsMismatch, "as mmpretrain spells it"),
    ],
)
def test_what_is_asked_of_the_source_is_asked_for_a_file_of_ours_too(tmp_path, saved, asked, error, told):
    with pytest.raises(error, match=told):
        convert(
            saved("resnet18", "timm"), tmp_path / "o.safetensors", to="anabranch", like="resnet18.gluon_in1k", **asked
        )


def test_what_a_file_is_like_goes_into_a_file_of_ours_alone(tmp_path, saved):
    with pytest.raises(UsageError, match="what goes into an anabranch file"):
        convert(saved("resnet18", "timm"), tmp_path / "out.pth", to="timm", like="resnet18.gluon_in1k")


def test_an_unknown_dialect_is_answered_with_all_and_ours_among_them(tmp_path, saved):
    with pytest.raises(UnknownName, match="There are timm, .*, paddleclas, anabranch"):
        convert(saved("resnet18", "timm"), tmp_path / "out.pth", to="torchvison")


def test_tensors_in_one_anothers_memory_are_written_each_by_itself(tmp_path, spelled):
    tied = spelled("resnet18", "timm")
    tied["layer1.0.bn1.bias"] = tied["layer1.0.bn2.bias"] = tied["layer1.1.bn2.bias"]
    torch.save(tied, tmp_path / "tied.pth")
    convert(tmp_path / "tied.pth", tmp_path / "out.safetensors", to="timm")
    same(load_file(tmp_path / "out.safetensors"), tied)


def test_of_a_tensor_that_is_part_of_a_large_one_only_that_part_is_written(tmp_path, spelled):
    wanted = spelled("resnet18", "timm")
    large = torch.zeros(5_000_000)
    large[: 64 * 3 * 7 * 7] = wanted["conv1.weight"].reshape(-1)
    part = large[: 64 * 3 * 7 * 7].view(64, 3, 7, 7)
    torch.save({**wanted, "conv1.weight": part}, tmp_path / "parts.pth")
    convert(tmp_path / "parts.pth", tmp_path / "out.pth", to="timm")
    same(torch.load(tmp_path / "out.pth"), wanted)
    assert (tmp_path / "out.pth").stat().st_size < 1.01 * sum(tensor.nbytes for tensor in wanted.values())


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("no/such/out.pth", "there is no folder .*/no/such; make it first"),
        ("taken.pth", "is a folder; give the name of a file"),
        (300 * "n" + ".pth", "File name too long"),
        ("a\0b.pth", "null byte"),
    ],
)
def test_a_place_that_cannot_be_written_to_is_refused_before_anything_is_read(tmp_path, out, reason):
    (tmp_path / "taken.pth").mkdir()
    with pytest.raises(UsageError, match=reason):
        convert(tmp_path / "nowhere.pth", tmp_path / out, to="timm", overwrite=True)


def test_a_source_that_is_not_there_is_told_though_the_place_is_taken(tmp_path):
    (tmp_path / "out.pth").write_bytes(b"mine")
    with pytest.raises(CheckpointError, match=r"nowhere\.pth: cannot be read \(No such file"):
        convert(tmp_path / "nowhere.pth", tmp_path / "out.pth", to="timm", overwrite=True)


@pytest.mark.parametrize("out", ["out.pth", "out.safetensors", "out.pdparams"])
def test_a_disk_that_is_full_is_an_error_and_leaves_nothing_behind(tmp_path, saved, out):
    name, to = ("seresnet18d_paddle", "paddleclas") if out.endswith("pdparams") else ("resnet18", "timm")
    source = saved(name, to)
    (tmp_path / "to").mkdir()
    command = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from anabranch.checkpoints.convert import convert; from anabranch.errors import CheckpointError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "try: convert(Path(sys.argv[1]), Path(sys.argv[2]), to=sys.argv[3])\n"
        "except CheckpointError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", command, source, tmp_path / "to" / out, to], capture_output=True, text=True
    )
    assert f"{out}: cannot be written (" in done.stdout, done.stderr
    assert list((tmp_path / "to").iterdir()) == []
