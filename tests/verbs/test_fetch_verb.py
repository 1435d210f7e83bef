from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import pytest

from anabranch.catalogue.facts import Input, Weights
from anabranch.catalogue.index import Index
from anabranch.fetch import FetchError, Progress
from anabranch.verbs.fetch import _columns

ONE, TWO, LONE, BARE = "resnext50_32x4d.one", "resnext50_32x4d.two", "senet154.lone", "seresnet50.nowhere"


def weights(name: str, licence: str = "Apache-2.0", **facts) -> Weights:
    url = f"https://publisher.invalid/{name}.pth"  # the mirror keeps everybody from asking there
    return Weights(
        name=name,
        publisher="nobody",
        dialect="timm",
        licence=licence,
        input=Input(crop_px=224, resize_px=256),
        urls=(url,),
        **facts,
    )


@pytest.fixture(autouse=True)
def mirror(tmp_path, monkeypatch) -> Path:
    """Four entries in the catalogue, and a mirror that holds the files of three."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    for name in (ONE, TWO, LONE):
        (folder / f"{name}.pth").write_bytes(name.encode())
    published = hashlib.sha256(ONE.encode()).hexdigest()[:8]
    entries = (
        weights(ONE, aliases=("one_of_another_zoo",), sha256=published),
        weights(TWO, licence="CC-BY-NC-4.0"),
        weights(LONE),
        weights(BARE),
    )
    monkeypatch.setattr(
        "anabranch.catalogue.find.index",
        lambda: Index(documents={}, weights=entries, architectures={"SE154": "senet154"}),
    )
    monkeypatch.setenv("ANABRANCH_MIRROR", str(folder))
    monkeypatch.setenv("ANABRANCH_CACHE", str(tmp_path / "cache"))
    return folder


def test_a_person_sees_path_size_and_what_it_was_verified_against(anabranch, tmp_path) -> None:
    done = anabranch("fetch", ONE)
    assert (done.status, done.err) == (0, "")
    name, path, about = done.out.splitlines()
    assert name == ONE
    assert Path(path.strip()) == tmp_path / f"cache/weights/{ONE}/{ONE}.pth"
    assert Path(path.strip()).read_bytes() == ONE.encode()
    assert about.strip().startswith("19 bytes; SHA-256 begins with ")


def test_machines_get_every_fact(anabranch) -> None:
    done = anabranch("fetch", ONE, TWO, "--json")
    first, second = json.loads(done.out)
    assert first["sha256"] == hashlib.sha256(ONE.encode()).hexdigest()
    assert first["size_bytes"] == len(ONE)
    assert Path(first["path"]).is_file()
    assert (first["licence"], first["non_commercial"]) == ("Apache-2.0", False)
    assert (second["licence"], second["non_commercial"]) == ("CC-BY-NC-4.0", True)
    assert second["verified"].startswith("not verified")


def test_any_zoos_name_will_do_and_one_file_is_fetched_once(anabranch) -> None:
    done = anabranch("fetch", "one_of_another_zoo", ONE, "--json")
    assert [row["name"] for row in json.loads(done.out)] == [ONE]


def test_a_licence_that_forbids_commerce_is_said_aloud(anabranch) -> None:
    done = anabranch("fetch", TWO)
    assert done.status == 0
    assert done.err == f"warning: {TWO} is under CC-BY-NC-4.0, which forbids commercial use\n"


def test_a_bare_architecture_would_choose_weights_and_licence_silently(anabranch, tmp_path) -> None:
    done = anabranch("fetch", "resnext50_32x4d", LONE)
    assert done.status == 2
    assert f"{ONE} (Apache-2.0), {TWO} (CC-BY-NC-4.0)" in done.err
    assert not (tmp_path / "cache").exists()


def test_an_architecture_of_one_set_of_weights_means_them_and_says_so(anabranch) -> None:
    done = anabranch("fetch", "SE154")
    assert done.status == 0
    assert LONE in done.err
    assert done.out.startswith(LONE)


def test_an_architecture_without_weights_is_told(anabranch) -> None:
    done = anabranch("fetch", "resnext101_32x4d")
    assert done.status == 2
    assert "no published weights are known" in done.err


def test_an_unknown_name_is_told_with_the_nearest(anabranch, tmp_path) -> None:
    done = anabranch("fetch", ONE, "resnext50_32x4d.onee")
    assert done.status == 2
    assert ONE in done.err
    assert not (tmp_path / "cache").exists()


def test_one_that_cannot_be_had_does_not_keep_the_others(anabranch) -> None:
    done = anabranch("fetch", BARE, ONE)
    assert done.status == 1
    assert done.err.startswith(f"error: {BARE} cannot be had from ")
    assert len(done.err.splitlines()) == 1
    assert done.out.startswith(ONE)
    rows = json.loads(anabranch("fetch", BARE, ONE, "--json").out)
    assert ["error" in row for row in rows] == [True, False]


def test_a_damaged_file_is_found_with_verify(anabranch) -> None:
    path = Path(json.loads(anabranch("fetch", ONE, "--json").out)[0]["path"])
    path.write_bytes(ONE.swapcase().encode())
    assert anabranch("fetch", ONE).status == 0
    assert path.read_bytes() != ONE.encode()
    assert anabranch("fetch", ONE, "--verify").status == 0
    assert path.read_bytes() == ONE.encode()


def test_what_nobody_vouches_for_cannot_be_verified_and_the_others_are(anabranch) -> None:
    assert anabranch("fetch", LONE).status == 0
    done = anabranch("fetch", LONE, ONE, "--verify")
    assert done.status == 1
    assert done.err.startswith(
        f"error: {LONE}: cannot be verified, for the catalogue states no hash; it is as it was kept on "
    )
    assert done.err.endswith(
        f"compare its SHA-256, {hashlib.sha256(LONE.encode()).hexdigest()}, with one that you trust\n"
    )
    assert [line for line in done.out.splitlines() if not line.startswith(" ")] == [LONE, ONE]
    assert "error" not in json.loads(anabranch("fetch", ONE, "--verify", "--json").out)[0]
    [row] = json.loads(anabranch("fetch", LONE, "--verify", "--json").out)
    assert Path(row["path"]).read_bytes() == LONE.encode()
    assert row["error"].startswith("cannot be verified")


def test_another_attempt_is_told_in_a_line(anabranch, monkeypatch) -> None:
    told = "publisher.invalid answers 503; trying again in 0.5 s"

    def retried(weights, *, verify, report):
        report(Progress(doing="retrying", why=told))
        report(Progress(doing="waiting"))
        raise FetchError("in vain")

    monkeypatch.setattr("anabranch.verbs.fetch.fetch", retried)
    again, waiting, error = anabranch("fetch", ONE).err.splitlines()
    assert again == f"{ONE}: {told}"
    assert waiting.startswith(f"{ONE}: waiting for another process")
    assert error == "error: in vain"


def test_a_person_who_watches_sees_a_bar(anabranch, monkeypatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    done = anabranch("fetch", ONE)
    assert done.status == 0
    assert ONE in done.err


def test_the_bar_fits_into_a_line_of_80_characters() -> None:
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(width=80, force_terminal=True, file=io.StringIO())
    bar = Bar(*_columns(), console=console)
    bar.add_task("downloading resnext101_32x48d.fb_wsl_ig1b_ft_in1k", total=3_315_000_000, completed=1_133_900_000)
    [line] = console.render_lines(bar.get_renderable(), pad=False)
    text = "".join(segment.text for segment in line)
    assert text.startswith("downloading resnext101_32x48d.")
    assert "1.1/3.3 GB" in text
