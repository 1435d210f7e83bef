from __future__ import annotations

import copy
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from anabranch.arch import Arch
from anabranch.catalogue.classes import imagenet_1k
from anabranch.errors import DatasetError, RecipeError
from anabranch.images.preprocess import Preprocess
from anabranch.nets.load import About, Trained, save_trained
from anabranch.nets.net import build
from anabranch.runtimes.openvino import offered_precisions
from anabranch.train.distil import NetTeacher, distilled, open_teacher
from anabranch.train.losses import js, kl
from anabranch.train.tables import Augment, Data, Distil, Input, Optimise, Recipe, Source

CLASSES = ("ant", "bee", "cat", "dög", "eel")  # those of the packed net
OWN = Preprocess(crop_px=33, resize_px=40, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3))  # and its input
CPU = torch.device("cpu")
CPU_HAS_BF16 = "bf16" in offered_precisions()


def recipe(
    teacher: Path,
    *,
    crop_px: int = 33,
    mean: tuple[float, float, float] = OWN.mean,
    std: tuple[float, float, float] = OWN.std,
    sides: tuple[tuple[int, int], ...] = (),
    **distil,
) -> Recipe:
    nowhere = Source(path="nowhere")
    return Recipe(
        name="student",
        expect="nothing",
        arch="resnext50_32x4d",
        data=Data(train=nowhere, test=nowhere),
        input=Input(crop_px=crop_px, resize_px=40, mean=mean, std=std),
        augment=Augment(side_px=sides),
        optimise=Optimise(epochs=1, batch=4, lr=0.1),
        distil=Distil(teacher=str(teacher), **distil),
    )


