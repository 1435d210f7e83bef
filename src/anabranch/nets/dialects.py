"""How the zoos spell a net's tensors: a table a zoo, from our name of a part to theirs.

Where theirs needs numbers, `{stage}` and `{conv}` count from 1, `{block}` and `{split}` from 0, and a digit behind the
word says another start; `{nth}` counts the blocks of all stages, from 0. Loading, converting back and recognising a
file all follow from this one direction (`spelling.py`). Names and shapes do not see a `Quirk`, so each dialect also
says which nets its code computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from anabranch.arch import Arch, Quirk
from anabranch.errors import UnknownName, nearest

# ---- Tables --------------------------------------------------------------------------------------------------------

_Pair = tuple[str, str]  # a convolution and its norm


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Their names of a net's parts, without the leaf: weight, bias, running_mean, ..."""

    stem: _Pair
    deep_stem: tuple[_Pair, _Pair, _Pair] | None = None
    conv: _Pair
    split: _Pair | None = None
    squeeze: _Pair | None = None  # here the two layers that reduce and expand
    shortcut: _Pair
    pooled_shortcut: _Pair | None = None  # its projection behind a pool
    first_shortcut: _Pair | None = None  # in stage 1, where nothing strides, if that is spelled in another way
    head: str


_TIMM = Table(
    stem=("conv1", "bn1"),
    deep_stem=(("conv1.0", "conv1.1"), ("conv1.3", "conv1.4"), ("conv1.6", "bn1")),
    conv=("layer{stage}.{block}.conv{conv}", "layer{stage}.{block}.bn{conv}"),
    split=("layer{stage}.{block}.convs.{split}", "layer{stage}.{block}.bns.{split}"),
    squeeze=("layer{stage}.{block}.se.fc1", "layer{stage}.{block}.se.fc2"),
    shortcut=("layer{stage}.{block}.downsample.0", "layer{stage}.{block}.downsample.1"),
    pooled_shortcut=("layer{stage}.{block}.downsample.1", "layer{stage}.{block}.downsample.2"),
    head="fc",
)
_LEGACY = replace(
    _TIMM,
    stem=("layer0.conv1", "layer0.bn1"),
    deep_stem=(("layer0.conv1", "layer0.bn1"), ("layer0.conv2", "layer0.bn2"), ("layer0.conv3", "layer0.bn3")),
    split=None,
    squeeze=("layer{stage}.{block}.se_module.fc1", "layer{stage}.{block}.se_module.fc2"),
    pooled_shortcut=None,
    head="last_linear",
)
_MMPRETRAIN = Table(
    stem=("backbone.conv1", "backbone.bn1"),
    deep_stem=(
        ("backbone.stem.0.conv", "backbone.stem.0.bn"),
        ("backbone.stem.1.conv", "backbone.stem.1.bn"),
        ("backbone.stem.2.conv", "backbone.stem.2.bn"),
    ),
    conv=("backbone.layer{stage}.{block}.conv{conv}", "backbone.layer{stage}.{block}.bn{conv}"),
    split=("backbone.layer{stage}.{block}.convs.{split}", "backbone.layer{stage}.{block}.bns.{split}"),
    squeeze=(
        "backbone.layer{stage}.{block}.se_layer.conv1.conv",
        "backbone.layer{stage}.{block}.se_layer.conv2.conv",
    ),
    shortcut=("backbone.layer{stage}.{block}.downsample.0", "backbone.layer{stage}.{block}.downsample.1"),
    pooled_shortcut=("backbone.layer{stage}.{block}.downsample.1", "backbone.layer{stage}.{block}.downsample.2"),
    head="head.fc",
)
# Its ResLayer leaves out a pool that would not stride, and numbers what follows it anew; its Res2Layer does not.
_MMPRETRAIN_RESNET = replace(_MMPRETRAIN, first_shortcut=_MMPRETRAIN.shortcut)
_PADDLE = Table(
    stem=("conv._conv", "conv._batch_norm"),
    deep_stem=(
        ("conv1_1._conv", "conv1_1._batch_norm"),
        ("conv1_2._conv", "conv1_2._batch_norm"),
        ("conv1_3._conv", "conv1_3._batch_norm"),
    ),
    conv=("bb_{stage0}_{block}.conv{conv0}._conv", "bb_{stage0}_{block}.conv{conv0}._batch_norm"),
    split=(
        "bb_{stage0}_{block}.res{stage2}{letter}_branch2b_{split1}._conv",
        "bb_{stage0}_{block}.res{stage2}{letter}_branch2b_{split1}._batch_norm",
    ),
    squeeze=("bb_{stage0}_{block}.scale.squeeze", "bb_{stage0}_{block}.scale.excitation"),
    shortcut=("bb_{stage0}_{block}.short._conv", "bb_{stage0}_{block}.short._batch_norm"),
    pooled_shortcut=("bb_{stage0}_{block}.short._conv", "bb_{stage0}_{block}.short._batch_norm"),
    head="out",
)
_PADDLE_RES2NET = replace(_PADDLE, stem=("conv1._conv", "conv1._batch_norm"))
_PADDLE_RESNET = Table(  # without groups or squeeze, in a module of their own
    stem=("stem.0.conv", "stem.0.bn"),
    deep_stem=(("stem.0.conv", "stem.0.bn"), ("stem.1.conv", "stem.1.bn"), ("stem.2.conv", "stem.2.bn")),
    conv=("blocks.{nth}.conv{conv0}.conv", "blocks.{nth}.conv{conv0}.bn"),
    shortcut=("blocks.{nth}.short.conv", "blocks.{nth}.short.bn"),
    pooled_shortcut=("blocks.{nth}.short.conv", "blocks.{nth}.short.bn"),
    head="fc",
)
_PADDLE_WSL = Table(
    stem=("_conv_stem._conv", "_conv_stem._bn"),
    conv=("_conv{stage}_{block}._conv{conv0}._conv", "_conv{stage}_{block}._conv{conv0}._bn"),
    shortcut=("_conv{stage}_{block}._short._conv._conv", "_conv{stage}_{block}._short._conv._bn"),
    head="_out",
)


