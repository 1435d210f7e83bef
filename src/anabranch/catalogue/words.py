"""An architecture and a file of weights in words: what each field and each quirk means."""

from __future__ import annotations

from anabranch.arch import Arch, Quirk
from anabranch.catalogue.facts import HUB, Input, Weights

QUIRKS = {
    Quirk.HALVED_REDUCE: "the 1x1 that enters a block is half as wide as its 3x3 (SENet-154)",
    Quirk.STRIDE_IN_REDUCE: "the stride sits in the 1x1 that enters a block, not in the 3x3 (Caffe)",
    Quirk.UNPADDED_STEM_POOL: "the stem's max-pool pads nothing and rounds its size up (Caffe)",
    Quirk.RELU_BEFORE_SQUEEZE: "a block applies ReLU before its squeeze (Cadene's SE-ResNet-18 and -34)",
    Quirk.SQUEEZE_IN_EIGHTS: "the squeeze's width is rounded to a multiple of 8, at least 8 (timm, mmpretrain)",
    Quirk.SPLITS_RESET_ON_STRIDE: "splits stay apart in striding blocks only, not in stage 1's first (PaddleClas)",
    Quirk.MEAN_SKIPS_PADDING: "the mean pool over the last split does not count padding (PaddleClas)",
    Quirk.PROJECTED_FIRST_SHORTCUT: "stage 1's first shortcut projects though widths agree (PaddleClas)",
}


def described(arch: Arch) -> list[tuple[str, str]]:
    """Field and what it says, in the order in which a picture meets them."""
    return [
        ("stem", _stem(arch)),
        ("stages", _stages(arch)),
        ("block", _block(arch)),
        ("squeeze", f"and excitation, by {arch.squeeze}" if arch.squeeze else "none"),
        ("shortcut", _shortcut(arch)),
        *(("quirk", QUIRKS[quirk]) for quirk in Quirk if quirk in arch.quirks),
    ]


def _stem(arch: Arch) -> str:
    kernel = 7 if len(arch.stem) == 1 and arch.stem_stride == 4 else 3
    convolutions = ", ".join(f"{kernel}x{kernel} to {width}" for width in arch.stem)
    return f"{convolutions}; the picture whole" if arch.stem_stride == 1 else f"{convolutions}; stride 2; max-pool 3x3"


def _stages(arch: Arch) -> str:
    blocks = ", ".join(map(str, arch.depths))
    channels = ", ".join(str(arch.channels(stage)) for stage in range(len(arch.depths)))
    return f"of {blocks} blocks, {channels} channels"


def _block(arch: Arch) -> str:
    if arch.block == "basic":
        return "basic: two 3x3 convolutions"
    widths = ", ".join(str(arch.branch_width(stage)) for stage in range(len(arch.depths)))
    groups = f" in {arch.groups} groups" if arch.groups > 1 else ""
    if arch.block == "res2":
        return f"1x1, {arch.splits} splits each of {widths} channels with 3x3{groups} in a chain, 1x1"
    return f"1x1, 3x3 of {widths} channels{groups}, 1x1"


def _shortcut(arch: Arch) -> str:
    return {
        "conv": "1x1 convolution where shapes differ, strided",
        "pool": "1x1 convolution where shapes differ, after a 2x2 mean where it strides",
        "conv3x3": "convolution where shapes differ, 3x3 where it strides",
    }[arch.shortcut]


DIALECTS = {
    "timm": "as timm, torchvision and the Res2Net authors name them",
    "legacy": "as Cadene and timm's legacy nets name them",
    "mmpretrain": "as mmpretrain names them",
    "paddleclas": "as PaddleClas names them",
}


def described_file(weights: Weights) -> list[tuple[str, str]]:
    """Label and what it says of where weights lie and how they are used, addresses in the order of their trial."""
    licence = f"{weights.licence}, which forbids commercial use" if weights.non_commercial else weights.licence
    return [
        *(("address", url) if at == 0 else ("or", url) for at, url in enumerate(weights.urls)),
        ("sha256", _hash(weights)),
        ("licence", licence),
        ("input", _input(weights.input)),
        *([("tested at", _input(weights.test_input))] if weights.test_input else []),
        ("colours", _colours(weights.input)),
        ("tensors", DIALECTS[weights.dialect]),
    ]


def file_name(weights: Weights) -> str:
    """Of the file at the first address; nothing where none is published."""
    return "" if not weights.urls else weights.urls[0].removeprefix(HUB).rsplit("/", 1)[-1]


def _hash(weights: Weights) -> str:
    if weights.sha256 is None:
        return "not published"
    of = " (of the file that is not on the hub)" if any(url.startswith(HUB) for url in weights.urls) else ""
    return weights.sha256 + ("" if len(weights.sha256) == 64 else "...") + of


def _input(wanted: Input) -> str:
    sides = "both sides" if wanted.fit == "squash" else "shorter side"
    how = f"{wanted.resampler}, rounded as by {wanted.rounding}"
    return f"{wanted.crop_px} px: {sides} to {wanted.resize_px} px ({how}), then the centre"


def _colours(wanted: Input) -> str:
    mean, std = (", ".join(map(str, colour)) for colour in (wanted.mean, wanted.std))
    return f"red, green and blue in 0..1, less {mean}, over {std}"
