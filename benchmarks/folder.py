"""What is left of an engine's own speed when pictures must be read, decoded and resized first.

    python benchmarks/folder.py [ROUNDS] [RESULTS.jsonl]

`anabranch classify FOLDER --csv -` and the predictor in C++, whole processes, on 2,000 JPEGs, against the same engine
on pixels that lie ready in memory, asked by as many callers as it has streams: every two seconds a command is stopped,
and the engine answers alone, so that both meet the same machine. Two folders: 500 x 375 pixels alone, and with one in
twenty of 12 megapixels. Beside it one photo from a cold start, the compiled graph kept. ResNeXt-50 with random weights,
in f32 and INT8; in INT8 on the second folder also `--scaled-decode`, and how far its pixels, as the engine gets them,
are from the exact ones of the large photos. Medians and ranges over the rounds are printed and recorded, and the
commands' peak memory. Wants Linux and what examples/cpp/README.md installs.
"""

from __future__ import annotations

import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from openvino.utils import get_cmake_path
from PIL import Image
from random_net import export

from anabranch.images.decode import decode
from anabranch.images.preprocess import Preprocess
from anabranch.record import record
from anabranch.runtimes.open import many_streams, open_model

ROOT = Path(__file__).parents[1]
COUNT = 2000
COLD_STARTS = 5  # a round
LARGE_EACH = 20  # one of so many is large
DISTINCT = 8  # large ones, which others are links to
SMALL_PX, LARGE_PX = (500, 375), (4000, 3000)
PRECISIONS = ("f32", "int8")
SCALED = "--scaled-decode"
BATCH = 8  # as the command batches them
SLICE_S = 2.0  # of a command and of the engine, in turn