# ---- Dialects ------------------------------------------------------------------------------------------------------

OUR_OWN = "anabranch"  # how a net here spells itself, which computes whatever an `Arch` can say


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """A zoo's way to spell tensors, and the nets that its code computes."""

    name: str
    spoken_by: tuple[str, ...] = ()  # others who spell in the same way
    table: Callable[[Arch], Table] | None  # None: our own names
    quirks: frozenset[Quirk]  # that its code can have
    limits: Callable[[Arch], dict[str, bool]]  # what else it cannot compute, in words -> whether this net stays inside
    leaves: Mapping[str, str | None] = field(default_factory=dict)  # our leaf -> theirs; None for one they do not keep
    linear_is_transposed: bool = False  # (inputs, outputs), and the squeeze's layers are linear too

    def refuses(self, arch: Arch) -> str | None:
        """Why its code cannot compute this net; None where it can."""
        if self.table is None:
            return None
        table = self.table(arch)
        foreign = ", ".join(sorted(quirk.name.lower() for quirk in arch.quirks - self.quirks))
        inside = {
            f"it has nothing like {foreign}": not foreign,
            "it has no stem for small pictures": arch.stem_stride == 4,
            "it has no deep stem": len(arch.stem) == 1 or table.deep_stem is not None,
            "it has no Res2Net block": arch.block != "res2" or table.split is not None,
            "it has no squeeze": not arch.squeeze or table.squeeze is not None,
            "it has no pooled shortcut": arch.shortcut != "pool" or table.pooled_shortcut is not None,
            **self.limits(arch),
        }
        return next((limit for limit, holds in inside.items() if not holds), None)


def _timm_limits(arch: Arch) -> dict[str, bool]:
    widths = [arch.channels(stage) for stage in range(len(arch.depths))] if arch.squeeze else []
    eights = replace(arch, quirks=arch.quirks | {Quirk.SQUEEZE_IN_EIGHTS})
    same = all(arch.squeeze_width(width) == eights.squeeze_width(width) for width in widths)
    return {"it rounds the width of a squeeze to a multiple of 8": same}


def _legacy_limits(arch: Arch) -> dict[str, bool]:
    relu_before = Quirk.RELU_BEFORE_SQUEEZE in arch.quirks
    return {
        "its nets all have a squeeze": arch.squeeze > 0,
        "its stem pools without padding": Quirk.UNPADDED_STEM_POOL in arch.quirks,
        "its basic block applies ReLU before the squeeze": (arch.block == "basic") == relu_before,
    }