def normalised(levels: np.ndarray, mean, std) -> torch.Tensor:
    """(n, S, S, 3) of 0..255 -> (n, 3, S, S), by plain arithmetic."""
    return torch.from_numpy(((levels / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32))


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (4, 33, 33, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def checkpoint(packed, tmp_path_factory) -> Path:
    """The packed net as training would have written it."""
    path = tmp_path_factory.mktemp("teacher") / "model.safetensors"
    trained = Trained(packed.net, About(name="tiny", licence="CC0-1.0", class_names=CLASSES, preprocess=OWN))
    save_trained(path, trained)
    return path


def test_a_net_answers_about_the_students_pictures_normalised_its_own_way(packed, checkpoint, pixels) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    teacher = open_teacher(recipe(checkpoint, mean=mean, std=std), CLASSES, CPU)
    with torch.no_grad():
        wanted = packed.net(normalised(pixels, OWN.mean, OWN.std))
    met = teacher.logits(normalised(pixels, mean, std))
    torch.testing.assert_close(met, wanted, rtol=0, atol=1e-4)


def test_a_net_of_the_students_own_input_answers_to_the_bit_and_at_any_side(packed, checkpoint) -> None:
    teacher = open_teacher(recipe(checkpoint, sides=((0, 20),)), CLASSES, CPU)
    x = torch.randn(3, 3, 20, 20, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(teacher.logits(x), packed.net(x), rtol=0, atol=0)


def test_an_artefact_answers_as_the_net_that_it_was_made_of(packed, pixels) -> None:
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    teacher = open_teacher(recipe(packed.folder, mean=mean, std=std), CLASSES, CPU)
    with torch.no_grad():
        wanted = packed.net(normalised(pixels, OWN.mean, OWN.std))
    torch.testing.assert_close(teacher.logits(normalised(pixels, mean, std)), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_artefact_answers_on_the_engine_that_is_named(packed, tmp_path, pixels, engine) -> None:
    """Where the artefact has the files of no other."""
    folder = shutil.copytree(packed.folder, tmp_path / "artefact")
    card = json.loads((folder / "card.json").read_text())
    kind = {"onnxruntime": "onnx"}.get(engine, engine)
    card["graphs"] = {kind: card["graphs"][kind]}
    (folder / "card.json").write_text(json.dumps(card))
    teacher = open_teacher(recipe(folder, engine=engine), CLASSES, CPU)
    with torch.no_grad():
        wanted = packed.net(normalised(pixels, OWN.mean, OWN.std))
    torch.testing.assert_close(teacher.logits(normalised(pixels, OWN.mean, OWN.std)), wanted, rtol=0, atol=1e-4)
    assert len(teacher.sha256()) == 64


@pytest.mark.skipif(not CPU_HAS_BF16, reason="this processor computes no bf16")
def test_an_artefact_that_answers_in_another_precision_is_another_teacher(packed, pixels) -> None:
    exact, rough = (open_teacher(recipe(packed.folder, precision=each), CLASSES, CPU) for each in ("f32", "bf16"))
    x = normalised(pixels, OWN.mean, OWN.std)
    assert not torch.equal(exact.logits(x), rough.logits(x))
    assert exact.sha256() != rough.sha256()


def test_a_checkpoint_has_no_engine(checkpoint) -> None:
    with pytest.raises(RecipeError, match="belong to an artefact's folder"):
        open_teacher(recipe(checkpoint, engine="onnxruntime"), CLASSES, CPU)


def test_an_artefact_is_shown_the_nearest_grey_level_and_nothing_beyond_black_and_white(packed, pixels) -> None:
    teacher = open_teacher(recipe(packed.folder), CLASSES, CPU)
    nudged = np.where(pixels < 128, pixels - 0.4, pixels + 0.4)  # -0.4 and 255.4 among them
    nudged[0, 0, 0], nudged[0, 0, 1] = -30, 300
    pixels[0, 0, 0], pixels[0, 0, 1] = 0, 255
    wanted = teacher.logits(normalised(pixels, OWN.mean, OWN.std))
    torch.testing.assert_close(teacher.logits(normalised(nudged, OWN.mean, OWN.std)), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["net", "artefact"])
def test_classes_in_another_order_are_answered_in_the_students(packed, checkpoint, pixels, kind) -> None:
    made = recipe(checkpoint if kind == "net" else packed.folder)
    x = normalised(pixels, OWN.mean, OWN.std)
    plain = open_teacher(made, CLASSES, CPU).logits(x)
    turned = open_teacher(made, ("eel", "ant", "dög", "bee", "cat"), CPU).logits(x)
    torch.testing.assert_close(turned, plain[:, [4, 0, 3, 1, 2]], rtol=0, atol=0)


def test_norms_of_the_batch_see_the_batch_and_leave_their_statistics_and_dropout_alone(shake, pixels) -> None:
    spec = Arch(depths=(1, 1), width=8, stem=(8,), squeeze=4)
    net = shake(build(spec, num_classes=3, dropout=0.5, drop_path=0.5))
    reference = copy.deepcopy(net)
    for part in reference.modules():
        part.train(isinstance(part, nn.BatchNorm2d))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    teacher = NetTeacher(net, np.arange(3), student=OWN, own=OWN, batch_norms=True)
    x = normalised(pixels, OWN.mean, OWN.std)
    met = teacher.logits(x)
    with torch.no_grad():
        torch.testing.assert_close(met, reference(x), rtol=0, atol=1e-5)
        assert not torch.allclose(met, reference.eval()(x), atol=1e-2)
    torch.testing.assert_close(teacher.logits(x), met, rtol=0, atol=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_the_teacher_learns_nothing_and_the_student_does(checkpoint, shake, pixels) -> None:
    teacher = open_teacher(recipe(checkpoint), CLASSES, CPU)
    student = shake(build(Arch(depths=(1,), width=8, stem=(8,)), num_classes=5))
    x = normalised(pixels, OWN.mean, OWN.std)
    answers = teacher.logits(x)
    assert not answers.requires_grad
    distilled(student(x), answers, None, Distil(teacher="")).backward()
    assert student.head.weight.grad.abs().max() > 0


def test_the_loss_is_the_asked_share_of_each_part() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 4, generator=generator)
    labels = torch.tensor(7.0)
    soft = Distil(teacher="", loss="kl", temperature=3.0)
    assert distilled(student, teacher, None, soft) == kl(student, teacher, 3.0)
    assert distilled(student, teacher, None, Distil(teacher="")) == js(student, teacher)
    mixed = distilled(student, teacher, labels, Distil(teacher="", labels=0.25))
    assert mixed.item() == pytest.approx(0.75 * js(student, teacher).item() + 0.25 * 7)


def test_a_student_that_answers_as_its_teacher_has_nothing_to_lower() -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    for loss in ("js", "kl"):
        apart = distilled(logits + 2, logits, None, Distil(teacher="", loss=loss))  # softmax does not see the 2
        assert apart.item() == pytest.approx(0, abs=1e-6)


def test_a_checkpoint_is_where_the_name_leads(checkpoint, packed, pixels) -> None:
    asked = []

    def locate(name: str) -> tuple[Path, None]:
        asked.append(name)
        return checkpoint, None

    teacher = open_teacher(recipe(Path("tiny.published")), CLASSES, CPU, locate=locate)
    assert asked == ["tiny.published"]
    x = normalised(pixels, OWN.mean, OWN.std)
    with torch.no_grad():
        torch.testing.assert_close(teacher.logits(x), packed.net(x), rtol=0, atol=0)


def test_wordnet_ids_are_as_good_as_imagenets_words(packed, tmp_path) -> None:
    ids, words = zip(*imagenet_1k()[:5], strict=True)
    path = tmp_path / "model.safetensors"
    save_trained(path, Trained(packed.net, About(name="tiny", licence="CC0-1.0", class_names=words, preprocess=OWN)))
    x = torch.zeros(1, 3, 33, 33)
    with torch.no_grad():
        torch.testing.assert_close(open_teacher(recipe(path), ids, CPU).logits(x), packed.net(x), rtol=0, atol=0)


def test_a_net_has_the_hash_of_its_weights_wherever_they_lie(packed, checkpoint, tmp_path) -> None:
    moved, changed = tmp_path / "moved.safetensors", tmp_path / "changed.safetensors"
    shutil.copy(checkpoint, moved)
    net = copy.deepcopy(packed.net)
    with torch.no_grad():
        net.head.bias[0] += 1
    save_trained(changed, Trained(net, About(name="tiny", licence="CC0-1.0", class_names=CLASSES, preprocess=OWN)))
    first, same, other = (open_teacher(recipe(path), CLASSES, CPU).sha256() for path in (checkpoint, moved, changed))
    assert first == same != other


def test_an_artefact_has_the_hash_of_its_files_and_of_the_order_of_its_classes(packed, tmp_path) -> None:
    shutil.copytree(packed.folder, tmp_path / "moved")
    shutil.copytree(packed.folder, tmp_path / "changed")
    card = json.loads((tmp_path / "changed/card.json").read_text())
    xml = tmp_path / "changed/f32.xml"
    xml.write_bytes(xml.read_bytes() + b"\n")
    [file] = [graph["files"][xml.name] for graph in card["graphs"]["openvino"].values() if xml.name in graph["files"]]
    file |= {"bytes": xml.stat().st_size, "sha256": hashlib.sha256(xml.read_bytes()).hexdigest()}
    (tmp_path / "changed/card.json").write_text(json.dumps(card))
    first, same, other = (
        open_teacher(recipe(folder), CLASSES, CPU).sha256()
        for folder in (packed.folder, tmp_path / "moved", tmp_path / "changed")
    )
    assert first == same != other
    assert open_teacher(recipe(packed.folder), CLASSES[::-1], CPU).sha256() != first


@pytest.mark.parametrize(
    ("class_names", "told"),
    [
        (("ant", "bee"), r"knows 5 classes and 2 are to be learnt"),
        (("ant", "bee", "cat", "dog", "eel"), r"does not know 'dog'"),
        (("ant", "bee", "cat", "cat", "eel"), r"occur twice"),
    ],
)
def test_a_teacher_of_other_classes_is_refused(checkpoint, class_names, told) -> None:
    with pytest.raises(DatasetError, match=told):
        open_teacher(recipe(checkpoint), class_names, CPU)


def test_an_artefact_has_no_norms_to_see_the_batch(packed) -> None:
    with pytest.raises(RecipeError, match=r"norms of an artefact are folded.*give a checkpoint"):
        open_teacher(recipe(packed.folder, teacher_norms="batch"), CLASSES, CPU)


def test_an_artefact_of_another_side_is_refused_before_the_run(packed) -> None:
    with pytest.raises(RecipeError, match=r"takes pictures of 33 px and the student is shown 32 px"):
        open_teacher(recipe(packed.folder, crop_px=32), CLASSES, CPU)
    with pytest.raises(RecipeError, match=r"the student is shown 24 px"):
        open_teacher(recipe(packed.folder, sides=((0, 24), (5, 33))), CLASSES, CPU)


def test_an_artefact_refuses_a_batch_of_another_side(packed) -> None:
    teacher = open_teacher(recipe(packed.folder), CLASSES, CPU)
    with pytest.raises(RecipeError, match=r"33 px.*24 px"):
        teacher.logits(torch.zeros(2, 3, 24, 24))
