"""Which of the publishers' nets are which of ours, and which are none of ours and why."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from anabranch.arch import ARCHITECTURES, Arch, basic, bottleneck, d, t

TOLERANCE = 1e-4  # of the largest logit
SIZES_PX = ((224, 224), (201, 239))  # (height, width): the usual one, and one that no stride divides


def size_name(size_px: tuple[int, int]) -> str:
    return f"{size_px[0]}x{size_px[1]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    peer: str  # whose code
    model: str  # its name there
    ours: str | Arch  # a name of the table, or a spec that has none
    dialect: str
    large: bool  # above 100 million parameters

    @property
    def arch(self) -> Arch:
        return ARCHITECTURES[self.ours] if isinstance(self.ours, str) else self.ours

    @property
    def called(self) -> str:
        """For a table of a document."""
        return f"`{self.ours}`" if isinstance(self.ours, str) else "a spec without a name"

    def __str__(self) -> str:
        return f"{self.peer}-{self.model}"


# Weights called ssld belong to the class of the same name, Fix_ResNeXt101_32x48d_wsl to ResNeXt101_32x48d_wsl.
PADDLECLAS = {
    "ResNet18": "resnet18_paddle",
    "ResNet34": "resnet34_paddle",
    "ResNet50": "resnet50",
    "ResNet101": "resnet101",
    "ResNet152": "resnet152",
    "ResNet50_vc": "resnet50c",
    "ResNet18_vd": "resnet18d_paddle",
    "ResNet34_vd": "resnet34d_paddle",
    "ResNet50_vd": "resnet50d",
    "ResNet101_vd": "resnet101d",
    "ResNet152_vd": "resnet152d",
    "ResNet200_vd": "resnet200d_paddle",
    "ResNeXt50_32x4d": "resnext50_32x4d",
    "ResNeXt50_64x4d": "resnext50_64x4d",
    "ResNeXt101_32x4d": "resnext101_32x4d",
    "ResNeXt101_64x4d": "resnext101_64x4d",
    "ResNeXt152_32x4d": "resnext152_32x4d",
    "ResNeXt152_64x4d": "resnext152_64x4d",
    "ResNeXt50_vd_32x4d": "resnext50d_32x4d",
    "ResNeXt50_vd_64x4d": "resnext50d_64x4d",
    "ResNeXt101_vd_32x4d": "resnext101d_32x4d",
    "ResNeXt101_vd_64x4d": "resnext101d_64x4d",
    "ResNeXt152_vd_32x4d": "resnext152d_32x4d",
    "ResNeXt152_vd_64x4d": "resnext152d_64x4d",
    "ResNeXt101_32x8d_wsl": "resnext101_32x8d",
    "ResNeXt101_32x16d_wsl": "resnext101_32x16d",
    "ResNeXt101_32x32d_wsl": "resnext101_32x32d",
    "ResNeXt101_32x48d_wsl": "resnext101_32x48d",
    "SE_ResNet18_vd": "seresnet18d_paddle",
    "SE_ResNet34_vd": "seresnet34d_paddle",
    "SE_ResNet50_vd": "seresnet50d",
    "SE_ResNeXt50_32x4d": "seresnext50_32x4d",
    "SE_ResNeXt101_32x4d": "seresnext101_32x4d",
    "SE_ResNeXt50_vd_32x4d": "seresnext50e_32x4d",
    "SENet154_vd": "seresnext152e_64x4d",
    "Res2Net50_26w_4s": "res2net50_26w_4s_paddle",
    "Res2Net50_14w_8s": "res2net50_14w_8s_paddle",
    "Res2Net50_vd_26w_4s": "res2net50d_26w_4s_paddle",
    "Res2Net101_vd_26w_4s": "res2net101d_26w_4s_paddle",
    "Res2Net200_vd_26w_4s": "res2net200d_26w_4s_paddle",
}
_TIMM_RESNETS = "resnet18 resnet34 resnet50 resnet101 resnet152 resnet50c resnet101c resnet152c resnet50s resnet101s "
_TIMM_RESNETS += "resnet152s resnet18d resnet34d resnet50d resnet101d resnet152d resnet200d resnext50_32x4d "
_TIMM_RESNETS += "resnext50d_32x4d resnext101_32x4d resnext101_64x4d resnext101_32x8d resnext101_32x16d "
_TIMM_RESNETS += "resnext101_32x32d seresnet18 seresnet34 seresnet50 seresnet50t seresnet101 seresnet152 seresnet152d "
_TIMM_RESNETS += "seresnet200d seresnet269d seresnext26d_32x4d seresnext26t_32x4d seresnext50_32x4d "
_TIMM_RESNETS += "seresnext101_32x4d seresnext101_64x4d seresnext101_32x8d seresnext101d_32x8d senet154"
_TIMM_RES2NETS = "res2net50_26w_4s res2net50_48w_2s res2net50_14w_8s res2net50_26w_6s res2net50_26w_8s "
_TIMM_RES2NETS += "res2net101_26w_4s"
_ONES = (1, 1, 1, 1)
TIMM: dict[str, str | Arch] = {
    **{name: name for name in _TIMM_RESNETS.split()},
    "resnet10t": t(replace(basic(18), depths=_ONES)),
    "resnet14t": t(replace(bottleneck(50), depths=_ONES)),
    "resnet26": bottleneck(26),
    "resnet26d": d(bottleneck(26)),
    "resnet26t": t(bottleneck(26)),
    "resnet50t": t(bottleneck(50)),
    "resnet200": bottleneck(200),
    "senet154(layers=[1, 1, 1, 1])": replace(ARCHITECTURES["senet154"], depths=_ONES),  # small enough for every run
    "wide_resnet50_2": bottleneck(50, group_width=128),
    "wide_resnet101_2": bottleneck(101, group_width=128),
    **{name: name for name in _TIMM_RES2NETS.split()},
    "res2net50d": "res2net50d_26w_4s",
    "res2net101d": "res2net101d_26w_4s",
    "res2next50": "res2next50_4w_4s_8c",
}
# Res2Net's authors and Cadene, who ported SENet, publish no package: timm's ports of both stand in for them.
LEGACY = {
    name: name
    for name in (
        "legacy_seresnet18",
        "legacy_seresnet34",
        "legacy_seresnet50",
        "legacy_seresnet101",
        "legacy_seresnet152",
        "legacy_seresnext26_32x4d",
        "legacy_seresnext50_32x4d",
        "legacy_seresnext101_32x4d",
        "legacy_senet154",
    )
}
TORCHVISION: dict[str, str | Arch] = {
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50",
    "resnet101": "resnet101",
    "resnet152": "resnet152",
    "resnext50_32x4d": "resnext50_32x4d",
    "resnext101_32x8d": "resnext101_32x8d",
    "resnext101_64x4d": "resnext101_64x4d",
    "wide_resnet50_2": TIMM["wide_resnet50_2"],
    "wide_resnet101_2": TIMM["wide_resnet101_2"],
    "ResNet(groups=32, width_per_group=48)": "resnext101_32x48d",
}
MMPRETRAIN = {
    "resnet18_8xb32_in1k": "resnet18",
    "resnet34_8xb32_in1k": "resnet34",
    "resnet50_8xb32_in1k": "resnet50",
    "resnet101_8xb32_in1k": "resnet101",
    "resnet152_8xb32_in1k": "resnet152",
    "resnetv1c50_8xb32_in1k": "resnet50c",
    "resnetv1c101_8xb32_in1k": "resnet101c",
    "resnetv1c152_8xb32_in1k": "resnet152c",
    "resnetv1d50_8xb32_in1k": "resnet50d",
    "resnetv1d101_8xb32_in1k": "resnet101d",
    "resnetv1d152_8xb32_in1k": "resnet152d",
    "resnext50-32x4d_8xb32_in1k": "resnext50_32x4d",
    "resnext101-32x4d_8xb32_in1k": "resnext101_32x4d",
    "resnext101-32x8d_8xb32_in1k": "resnext101_32x8d",
    "resnext152-32x4d_8xb32_in1k": "resnext152_32x4d",
    "seresnet50_8xb32_in1k": "seresnet50",
    "seresnet101_8xb32_in1k": "seresnet101",
    "seresnext50-32x4d_8xb32_in1k": "seresnext50_32x4d",
    "seresnext101-32x4d_8xb32_in1k": "seresnext101_32x4d",
    "res2net50-w14-s8_3rdparty_8xb32_in1k": "res2net50_14w_8s",
    "res2net50-w26-s8_3rdparty_8xb32_in1k": "res2net50_26w_8s",
    "res2net101-w26-s4_3rdparty_8xb32_in1k": "res2net101_26w_4s",
    "Res2Net(depth=50)": "res2net50d_26w_4s",
}
LARGE = {
    "ResNeXt152_64x4d",
    "ResNeXt152_vd_64x4d",
    "ResNeXt101_32x16d_wsl",
    "ResNeXt101_32x32d_wsl",
    "ResNeXt101_32x48d_wsl",
    "SENet154_vd",
    "resnext101_32x16d",
    "resnext101_32x32d",
    "seresnet269d",
    "senet154",
    "legacy_senet154",
    "wide_resnet101_2",
    "ResNet(groups=32, width_per_group=48)",
}


def _rows(peer: str, dialect: str, nets: Mapping[str, str | Arch]) -> tuple[Row, ...]:
    return tuple(
        Row(peer=peer, model=model, ours=ours, dialect=dialect, large=model in LARGE) for model, ours in nets.items()
    )


ROWS = (
    *_rows("paddleclas", "paddleclas", PADDLECLAS),
    *_rows("timm", "timm", TIMM),
    *_rows("timm", "legacy", LEGACY),
    *_rows("torchvision", "timm", TORCHVISION),
    *_rows("mmpretrain", "mmpretrain", MMPRETRAIN),
)

# Names of a publisher's that belong to this family, as a pattern, and those of them that no row has: pattern -> why
FAMILY = {
    "paddleclas": r"(SE_)?ResNe(X)?t\d.*|Res2Net.*|SENet.*",
    "timm": r".*",
    "torchvision": r"(wide_)?resne.*|ResNet.*",
    "mmpretrain": r"(se)?resne(x)?t(v1\w)?\d+[-_].*|[rR]es2[nN]et.*",
}
LEFT_OUT = {
    "paddleclas": {
        r"ResNet50_last_stage_stride1": "a last stage that does not stride",
        r"ResNet50_adaptive_max_pool2d": "a maximum in place of the mean before the head",
        r"ResNet50_metabin": "batch norm and instance norm, mixed",
        r"SE_ResNeXt152_64x4d": "no weights; a wide deep stem before plain shortcuts, and nobody prints a figure of it",
    },
    "timm": {
        r"eca.*": "efficient channel attention",
        r".*resne(x)?taa.*": "anti-aliased strides",
        r"resnetblur.*": "blurred strides",
        r"resnetrs.*": "a stem that strides without pooling",
        r"resnet50_gn": "group norm",
        r"test_resnet": "stages that do not double",
    },
    "torchvision": {},
    "mmpretrain": {
        r".*_cifar100?": "a stem for small pictures before four stages",
        r"resnet50_8xb256-rsb-.*|resnet50_8xb32-fp16_in1k|resnet50_.*-pre_.*": "resnet50_8xb32_in1k, trained otherwise",
        r"resnet50_8xb8_cub": "the same with 200 classes",
        r"resnet101-csra_.*|resnet50-arcface_.*": "another head",
    },
}


def reason(peer: str, name: str) -> str | None:
    """Why a name of this family has no row; None where there is no reason."""
    return next((why for pattern, why in LEFT_OUT[peer].items() if re.fullmatch(pattern, name)), None)


def switched_off(arch: Arch) -> Iterator[tuple[str, Arch]]:
    """The net without one of the things that its tensors' shapes may not show, each in its turn."""
    for quirk in sorted(arch.quirks, key=lambda quirk: quirk.name):
        yield quirk.name.lower(), replace(arch, quirks=arch.quirks - {quirk})
    if arch.shortcut == "pool":
        yield "pooled shortcut", replace(arch, shortcut="conv")
