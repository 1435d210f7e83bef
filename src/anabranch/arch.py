"""The whole family on one page: a spec, its accidents of history, and a row for every published network.

A net of this family is a stem, a few stages of residual blocks, a mean and a linear layer. What the papers
changed are a handful of ideas, and these are the fields of `Arch`; what the implementations do differently from
the papers are accidents, and these have names in `Quirk`. A canonical name says what the net is:

    [legacy_|se]resne(x)t  50 d _32x4d         res2net  50 d _26w_4s [_paddle]
                           |  |  cardinality            |     width and scale of the splits
                           |  stem and shortcut         |
                           depth                        depth
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum, auto
from typing import Any, Literal

from anabranch.errors import ArchError, UnknownName, nearest, shown

_WIDEST = 4096  # of what a field may say: far beyond any net, and the widths of five stages still multiply safely
_DEEPEST = 1000  # blocks of a stage


class Quirk(Enum):
    """What one implementation does and the others do not. None of these changes a tensor's name."""

    HALVED_REDUCE = auto()  # the 1x1 entering a block is half as wide: SENet-154
    STRIDE_IN_REDUCE = auto()  # the stride sits in the entering 1x1: Caffe-born SE-ResNet-50/101/152
    UNPADDED_STEM_POOL = auto()  # stem max-pool without padding, ceil mode: the Caffe SENet family
    RELU_BEFORE_SQUEEZE = auto()  # a basic block applies ReLU before its squeeze: legacy SE-ResNet-18/34
    SQUEEZE_IN_EIGHTS = auto()  # the squeeze's width is rounded to a multiple of 8: timm, mmpretrain
    SPLITS_RESET_ON_STRIDE = auto()  # only striding Res2Net blocks keep splits apart: PaddleClas
    MEAN_SKIPS_PADDING = auto()  # Res2Net's mean pool ignores padded pixels: PaddleClas
    PROJECTED_FIRST_SHORTCUT = auto()  # stage 1's first block projects though widths agree: Paddle's SE_ResNet18/34_vd


