"""The net: a stem, stages of residual blocks, a mean, a linear layer. All that an `Arch` can say runs through here."""

from __future__ import annotations

from torch import Tensor, nn

from anabranch.arch import Arch
from anabranch.arch import arch as row
from anabranch.errors import ArchError
from anabranch.nets import blocks


class Net(nn.Module):
    """(N, in_channels, H, W) normalised pixels, any H and W -> (N, num_classes) logits."""

    def __init__(
        self, arch: Arch, *, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.0, drop_path: float = 0.0
    ):
        super().__init__()
        self.arch = arch
        self.num_classes = num_classes
        self.stem = blocks.stem(arch, in_channels)
        self.stages = nn.ModuleList()
        c_in, block, num_blocks = arch.stem[-1], 0, sum(arch.depths)
        for stage, depth in enumerate(arch.depths):
            layers = []
            for i in range(depth):
                # deeper blocks are dropped more often: Huang et al. 2016, eq. 4
                rate = drop_path * block / max(1, num_blocks - 1)
                layers.append(blocks.residual(arch, c_in, stage, first=i == 0, drop_path=rate))
                c_in, block = arch.channels(stage), block + 1
            self.stages.append(nn.Sequential(*layers))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(c_in, num_classes)

    def features(self, x: Tensor) -> list[Tensor]:
        """What each stage gives, at strides 4, 8, 16, 32 (1, 2, 4 behind a whole-picture stem)."""
        maps = []
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def embed(self, x: Tensor) -> Tensor:
        """The pooled vector before the linear layer: (N, C)."""
        return self.features(x)[-1].mean((2, 3))  # (N, C, H, W) -> (N, C)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.embed(x)))
        return logits


def build(
    arch: str | Arch,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    zero_gamma: bool = False,
) -> Net:
    """A net with fresh weights, from an architecture's name or a spec of your own.

    `dropout` and `drop_path` are probabilities in [0, 1). `zero_gamma` starts every branch at zero, so that a new net
    is a chain of shortcuts (Goyal et al. 2017, section 5.1). Raises UnknownName, ArchError.
    """
    for name, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value < 1:
            raise ArchError(f"{name} = {value} does not fit: it must be at least 1")
    for name, rate in (("dropout", dropout), ("drop_path", drop_path)):
        if not 0 <= rate < 1:
            raise ArchError(f"{name} = {rate} does not fit: it is a probability, at least 0 and below 1")
    spec = row(arch) if isinstance(arch, str) else arch
    net = Net(spec, num_classes=num_classes, in_channels=in_channels, dropout=dropout, drop_path=drop_path)
    initialise(net, zero_gamma=zero_gamma)
    return net


def initialise(net: Net, *, zero_gamma: bool) -> None:
    """He-normal convolutions by fan-out, unit norms, as torchvision and timm do; the head as torch does.

    Source: He et al. 2015 ("delving deep"), section 2.2, backward form.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    if zero_gamma:
        for module in net.modules():
            if isinstance(module, blocks.Residual):
                last = [part for part in module.branch.modules() if isinstance(part, blocks.ConvNorm)][-1]
                nn.init.zeros_(last.norm.weight)