def photo(seed: int, size: tuple[int, int]) -> Image.Image:
    """Smooth shapes and a grain, which a JPEG at quality 90 holds in about two bits a pixel."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = rng.normal(0, 6, (size[1], size[0], 1))
    return Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8))


def write_photos(folder: Path) -> dict[str, Path]:
    mixed, small = folder / "mixed", folder / "small"
    mixed.mkdir()
    small.mkdir()
    large = [folder / f"large-{number}.jpg" for number in range(DISTINCT)]
    for number, path in enumerate(large):
        photo(number, LARGE_PX).save(path, quality=90)
    for number in range(COUNT):
        path = small / f"{number:04}.jpg"
        photo(1000 + number, SMALL_PX).save(path, quality=90)
        os.link(large[number % DISTINCT] if number % LARGE_EACH == 0 else path, mixed / path.name)
    return {"500 x 375": small, "500 x 375, one in 20 of 12 megapixels": mixed}


def scaled_levels(folder: Path) -> dict[str, float]:
    """Grey levels between the pixels that the engine gets of large photos with and without scaled decoding."""
    preprocess = Preprocess(crop_px=224, resize_px=256)
    apart = []
    for path in folder.glob("large-*.jpg"):
        smaller = preprocess(decode(path, at_least_px=2 * preprocess.resize_px))
        apart.append(np.abs(preprocess(decode(path)).astype(int) - smaller))
    return {"mean": round(float(np.mean(apart)), 3), "max": int(np.max(apart))}


class Alone:
    """The engine on pixels that are ready, asked by as many callers as it has streams."""

    def __init__(self, artefact: Path, precision: str):
        self._predictor = open_model(artefact, precision=precision, streams=many_streams("openvino"))
        self._pixels = np.random.default_rng(0).integers(0, 256, (BATCH, 224, 224, 3), dtype=np.uint8)
        self.slice()  # warms up

    def slice(self) -> float:
        """Pictures a second. Each caller counts its own time, so that none is counted as waiting for the last one."""
        streams = self._predictor.streams
        with ThreadPoolExecutor(streams) as callers:
            return sum(callers.map(self._calls, range(streams)))

    def _calls(self, _: int) -> float:
        start, batches = perf_counter(), 0
        while (passed := perf_counter() - start) < SLICE_S or not batches:
            self._predictor.predict(self._pixels)
            batches += 1
        return batches * BATCH / passed


def predictor_in_cpp(folder: Path) -> Path:
    """Built by the compiler at hand."""
    settings = [f"-DOpenVINO_DIR={get_cmake_path()}", "-DCMAKE_BUILD_TYPE=Release"]
    subprocess.run(
        ["cmake", "-S", str(ROOT / "examples/cpp"), "-B", str(folder), *settings], stdout=subprocess.DEVNULL, check=True
    )
    subprocess.run(["cmake", "--build", str(folder)], stdout=subprocess.DEVNULL, check=True)
    return folder / "predict"


def timed(words: Sequence[str], out: Path) -> float:
    """Seconds of the whole process."""
    with out.open("wb") as file:
        start = perf_counter()
        subprocess.run(words, stdout=file, check=True)
        return perf_counter() - start


def beside(words: Sequence[str], out: Path, alone: Alone) -> dict[str, float]:
    """Pictures a second of a command that answers for a whole folder, and of the engine alone in between.

    And the command's peak memory in MB, as it was when it was stopped last.
    """
    seconds = peak_mb = 0.0
    rates = []
    with out.open("wb") as file:
        process = subprocess.Popen(words, stdout=file)
        ending = os.pidfd_open(process.pid)
        while True:
            start = perf_counter()
            ended, _, _ = select.select([ending], [], [], SLICE_S)
            process.send_signal(signal.SIGSTOP)
            seconds += perf_counter() - start
            if ended:
                break
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
            peak_mb = next(int(line.split()[1]) / 1000 for line in status.splitlines() if line.startswith("VmHWM"))
            rates.append(alone.slice())
            process.send_signal(signal.SIGCONT)
        os.close(ending)
    assert process.wait() == 0
    assert len(out.read_text().splitlines()) == COUNT + 1
    return {"per_s": COUNT / seconds, "engine_alone_per_s": statistics.mean(rates), "peak_mb": peak_mb}


def spread(values: list[float], digits: int) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    cold: dict[tuple[str, str], list[float]] = {}
    met: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        folders, artefact, cpp = write_photos(place), place / "artefact", predictor_in_cpp(place / "cpp")
        export("resnext50_32x4d", artefact, formats=["openvino"], precisions=PRECISIONS)
        out = place / "out"
        one = next(folders["500 x 375"].iterdir())
        python = [sys.executable, "-m", "anabranch", "classify", "-m", str(artefact)]
        commands = {"Python": python, "C++": [str(cpp), str(artefact)], SCALED: [*python, SCALED]}
        levels = scaled_levels(place)
        for _ in range(rounds):
            for precision in PRECISIONS:
                alone = Alone(artefact, precision)
                for language, command in commands.items():
                    if language == SCALED and precision != "int8":
                        continue  # there the engine takes most of the time
                    words = [*command, "--precision", precision]
                    if language != SCALED:
                        timed([*words, str(one)], out)  # keeps the compiled graph
                        cold.setdefault((precision, language), []).extend(
                            timed([*words, str(one)], out) for _ in range(COLD_STARTS)
                        )
                    for pictures, photos in list(folders.items())[language == SCALED :]:
                        csv = [] if language == "C++" else ["--csv", "-"]
                        told = beside([*words, str(photos), *csv], out, alone)
                        met.setdefault((precision, language, pictures), []).append(told)
                        print(
                            f"{precision}, {language}, {pictures}: {told['per_s']:.1f}/s of "
                            f"{told['engine_alone_per_s']:.1f}/s, {told['peak_mb']:.0f} MB",
                            flush=True,
                        )
    figures: list[dict[str, Any]] = []
    for (precision, language, pictures), each in met.items():
        share = statistics.median(told["per_s"] / told["engine_alone_per_s"] for told in each)
        figures.append(
            {
                "precision": precision,
                "predictor": language,
                "pictures": pictures,
                "per_s": spread([told["per_s"] for told in each], 1),
                "engine_alone_per_s": spread([told["engine_alone_per_s"] for told in each], 1),
                "share": round(share, 3),
                "peak_mb": round(max(told["peak_mb"] for told in each)),
                "cold_start_s": spread(cold[precision, language], 3) if language != SCALED else None,
            }
        )
        print(f"{precision}, {language}, {pictures}: {share:.0%} of the engine alone; {figures[-1]['cold_start_s']}")
    print(f"{SCALED}: {levels['mean']} grey levels apart in the mean, {levels['max']} at most")
    if len(sys.argv) > 2:
        recorded = {"rounds": rounds, "count": COUNT, "figures": figures, "scaled_levels": levels}
        record(Path(sys.argv[2]), {"what": "folder", **recorded})


if __name__ == "__main__":
    main()