@dataclass(frozen=True, slots=True, kw_only=True)
class Arch:
    """What a net is, and nothing about how it is trained. Raises ArchError where the numbers do not fit together."""

    depths: tuple[int, ...]  # residual blocks per stage: four for ImageNet nets, three for the papers' CIFAR nets
    block: Literal["basic", "bottleneck", "res2"] = "bottleneck"
    width: int = 64  # planes of stage 1; each stage doubles it
    groups: int = 1  # C of "CxDd": the cardinality
    group_width: int = 64  # D of "CxDd", or w of "26w_4s": width of one group where planes are 64
    splits: int = 1  # s of "26w_4s": the scale
    stem: tuple[int, ...] = (64,)  # one width: a 7x7; three: 3x3s
    stem_stride: int = 4  # 4: strided convolution and pool; 1: a 3x3 that keeps small pictures whole
    shortcut: Literal["conv", "pool", "conv3x3"] = "conv"
    squeeze: int = 0  # reduction of squeeze-and-excitation; 0: none
    quirks: frozenset[Quirk] = frozenset()

    @property
    def expansion(self) -> int:
        """Output channels of a block over its planes."""
        return 1 if self.block == "basic" else 4

    def planes(self, stage: int) -> int:
        return self.width << stage

    def channels(self, stage: int) -> int:
        """Output channels of stage 0, 1, ..."""
        return self.planes(stage) * self.expansion

    def branch_width(self, stage: int) -> int:
        """Channels inside a block of stage 0, 1, ...; in Res2Net, of one split."""
        if self.block == "basic":
            return self.planes(stage)
        return self.planes(stage) * self.group_width // 64 * self.groups

    def squeeze_width(self, channels: int) -> int:
        """Channels between the two layers of a squeeze over `channels` of them."""
        reduced = channels // self.squeeze
        return max(8, (reduced + 4) // 8 * 8) if Quirk.SQUEEZE_IN_EIGHTS in self.quirks else reduced

    def __post_init__(self) -> None:
        self._want(self.block in ("basic", "bottleneck", "res2"), "block", "basic, bottleneck or res2")
        self._want(self.shortcut in ("conv", "pool", "conv3x3"), "shortcut", "conv, pool or conv3x3")
        deep = 1 <= len(self.depths) <= 5 and all(1 <= depth <= _DEEPEST for depth in self.depths)
        self._want(deep, "depths", f"one to five numbers from 1 to {_DEEPEST}")
        for name in ("width", "groups", "group_width"):
            self._want(1 <= getattr(self, name) <= _WIDEST, name, f"from 1 to {_WIDEST}")
        wide = len(self.stem) in (1, 3) and all(1 <= width <= _WIDEST for width in self.stem)
        self._want(wide, "stem", f"one width or three, from 1 to {_WIDEST} each")
        self._want(self.stem_stride in (1, 4), "stem_stride", "1 or 4")
        self._want(self.squeeze >= 0, "squeeze", "0 or a reduction of at least 1")
        self._want(
            2 <= self.splits <= 64 if self.block == "res2" else self.splits == 1,
            "splits",
            "from 2 to 64 in a res2 block, 1 in any other",
        )
        self._want(
            self.block != "basic" or (self.groups, self.group_width) == (1, 64),
            "groups, group_width",
            "1 and 64 in a basic block, which has no groups",
        )
        self._want(self.branch_width(0) >= 1, "group_width", "wide enough to leave a channel in stage 1")
        if self.block == "bottleneck" and Quirk.HALVED_REDUCE in self.quirks:
            halved = self.branch_width(0) // 2
            fits = halved >= 1 and halved % self.groups == 0
            self._want(fits, "groups, group_width", "such that stage 1's branch, halved, parts into the groups")
        self._want(
            self.branch_width(len(self.depths) - 1) * self.splits <= _WIDEST**2,
            "groups, group_width",
            f"so narrow that the last stage's blocks have at most {_WIDEST**2} channels inside",
        )
        self._want(
            self.squeeze == 0 or self.squeeze_width(self.channels(0)) >= 1,
            "squeeze",
            f"at most stage 1's {self.channels(0)} channels",
        )

    def _want(self, holds: bool, field: str, wanted: str) -> None:
        if not holds:
            met = ", ".join(shown(getattr(self, name)) for name in field.split(", "))
            raise ArchError(f"{field} = {met} does not fit: it must be {wanted}")


# ---- Modifiers: each is one idea, laid over any row ----------------------------------------------------------------

_DEPTHS = {
    **dict.fromkeys((18, 26), (2, 2, 2, 2)),
    **dict.fromkeys((34, 50), (3, 4, 6, 3)),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    269: (3, 30, 48, 8),
}


def basic(depth: int) -> Arch:
    """Two 3x3 convolutions a block. Source: He et al. 2015, table 1."""
    return Arch(depths=_DEPTHS[depth], block="basic")


def bottleneck(depth: int, groups: int = 1, group_width: int = 64) -> Arch:
    """1x1, 3x3 in groups, 1x1. Source: He et al. 2015, table 1; Xie et al. 2017, table 1."""
    return Arch(depths=_DEPTHS[depth], groups=groups, group_width=group_width)


def res2(depth: int, group_width: int, splits: int, groups: int = 1) -> Arch:
    """A bottleneck whose 3x3 is a chain over splits. Source: Gao et al. 2019, section 3."""
    return Arch(depths=_DEPTHS[depth], block="res2", group_width=group_width, splits=splits, groups=groups)


def cifar(arch: Arch) -> Arch:
    """Three stages of three blocks over whole 32 px pictures. Source: Xie et al. 2017, section 5.3."""
    return replace(arch, depths=(3, 3, 3), stem_stride=1)


def c(arch: Arch) -> Arch:
    """Three 3x3 in the stem. Source: He et al. 2018 ("bag of tricks"), figure 2."""
    return replace(arch, stem=(32, 32, 64))


def d(arch: Arch) -> Arch:
    """`c`, and shortcuts that pool before they project: Paddle's "vd". Source: He et al. 2018, figure 2."""
    return replace(c(arch), shortcut="pool")


def t(arch: Arch) -> Arch:
    """`d` with a stem that widens step by step: timm's "t" and "tn"."""
    return replace(d(arch), stem=(24, 32, 64))


def s(arch: Arch) -> Arch:
    """A wide deep stem: gluon's "v1s"."""
    return replace(arch, stem=(64, 64, 128))


def e(arch: Arch) -> Arch:
    """`d` with the wide deep stem: gluon's "v1e"."""
    return replace(s(arch), shortcut="pool")


def se(arch: Arch) -> Arch:
    """Squeeze-and-excitation by 16 before each addition. Source: Hu et al. 2018, section 3."""
    return replace(arch, squeeze=16)


def quirky(arch: Arch, *quirks: Quirk) -> Arch:
    return replace(arch, quirks=arch.quirks | set(quirks))


def eights(arch: Arch) -> Arch:
    """Squeeze widths as timm and mmpretrain round them; above 64 channels this changes nothing."""
    return quirky(arch, Quirk.SQUEEZE_IN_EIGHTS)


def caffe(arch: Arch, *quirks: Quirk) -> Arch:
    """As published with the SENet paper and carried on by Cadene's ports."""
    return quirky(arch, Quirk.UNPADDED_STEM_POOL, *quirks)


def senet154(depth: int = 152) -> Arch:
    """Source: Hu et al. 2018, section 6.4, "SENet-154"."""
    return quirky(replace(se(s(bottleneck(depth, 64, 4))), shortcut="conv3x3"), Quirk.HALVED_REDUCE)


def paddle(arch: Arch) -> Arch:
    """Res2Net as PaddleClas computes it: the authors' tensors, another function."""
    return quirky(arch, Quirk.SPLITS_RESET_ON_STRIDE, Quirk.MEAN_SKIPS_PADDING)


# ---- The table -----------------------------------------------------------------------------------------------------

_STRIDED = Quirk.STRIDE_IN_REDUCE
_GATED = Quirk.RELU_BEFORE_SQUEEZE
_PROJECTED = Quirk.PROJECTED_FIRST_SHORTCUT

ARCHITECTURES: dict[str, Arch] = {
    # ResNet: the trunk that the others grow from
    "resnet18": basic(18),
    "resnet34": basic(34),
    "resnet50": bottleneck(50),
    "resnet101": bottleneck(101),
    "resnet152": bottleneck(152),
    "resnet50c": c(bottleneck(50)),
    "resnet101c": c(bottleneck(101)),
    "resnet152c": c(bottleneck(152)),
    "resnet18d": d(basic(18)),
    "resnet34d": d(basic(34)),
    "resnet50d": d(bottleneck(50)),
    "resnet101d": d(bottleneck(101)),
    "resnet152d": d(bottleneck(152)),
    "resnet200d": d(bottleneck(200)),
    "resnet50s": s(bottleneck(50)),
    "resnet101s": s(bottleneck(101)),
    "resnet152s": s(bottleneck(152)),
    "resnet18_paddle": quirky(basic(18), _PROJECTED),
    "resnet34_paddle": quirky(basic(34), _PROJECTED),
    "resnet18d_paddle": quirky(d(basic(18)), _PROJECTED),
    "resnet34d_paddle": quirky(d(basic(34)), _PROJECTED),
    "resnet200d_paddle": replace(d(bottleneck(200)), depths=(3, 12, 48, 3)),
    # ResNeXt: cardinality
    "resnext50_32x4d": bottleneck(50, 32, 4),
    "resnext50_64x4d": bottleneck(50, 64, 4),
    "resnext101_32x4d": bottleneck(101, 32, 4),
    "resnext101_64x4d": bottleneck(101, 64, 4),
    "resnext101_32x8d": bottleneck(101, 32, 8),
    "resnext101_32x16d": bottleneck(101, 32, 16),
    "resnext101_32x32d": bottleneck(101, 32, 32),
    "resnext101_32x48d": bottleneck(101, 32, 48),
    "resnext152_32x4d": bottleneck(152, 32, 4),
    "resnext152_64x4d": bottleneck(152, 64, 4),
    "resnext50d_32x4d": d(bottleneck(50, 32, 4)),
    "resnext50d_64x4d": d(bottleneck(50, 64, 4)),
    "resnext101d_32x4d": d(bottleneck(101, 32, 4)),
    "resnext101d_64x4d": d(bottleneck(101, 64, 4)),
    "resnext152d_32x4d": d(bottleneck(152, 32, 4)),
    "resnext152d_64x4d": d(bottleneck(152, 64, 4)),
    # SE-ResNet and SE-ResNeXt: squeeze
    "seresnet18": eights(se(basic(18))),
    "seresnet34": eights(se(basic(34))),
    "seresnet50": se(bottleneck(50)),
    "seresnet101": se(bottleneck(101)),
    "seresnet152": se(bottleneck(152)),
    "seresnet50t": se(t(bottleneck(50))),
    "seresnet18d_paddle": quirky(se(d(basic(18))), _PROJECTED),
    "seresnet34d_paddle": quirky(se(d(basic(34))), _PROJECTED),
    "seresnet50d": se(d(bottleneck(50))),
    "seresnet152d": se(d(bottleneck(152))),
    "seresnet200d": se(d(bottleneck(200))),
    "seresnet269d": se(d(bottleneck(269))),
    "seresnext50_32x4d": se(bottleneck(50, 32, 4)),
    "seresnext101_32x4d": se(bottleneck(101, 32, 4)),
    "seresnext101_64x4d": se(bottleneck(101, 64, 4)),
    "seresnext101_32x8d": se(bottleneck(101, 32, 8)),
    "seresnext26d_32x4d": se(d(bottleneck(26, 32, 4))),
    "seresnext26t_32x4d": se(t(bottleneck(26, 32, 4))),
    "seresnext101d_32x8d": se(d(bottleneck(101, 32, 8))),
    "seresnext50e_32x4d": se(e(bottleneck(50, 32, 4))),
    "seresnext152e_64x4d": se(e(bottleneck(152, 64, 4))),
    # SENet-154, and the SE nets as Caffe computed them
    "senet154": senet154(),
    "legacy_senet154": caffe(senet154()),
    "legacy_seresnet18": caffe(se(basic(18)), _GATED),
    "legacy_seresnet34": caffe(se(basic(34)), _GATED),
    "legacy_seresnet50": caffe(se(bottleneck(50)), _STRIDED),
    "legacy_seresnet101": caffe(se(bottleneck(101)), _STRIDED),
    "legacy_seresnet152": caffe(se(bottleneck(152)), _STRIDED),
    "legacy_seresnext26_32x4d": caffe(se(bottleneck(26, 32, 4))),
    "legacy_seresnext50_32x4d": caffe(se(bottleneck(50, 32, 4))),
    "legacy_seresnext101_32x4d": caffe(se(bottleneck(101, 32, 4))),
    # Res2Net: scale
    "res2net50_26w_4s": res2(50, 26, 4),
    "res2net50_48w_2s": res2(50, 48, 2),
    "res2net50_14w_8s": res2(50, 14, 8),
    "res2net50_26w_6s": res2(50, 26, 6),
    "res2net50_26w_8s": res2(50, 26, 8),
    "res2net101_26w_4s": res2(101, 26, 4),
    "res2net50d_26w_4s": d(res2(50, 26, 4)),
    "res2net101d_26w_4s": d(res2(101, 26, 4)),
    "res2net152d_26w_4s": d(res2(152, 26, 4)),
    "res2next50_4w_4s_8c": res2(50, 4, 4, groups=8),
    "res2net50_26w_4s_paddle": paddle(res2(50, 26, 4)),
    "res2net50_14w_8s_paddle": paddle(res2(50, 14, 8)),
    "res2net50d_26w_4s_paddle": paddle(d(res2(50, 26, 4))),
    "res2net101d_26w_4s_paddle": paddle(d(res2(101, 26, 4))),
    "res2net200d_26w_4s_paddle": replace(paddle(d(res2(200, 26, 4))), depths=(3, 12, 48, 3)),
    # The papers' CIFAR nets
    "resnext29_8x64d": cifar(bottleneck(50, 8, 64)),
    "resnext29_16x64d": cifar(bottleneck(50, 16, 64)),
    "seresnext29_8x64d": cifar(se(bottleneck(50, 8, 64))),
    "seresnext29_16x64d": cifar(se(bottleneck(50, 16, 64))),
    "res2next29_24w_4s_6c": cifar(res2(50, 24, 4, groups=6)),
    "res2next29_25w_4s_8c": cifar(res2(50, 25, 4, groups=8)),
    "res2next29_24w_6s_6c": cifar(res2(50, 24, 6, groups=6)),
    "seres2next29_24w_4s_6c": cifar(se(res2(50, 24, 4, groups=6))),
    "seres2next29_25w_4s_8c": cifar(se(res2(50, 25, 4, groups=8))),
    "seres2next29_24w_6s_6c": cifar(se(res2(50, 24, 6, groups=6))),
}


def arch(name: str) -> Arch:
    """The row of this canonical name. Raises UnknownName with the nearest three."""
    try:
        return ARCHITECTURES[name]
    except KeyError:
        raise UnknownName(
            f"no architecture is called {name!r}; the nearest are {', '.join(nearest(name, ARCHITECTURES))}. "
            "'anabranch list' shows them all"
        ) from None


def name_of(spec: Arch) -> str | None:
    """The canonical name of this row; None for a spec of one's own."""
    return next((name for name, row in ARCHITECTURES.items() if row == spec), None)


# ---- A spec as plain data: in recipes, on cards, in checkpoints ----------------------------------------------------


def arch_to_json(spec: Arch) -> dict[str, Any]:
    table = {field.name: getattr(spec, field.name) for field in fields(Arch)}
    return {
        **table,
        "depths": list(spec.depths),
        "stem": list(spec.stem),
        "quirks": sorted(quirk.name.lower() for quirk in spec.quirks),
    }


def arch_from_json(table: Mapping[str, Any]) -> Arch:
    """The spec of such a table; fields left out keep their defaults. Raises ArchError on a field that is not one."""
    if not isinstance(table, Mapping):
        raise ArchError(f"an architecture is a table of fields such as depths and width, not {shown(table)}")
    types = {
        field.name: (list, tuple) if field.name in ("depths", "stem", "quirks") else type(field.default)
        for field in fields(Arch)
    }
    for key, value in table.items():
        if key not in types:
            raise ArchError(f"an architecture has no field {key!r}; the nearest are {', '.join(nearest(key, types))}")
        if not isinstance(value, types[key]) or isinstance(value, bool):
            raise ArchError(f"{key} = {shown(repr(value))} does not fit: it is of another type than {key} has")
        kind = str if key == "quirks" else int
        if isinstance(value, list | tuple) and any(type(item) is not kind for item in value):
            raise ArchError(
                f"{key} = {shown(repr(value))} does not fit: it is a list of {'names' if kind is str else 'numbers'}"
            )
    if "depths" not in table:
        raise ArchError("the architecture lacks 'depths', its blocks per stage")
    known = {quirk.name.lower(): quirk for quirk in Quirk}
    for name in table.get("quirks", ()):
        if name not in known:
            raise ArchError(f"no quirk is called {name!r}; there are {', '.join(known)}")
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    plain["quirks"] = frozenset(known[name] for name in table.get("quirks", ()))
    return Arch(**plain)
