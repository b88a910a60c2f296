"""A residual network of eight layers for 24 × 24 windows of CIFAR-10's pictures."""

from jaxtyping import Float
from torch import Tensor, nn

from aliascope.images.preprocessing import Preprocessing

CIFAR_EVALUATION = Preprocessing(
    resize=(32,),
    crop=(24, 24),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)
"""The middle of a picture of 32 × 32 pixels, with four pixels of room on each side to move in."""

CIFAR_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


class Block(nn.Module):
    """Two convolutions beside a shortcut, as in ResNet; every activation is a module of its own.

    Args:
        channels: C of the maps it takes.
        width: C of the maps it makes.
        stride: of its first convolution and of its shortcut.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = nn.Sequential()
        if (stride, channels) != (1, width):
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )
        self.act2 = nn.ReLU()

    def forward(self, x: Float[Tensor, "batch chan h w"]) -> Float[Tensor, "batch chan2 h2 w2"]:
        """Conv, norm, ReLU, conv, norm; plus the shortcut; ReLU."""
        y = self.act1(self.bn1(self.conv1(x)))
        return self.act2(self.bn2(self.conv2(y)) + self.downsample(x))


class CifarResNet8(nn.Module):
    """Ten classes of pictures of 24 × 24 pixels, sampled in two places.

    A stem of 16 channels that keeps the size, three blocks of 16, 32 and 64 channels at 12, 6 and 6
    samples a side, the mean, a linear layer: about 78,000 parameters. The first two blocks sample,
    in their first convolution and in their shortcut.

    Source: He et al. 2016, Deep Residual Learning (arXiv 1512.03385), section 4.2, made smaller: a
        block a stage, the sampling earlier, and a convolution in each shortcut that needs one.

    >>> import torch
    >>> CifarResNet8()(torch.zeros(2, 3, 24, 24)).shape
    torch.Size([2, 10])
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.act1 = nn.ReLU()
        self.layer1 = Block(16, 16, 2)
        self.layer2 = Block(16, 32, 2)
        self.layer3 = Block(32, 64, 1)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 10"]:
        """The logits."""
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))
