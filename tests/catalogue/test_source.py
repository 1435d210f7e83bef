from __future__ import annotations

from pathlib import Path

import pytest

from anabranch.catalogue import index as shipped
from anabranch.catalogue.source import read, text, write
from anabranch.errors import CatalogueError

DOCUMENTS = '[paper]\npublisher = "X"\ntitle = "a paper"\n'
GOOD = """
publisher = "X"
dialect = "timm"
licence = "Apache-2.0"
input = {crop_px = 224, resize_px = 256}
[architectures]
plain50 = "resnet50"
[[weights]]
name = "resnet50.x_in1k"
aliases = ["X50"]
urls = ["https://x.org/files/resnet50-0123abcd.pth", "hf:x/resnet50.x_in1k"]
sha256 = "0123abcd"
claims = [{document = "paper", printed = "X50", input_px = 224, top1 = 76.1}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "documents.toml").write_text(DOCUMENTS)
    (tmp_path / "x.toml").write_text(GOOD)
    return tmp_path


def test_the_shipped_index_is_what_the_toml_files_say() -> None:
    assert shipped.INDEX.read_text(encoding="utf-8") == text(read()), "stale: run 'python -m anabranch.catalogue'"


def test_a_written_index_reads_back_as_what_was_read(folder: Path, monkeypatch) -> None:
    found = read(folder)
    write(found, folder / "index.json")
    monkeypatch.setattr(shipped, "INDEX", folder / "index.json")
    assert shipped.index.__wrapped__() == found


def test_what_the_files_say_is_read(folder: Path) -> None:
    [entry] = read(folder).weights
    assert (entry.architecture, entry.tag, entry.publisher) == ("resnet50", "x_in1k", "X")
    assert entry.claims[0].top1 == 76.1
    assert entry.urls[1] == "hf:x/resnet50.x_in1k"
    assert read(folder).architectures == {"plain50": "resnet50"}


def test_what_a_row_says_goes_before_what_its_file_says(folder: Path) -> None:
    own = 'licence = "CC-BY-NC-4.0"\ninput = {crop_px = 320, resize_px = 365, resampler = "pillow-bicubic"}\n'
    (folder / "x.toml").write_text(f'{GOOD}[[weights]]\nname = "resnet50.other"\n{own}')
    first, second = read(folder).weights
    assert (first.licence, first.dialect, first.input.resize_px) == ("Apache-2.0", "timm", 256)
    assert (second.licence, second.dialect, second.input.resize_px) == ("CC-BY-NC-4.0", "timm", 365)


@pytest.mark.parametrize(
    ("good", "bad", "told"),
    [
        ("top1 = 76.1", "top_1 = 76.1", "x.toml: 0.claims.0.top_1: "),
        ("top1 = 76.1", 'top1 = "76.1"', "x.toml: 0.claims.0.top1: .*'76.1'"),
        ("input_px = 224, ", "", "x.toml: 0.claims.0.input_px: "),
        ('publisher = "X"', "", "x.toml: 0.publisher: "),
        ('licence = "Apache-2.0"', "", "x.toml: 0.licence: Field required"),
        ('licence = "Apache-2.0"', 'licence = "Apache 2"', "x.toml: 0.licence: .*CC-BY-NC-4.0.*, met 'Apache 2'"),
        ('dialect = "timm"', 'dialect = "torchvision"', "x.toml: 0.dialect: .*'legacy'.*, met 'torchvision'"),
        ("resize_px = 256", "resize = 256", "x.toml: 0.input.resize"),
        ("resize_px = 256", 'resize_px = 256, resampler = "bilinear"', "x.toml: 0.input.resampler: .*'bilinear'"),
        ("resize_px = 256", "resize_px = 256, mean = [0.5, 0.5]", "x.toml: 0.input.mean"),
        (
            "https://x.org",
            "http://x.org",
            "resnet50.x_in1k: 'http://x.org/.*' is neither an https address of a file nor",
        ),
        ("https://x.org", "https://me:secret@x.org", "is neither an https address"),
        ('abcd.pth"', 'abcd.pth?a=b"', "is neither an https address"),
        (
            "hf:x/resnet50.x_in1k",
            "hf:resnet50",
            "'hf:resnet50' is neither an https address of a file nor hf:owner/name",
        ),
        ('"0123abcd"', '"0123ABCD"', "sha256 = '0123ABCD' must be 8 to 64 lower-case hexadecimal digits"),
        ('"0123abcd"', '"0123abc"', "sha256 = '0123abc' must be"),
        ('"0123abcd"', '"0123abcg"', "sha256 = '0123abcg' must be"),
        ('"0123abcd"', '"0123abce"', "sha256 = '0123abce', but the file's own name says '0123abcd'"),
        ('"https://x.org/files/resnet50-0123abcd.pth", ', "", "sha256 is of a file at an https address"),
        ('sha256 = "0123abcd"', 'md5 = "0123abcd"', "x.toml: 0.md5: "),
        ('"paper", printed', '"papre", printed', "x.toml: resnet50.x_in1k: documents.toml has no 'papre'"),
        ('printed = "X50"', 'printed = "Y50"', "'Y50', printed by paper, is neither an alias nor a homonym"),
        ('"resnet50.x_in1k"', '"resnet51.x_in1k"', "x.toml: weights 'resnet51.x_in1k' .* resnet50"),
        ('"resnet50.x_in1k"', '"resnet50"', "x.toml: weights 'resnet50' must be called architecture.tag"),
        ('aliases = ["X50"]', 'aliases = ["X50", "resnet101"]', "'resnet101' means both"),
        ('aliases = ["X50"]', 'aliases = ["X50", "plain50"]', "'plain50' means both"),
        ('aliases = ["X50"]', 'aliases = ["X50"]\nhomonyms = ["Z"]', "'Z' is called a homonym"),
        ('plain50 = "resnet50"', 'plain50 = "resnet5"', "'plain50' stands for 'resnet5', which is no architecture"),
        ("[[weights]]", "[[wieghts]]", "x.toml: there are no tables called wieghts"),
        ("[[weights]]", "[[weights]", "x.toml is not readable TOML"),
    ],
)
def test_a_mistake_is_told_with_its_file_and_value(folder: Path, good: str, bad: str, told: str) -> None:
    assert good in GOOD
    (folder / "x.toml").write_text(GOOD.replace(good, bad, 1))
    with pytest.raises(CatalogueError, match=told):
        read(folder)


def test_a_name_of_two_publishers_is_refused(folder: Path) -> None:
    head = GOOD.partition("[architectures]")[0].replace('"X"', '"Y"')
    (folder / "y.toml").write_text(f'{head}[[weights]]\nname = "resnet18.y"\naliases = ["X50"]\n')
    with pytest.raises(CatalogueError, match="'X50' means both 'resnet18.y' and 'resnet50.x_in1k'"):
        read(folder)
