from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from anabranch.arch import Arch, arch
from anabranch.checkpoints.load import load
from anabranch.errors import CheckpointError, UsageError, WeightsMismatch
from anabranch.images.preprocess import Preprocess
from anabranch.nets.load import About, Trained, save_trained
from anabranch.nets.net import build

PICTURES = torch.randn(2, 3, 65, 71, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "told"),
    [("resnet18", "timm"), ("resnet18d", "mmpretrain"), ("legacy_seresnet18", "legacy"),
     ("seresnet18d_paddle", "paddleclas")],
)  # fmt: skip
@torch.inference_mode()
def test_a_loaded_net_answers_as_the_one_that_was_saved(name, told, saved, small_net):
    torch.testing.assert_close(load(saved(name, told))(PICTURES), small_net(name)(PICTURES), rtol=0, atol=0)


def test_another_number_of_classes_is_refused_unless_the_head_is_dropped(saved):
    with pytest.raises(UsageError, match="knows 1000 classes, not 5; .* drop the head"):
        load(saved("resnet18", "timm"), num_classes=5)


@torch.inference_mode()
def test_with_the_head_dropped_all_but_the_classifier_is_the_files(saved, small_net):
    net = load(saved("resnet18", "timm"), num_classes=5, head="drop")
    assert net(PICTURES).shape == (2, 5)
    torch.testing.assert_close(net.embed(PICTURES), small_net("resnet18").embed(PICTURES), rtol=0, atol=0)


def test_a_file_of_another_net_than_was_asked_for_is_refused(saved):
    with pytest.raises(WeightsMismatch, match="does not fit resnet34 as timm spells it: .* missing"):
        load(saved("resnet18", "timm"), architecture="resnet34")


def test_a_dialect_that_was_asked_for_is_held_to(saved):
    with pytest.raises(WeightsMismatch, match="as mmpretrain spells it"):
        load(saved("resnet18", "timm"), architecture="resnet18", told="mmpretrain")


def test_a_dialect_that_a_file_is_not_in_is_not_passed_over(saved):
    with pytest.raises(WeightsMismatch, match="is resnet18 as timm spells it, and legacy's spelling was asked for"):
        load(saved("resnet18", "timm"), told="legacy")


def test_an_architecture_may_go_by_any_zoos_name(saved):
    net = load(saved("seresnet18d_paddle", "paddleclas"), architecture="SE_ResNet18_vd")
    assert net.arch == arch("seresnet18d_paddle")


@torch.inference_mode()
def test_half_precision_is_read_into_single(tmp_path, spelled):
    path = tmp_path / "half.pth"
    torch.save({key: tensor.half() if tensor.is_floating_point() else tensor
                for key, tensor in spelled("resnet18", "timm").items()}, path)  # fmt: skip
    assert load(path)(PICTURES).dtype == torch.float32


def test_a_loaded_net_can_be_trained(saved):
    net = load(saved("resnet18", "timm")).train()
    net(PICTURES).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_a_path_may_be_text(saved):
    assert load(str(saved("resnet18", "timm"))).arch == arch("resnet18")


def test_a_net_outlives_its_file(tmp_path, spelled):
    path = tmp_path / "net.pth"
    torch.save(spelled("resnet18", "timm"), path)
    net = load(path)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with path.open("r+b") as file:
        file.truncate(1000)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_our_own_state_dict_is_loaded_whichever_kind_of_file_it_is_in(tmp_path, small_net):
    net = small_net("resnet18")
    torch.save(net.state_dict(), tmp_path / "net.pth")
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    spec = Arch(depths=(1, 1), width=8, stem=(8,), stem_stride=1, squeeze=4)
    torch.save(build(spec, num_classes=2).state_dict(), tmp_path / "mine.pth")
    assert load(tmp_path / "net.pth").arch == load(tmp_path / "net.safetensors").arch == arch("resnet18")
    assert load(tmp_path / "mine.pth", architecture=spec).num_classes == 2


@pytest.fixture
def own(tmp_path):
    """The result of a run: a squeezed net, which another zoo's spelling of the plain one would do half of."""
    spec = Arch(depths=(1, 1), width=8, squeeze=4)
    trained = Trained(
        build(spec, num_classes=2),
        About(
            name="mine", licence="CC0-1.0", class_names=("cat", "dog"), preprocess=Preprocess(crop_px=32, resize_px=32)
        ),
    )
    save_trained(tmp_path / "mine.safetensors", trained)
    return tmp_path / "mine.safetensors"


@pytest.mark.parametrize(
    "asked",
    [{"architecture": Arch(depths=(1, 1), width=8)}, {"architecture": "resnet18"}, {"told": "paddleclas"}],
)
def test_a_file_of_ours_is_what_it_says_and_nothing_else(own, asked):
    assert load(own).arch.squeeze == 4
    with pytest.raises(WeightsMismatch, match=r"is a bottleneck net of depths \[1, 1\] as anabranch spells it, and"):
        load(own, **asked)


def test_a_file_without_a_classifier_is_loaded_where_it_is_to_be_dropped(tmp_path, spelled):
    body = {name: tensor for name, tensor in spelled("resnet18", "timm").items() if not name.startswith("fc.")}
    torch.save(body, tmp_path / "body.pth")
    with pytest.raises(WeightsMismatch, match=r"2 tensors missing \(fc.weight, fc.bias\)"):
        load(tmp_path / "body.pth")
    assert load(tmp_path / "body.pth", head="drop", num_classes=5).num_classes == 5


def test_a_dropped_head_is_said_aloud(saved, caplog):
    load(saved("resnet18", "timm"), head="drop", num_classes=5)
    assert "all but its classifier is loaded; a new one of 5 classes has learnt nothing" in caplog.text


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"head": "dorp"}, "head = 'dorp' is not understood; it is 'keep' or 'drop'"),
        ({"head": "drop", "num_classes": 0}, "num_classes = 0 does not fit"),
        ({"head": "drop", "num_classes": -1}, "num_classes = -1 does not fit"),
        ({"head": "drop"}, "say how many classes"),
    ],
)
def test_a_head_that_is_not_understood_is_refused(saved, asked, told):
    with pytest.raises(UsageError, match=told):
        load(saved("resnet18", "timm"), **asked)


@pytest.mark.parametrize("kind", [torch.int8, torch.int64, torch.bool])
def test_whole_numbers_for_weights_are_refused(tmp_path, spelled, kind):
    torch.save({name: tensor.to(kind) for name, tensor in spelled("resnet18", "timm").items()}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="conv1.conv.weight holds .* and a net has floating-point weights"):
        load(tmp_path / "x.pth")


def test_a_value_beyond_single_precision_is_refused(tmp_path, spelled):
    tensors = spelled("resnet18", "timm")
    torch.save({**tensors, "fc.bias": tensors["fc.bias"].double().fill_(1e300)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="head.bias holds float64 values beyond 3.4e"):
        load(tmp_path / "x.pth")


@pytest.mark.parametrize("change", [torch.Tensor.half, lambda count: count.reshape(1)])
def test_a_count_of_batches_is_one_whole_number_however_it_is_written(tmp_path, spelled, change):
    counted = {name: change(tensor) if name.endswith("tracked") else tensor
               for name, tensor in spelled("resnet18", "timm").items()}  # fmt: skip
    torch.save(counted, tmp_path / "x.pth")
    count = load(tmp_path / "x.pth").state_dict()["stem.conv1.norm.num_batches_tracked"]
    assert (count.dtype, count.shape) == (torch.int64, ())
