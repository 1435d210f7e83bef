from __future__ import annotations

import io
import os
import re
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from anabranch.errors import ImageError
from anabranch.images.decode import decode
from odd_jpegs import in_scans, upright_411


def as_pillow_reads(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def jpeg(pixels: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file.getvalue()


# ---- Every odd picture has its answer ------------------------------------------------------------------------------


def test_every_readable_picture_of_the_corpus_gives_its_pixels(corpus):
    wrong = []
    for name, odd in corpus.items():
        if odd.pixels is not None:
            pixels = decode(odd.data, name=name)
            if pixels.dtype != np.uint8 or not np.array_equal(pixels, odd.pixels):
                wrong.append(name)
    assert wrong == []


def test_every_other_file_of_the_corpus_is_refused_in_one_sentence_that_names_it(corpus):
    refused = {name: odd for name, odd in corpus.items() if odd.refusal is not None}
    assert len(refused) > 40
    for name, odd in refused.items():
        with pytest.raises(ImageError) as caught:
            decode(odd.data, name=name)
        message = str(caught.value)
        assert message.startswith(f"{name}: ")
        assert "\n" not in message
        assert len(message) < 200
        assert "0x" not in message  # no object of Python's shines through
        assert re.search(odd.refusal, message)


def test_the_corpus_is_read_from_files_as_from_bytes(corpus, tmp_path):
    for name, odd in corpus.items():
        path = tmp_path / name
        path.write_bytes(odd.data)
        if odd.pixels is None:
            with pytest.raises(ImageError, match=re.escape(str(path))):
                decode(path)
        else:
            np.testing.assert_array_equal(decode(path), odd.pixels)


def test_no_picture_of_the_corpus_takes_300_mb(corpus, tmp_path, peak_mb):
    for name, odd in corpus.items():
        (tmp_path / name).write_bytes(odd.data)
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from anabranch.errors import ImageError\n"
        "from anabranch.images.decode import decode\n"
        "for path in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    try:\n"
        "        decode(path)\n"
        "    except ImageError:\n"
        "        pass\n"
    )
    assert peak_mb(script, tmp_path) < 100


LARGEST = {  # a picture just inside each limit, in the costliest form known
    "baseline.jpg": ("RGB", (7071, 7071), "JPEG", {"subsampling": 0}),
    "progressive.jpg": ("RGB", (5000, 5000), "JPEG", {"subsampling": 0, "progressive": True}),
    "scans.jpg": ("RGB", (5000, 5000), "JPEG", {"one_for_each": True}),
    "cmyk-progressive.jpg": ("CMYK", (3872, 3872), "JPEG", {"progressive": True}),
    "rgba.png": ("RGBA", (5000, 5000), "PNG", {"compress_level": 1}),
    "raw.tif": ("RGB", (5000, 5000), "TIFF", {}),
    "rgba.webp": ("RGBA", (3872, 3872), "WEBP", {"lossless": True, "quality": 0, "method": 0}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LARGEST))
def test_the_largest_picture_of_each_kind_takes_less_than_300_mb(name, tmp_path, peak_mb):
    mode, size, form, options = LARGEST[name]
    path = tmp_path / name
    if options.get("one_for_each"):
        path.write_bytes(in_scans(np.zeros((*size, 3), np.uint8)))
    else:
        Image.new(mode, size).save(path, form, **options)
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from anabranch.images.decode import decode\n"
        f"assert decode(Path(sys.argv[1])).shape == {(size[1], size[0], 3)}\n"
    )
    assert peak_mb(script, path) < 300


# ---- Plain JPEG is bit-exact to Pillow -----------------------------------------------------------------------------


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411", "Gray"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 9), (8, 16), (17, 33), (120, 75), (1, 40), (40, 1)])
@pytest.mark.parametrize("quality", [30, 95])
def test_every_subsampling_and_odd_size_gives_pillows_pixels(make_photo, subsampling, height, width, quality):
    pixels = make_photo(height, width)
    pixels = pixels[:, :, :1] if subsampling == "Gray" else pixels
    space = "GRAY" if subsampling == "Gray" else "RGB"
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, space, subsampling)
    np.testing.assert_array_equal(decode(data), as_pillow_reads(data))


def test_a_subsampling_without_a_name_gives_pillows_pixels(make_photo):
    data = upright_411(make_photo(8, 32))
    with pytest.raises(KeyError):
        simplejpeg.decode_jpeg_header(data)
    np.testing.assert_array_equal(decode(data), as_pillow_reads(data))


def test_a_scan_for_each_component_gives_pillows_pixels(make_photo):
    data = in_scans(make_photo(20, 30))
    np.testing.assert_array_equal(decode(data), as_pillow_reads(data))


def test_plain_jpegs_do_not_go_through_pillow(monkeypatch, make_photo):
    for options in ({}, {"progressive": True}, {"subsampling": 0}):
        data = jpeg(make_photo(20, 30), **options)
        expected = as_pillow_reads(data)
        with monkeypatch.context() as patch:
            patch.setattr("PIL.JpegImagePlugin.JpegImageFile.__init__", None)
            np.testing.assert_array_equal(decode(data), expected)


@settings(max_examples=300, deadline=None)
@given(place=st.integers(2, 10_000), byte=st.integers(0, 255), progressive=st.booleans())
def test_a_damaged_jpeg_gives_pillows_pixels_or_an_image_error(place, byte, progressive):
    pixels = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    data = bytearray(jpeg(pixels, progressive=progressive))
    data[place % len(data)] = byte
    try:
        decoded = decode(bytes(data))
    except ImageError:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(decoded, as_pillow_reads(bytes(data)))


# ---- Whatever the bytes, the answer is a picture or an ImageError --------------------------------------------------