def _mmpretrain_limits(arch: Arch) -> dict[str, bool]:
    return {
        **_timm_limits(arch),
        "it has no 3x3 shortcut": arch.shortcut != "conv3x3",
        "its Res2Net has neither groups nor squeeze": arch.block != "res2" or (arch.groups == 1 and not arch.squeeze),
        "its SE-ResNet has no basic block": arch.block != "basic" or not arch.squeeze,
    }


def _paddle_limits(arch: Arch) -> dict[str, bool]:
    chained = {Quirk.SPLITS_RESET_ON_STRIDE, Quirk.MEAN_SKIPS_PADDING}
    projected = Quirk.PROJECTED_FIRST_SHORTCUT in arch.quirks
    return {
        "it has no 3x3 shortcut": arch.shortcut != "conv3x3",
        "its Res2Net chains splits in other blocks and leaves padding out of means": (arch.block == "res2")
        == bool(chained & arch.quirks)
        and (arch.block != "res2" or chained <= arch.quirks),
        "its Res2Net has neither groups nor squeeze": arch.block != "res2" or (arch.groups == 1 and not arch.squeeze),
        "its basic blocks project the first shortcut": (arch.block == "basic") == projected,
        "its deep stems and its pooled shortcuts come together, but in ResNet50_vc": (len(arch.stem) == 3)
        == (arch.shortcut == "pool")
        or _is_paddles_vc(arch),
        "its plain ResNets have no deep stem but of 32, 32 and 64 channels": not _is_plain(arch)
        or arch.stem in ((64,), (32, 32, 64)),
    }


def _is_plain(arch: Arch) -> bool:
    return arch.block != "res2" and arch.groups == 1 and not arch.squeeze


def _is_paddles_vc(arch: Arch) -> bool:
    return _is_plain(arch) and arch.block == "bottleneck" and len(arch.stem) == 3 and arch.shortcut == "conv"


def _paddle_table(arch: Arch) -> Table:
    if arch.block == "res2":
        return _PADDLE_RES2NET
    if _is_plain(arch) and not _is_paddles_vc(arch):
        return _PADDLE_RESNET
    wide = arch.groups == 32 and arch.group_width >= 8
    return _PADDLE_WSL if wide and not arch.squeeze and len(arch.stem) == 1 else _PADDLE


DIALECTS = {
    each.name: each
    for each in (
        Dialect(
            name="timm",
            spoken_by=("torchvision", "facebook", "fixres", "gluon", "res2net"),
            table=lambda arch: _TIMM,
            quirks=frozenset({Quirk.SQUEEZE_IN_EIGHTS, Quirk.HALVED_REDUCE}),
            limits=_timm_limits,
        ),
        Dialect(
            name="legacy",
            spoken_by=("cadene",),
            table=lambda arch: _LEGACY,
            quirks=frozenset(
                {Quirk.UNPADDED_STEM_POOL, Quirk.STRIDE_IN_REDUCE, Quirk.RELU_BEFORE_SQUEEZE, Quirk.HALVED_REDUCE}
            ),
            limits=_legacy_limits,
        ),
        Dialect(
            name="mmpretrain",
            table=lambda arch: _MMPRETRAIN if arch.block == "res2" else _MMPRETRAIN_RESNET,
            quirks=frozenset({Quirk.SQUEEZE_IN_EIGHTS}),
            limits=_mmpretrain_limits,
        ),
        Dialect(
            name="paddleclas",
            table=_paddle_table,
            quirks=frozenset({Quirk.SPLITS_RESET_ON_STRIDE, Quirk.MEAN_SKIPS_PADDING, Quirk.PROJECTED_FIRST_SHORTCUT}),
            limits=_paddle_limits,
            leaves={"running_mean": "_mean", "running_var": "_variance", "num_batches_tracked": None},
            linear_is_transposed=True,
        ),
        Dialect(name=OUR_OWN, table=None, quirks=frozenset(Quirk), limits=lambda arch: {}),
    )
}


def dialect(name: str) -> Dialect:
    """By its own name, or by that of another zoo that spells alike. Raises UnknownName."""
    names = {spoken: each for each in DIALECTS.values() for spoken in (each.name, *each.spoken_by)}
    if name not in names:
        raise UnknownName(
            f"no dialect is called {name!r}; the nearest are {', '.join(nearest(name, names))}. "
            f"There are {', '.join(names)}"
        )
    return names[name]
