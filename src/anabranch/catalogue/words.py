"""An architecture in words: what each field and each quirk means for the net."""

from __future__ import annotations

from anabranch.arch import Arch, Quirk

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