SIGNATURES = [
    b"",
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"RIFF\x40\0\0\0WEBPVP8 ",
]


@settings(max_examples=300, deadline=None)
@given(signature=st.sampled_from(SIGNATURES), rest=st.binary(max_size=300))
def test_random_bytes_are_refused_with_an_image_error(signature, rest):
    try:
        picture = decode(signature + rest)
    except ImageError:
        return
    assert picture.ndim == 3


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_a_mutated_file_is_a_picture_or_an_image_error(corpus, data):
    name = data.draw(st.sampled_from(sorted(name for name, odd in corpus.items() if odd.data)))
    mutant = bytearray(corpus[name].data)
    for _ in range(data.draw(st.integers(1, 4))):
        mutant[data.draw(st.integers(0, min(len(mutant), 400) - 1))] = data.draw(st.integers(0, 255))
    keep = data.draw(st.sampled_from([len(mutant), len(mutant) - 1, len(mutant) // 2]))
    try:
        picture = decode(bytes(mutant[:keep]), rotate_exif=data.draw(st.booleans()), max_pixels=1_000_000)
    except ImageError:
        return
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3


# ---- Rules in particular -------------------------------------------------------------------------------------------


def test_16_bit_grey_is_the_high_byte_as_opencv_reads_it():
    import cv2

    values = np.array([[0, 1, 127, 128, 255, 256, 257, 32767, 32768, 65279, 65280, 65535]], np.uint16)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    theirs = cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decode(file.getvalue()), theirs)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_exif_turns_a_picture_only_when_asked(make_photo, orientation, form):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(make_photo(20, 31)).save(file, form, exif=exif)
    with Image.open(file) as image:
        upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(decode(file.getvalue(), rotate_exif=True), upright)
    np.testing.assert_array_equal(decode(file.getvalue()), as_pillow_reads(file.getvalue()))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_exif_does_not_know_turns_nothing(make_photo, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(make_photo(20, 31), exif=exif)
    np.testing.assert_array_equal(decode(data, rotate_exif=True), as_pillow_reads(data))


def test_a_turned_tiff_is_turned_once(corpus):
    odd = corpus["turned.tif"]
    np.testing.assert_array_equal(decode(odd.data, rotate_exif=True), odd.pixels)


def test_the_limit_on_pixels_is_the_callers(make_photo):
    data = jpeg(make_photo(20, 30))
    assert decode(data, max_pixels=600).shape == (20, 30, 3)
    with pytest.raises(ImageError, match="30 x 20 pixels are too many: at most 599 are decoded in a baseline JPEG"):
        decode(data, max_pixels=599)


@pytest.mark.parametrize("kind", ["progressive", "multi-scan"])
def test_costlier_forms_have_lower_limits(make_photo, kind):
    pixels = make_photo(20, 30)
    data = in_scans(pixels) if kind == "multi-scan" else jpeg(pixels, progressive=True)
    assert decode(data, max_pixels=1200).shape == (20, 30, 3)
    with pytest.raises(ImageError, match=f"at most 599 are decoded in a {kind} JPEG"):
        decode(data, max_pixels=1199)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize(
    ("size", "at_least", "factor"),
    [((600, 401), 200, 2), ((600, 399), 200, 1), ((817, 1003), 100, 8), ((817, 799), 200, 2), ((817, 800), 200, 4)],
)
def test_a_large_jpeg_is_decoded_smaller_where_asked(make_photo, subsampling, size, at_least, factor):
    data = jpeg(make_photo(*size), quality=90, subsampling=subsampling)
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (size[1] // factor, size[0] // factor))
        image.load()
        np.testing.assert_array_equal(decode(data, at_least_px=at_least), np.asarray(image))
        assert decode(data, at_least_px=at_least).shape == (-(-size[0] // factor), -(-size[1] // factor), 3)


def test_a_file_that_is_no_file_is_refused_by_name(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(ImageError, match=r"folder\.jpg: this is a folder"):
        decode(tmp_path / "folder.jpg")
    with pytest.raises(ImageError, match=r"absent\.jpg: no such file"):
        decode(tmp_path / "absent.jpg")
    with pytest.raises(ImageError, match="cannot be read"):
        decode(Path("a\0b.jpg"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused_by_name(tmp_path):
    path = tmp_path / "secret.jpg"
    path.touch(0)
    with pytest.raises(ImageError, match=r"secret\.jpg: cannot be read: Permission denied"):
        decode(path)


def test_a_file_too_large_for_a_picture_is_not_read_whole(tmp_path):
    path = tmp_path / "disk.jpg"
    with path.open("wb") as file:
        file.truncate(10**12)  # sparse
    with pytest.raises(ImageError, match=r"disk\.jpg: more than 80,000,000 bytes"):
        decode(path)


def test_a_picture_may_come_through_a_pipe(tmp_path, corpus):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(corpus["420.jpg"].data))
    writer.start()
    np.testing.assert_array_equal(decode(pipe), corpus["420.jpg"].pixels)
    writer.join()


def test_bytes_without_a_name_are_called_bytes():
    with pytest.raises(ImageError, match=r"^<bytes>: the file is empty"):
        decode(b"")


def test_pillows_warnings_stay_inside_and_the_filters_come_back(corpus):
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        for name in ("palette-translucent.png", "animated.png", "bomb.png", "turned.tif"):
            try:
                decode(corpus[name].data, rotate_exif=True)
            except ImageError:
                continue
    assert heard == []
    assert warnings.filters == before


def test_many_threads_decode_the_same_pixels(corpus):
    names = [name for name, odd in corpus.items() if odd.pixels is not None]
    failed = []

    def work() -> None:
        failed.extend(name for name in names if not np.array_equal(decode(corpus[name].data), corpus[name].pixels))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
