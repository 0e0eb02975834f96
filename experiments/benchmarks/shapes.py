"""Convolutions to measure: a set to fit constants to, and one to validate them."""

from typing import NamedTuple


class Shape(NamedTuple):
    """Sizes of a convolution with "SAME" padding, in one to three dimensions."""

    batch: int
    size: tuple[int, ...]
    in_channels: int
    out_channels: int
    kernel: int
    strides: int = 1
    groups: int = 1
    dilation: int = 1
    transposed: bool = False

    def __str__(self) -> str:
        size = "x".join(map(str, self.size))
        text = f"{self.batch}x{size} {self.in_channels}>{self.out_channels}"
        text += f" k{self.kernel}"
        for letter, value in (("s", self.strides), ("g", self.groups)):
            text += f" {letter}{value}" if value > 1 else ""
        text += f" d{self.dilation}" if self.dilation > 1 else ""
        return text + (" T" if self.transposed else "")

    @property
    def kind(self) -> str:
        """Return the kind of convolution, for means over shapes of a kind."""
        if self.transposed:
            return "transposed"
        if self.groups > 1:
            return "depthwise" if self.groups == self.in_channels else "grouped"
        usual = self.kernel in (3, 5) and self.strides == 1
        if (
            usual
            and len(self.size) == 2
            and min(self.in_channels, self.out_channels) >= 32
        ):
            return "dense, 3x3 and 5x5, 32 channels and more"
        return "other dense"


CHOSEN_ON = [
    Shape(128, (28, 28), 1, 32, 3),
    Shape(128, (28, 28), 32, 64, 3),
    Shape(128, (14, 14), 64, 64, 3),
    Shape(64, (32, 32), 3, 64, 3),
    Shape(64, (32, 32), 64, 64, 3),
    Shape(64, (16, 16), 128, 128, 3),
    Shape(64, (8, 8), 256, 256, 3),
    Shape(64, (32, 32), 64, 128, 3, strides=2),
    Shape(64, (32, 32), 32, 32, 5),
    Shape(64, (32, 32), 64, 128, 1),
    Shape(64, (32, 32), 64, 128, 1, strides=2),
    Shape(16, (224, 224), 3, 64, 7, strides=2),
    Shape(16, (56, 56), 64, 64, 3),
    Shape(32, (56, 56), 96, 96, 7, groups=96),
    Shape(32, (28, 28), 192, 192, 3, groups=192),
    Shape(32, (56, 56), 144, 144, 3, strides=2, groups=144),
    Shape(32, (28, 28), 128, 128, 3, groups=4),
    Shape(16, (32, 32), 64, 64, 3, dilation=2),
    Shape(128, (32, 32), 16, 16, 3),
    Shape(128, (16, 16), 32, 32, 3),
    Shape(128, (32, 32), 16, 32, 3, strides=2),
    Shape(32, (16, 16), 128, 64, 4, strides=2, transposed=True),
    Shape(97, (27, 27), 24, 48, 3),
    Shape(7, (61, 45), 48, 48, 3),
    Shape(31, (17, 23), 40, 72, 5),
    Shape(1, (512, 512), 32, 32, 3),
    Shape(64, (1000,), 32, 64, 5),
    Shape(13, (997,), 64, 64, 3, strides=2),
    Shape(4, (24, 24, 24), 16, 32, 3),
    Shape(2, (20, 20, 20), 32, 32, 3, strides=2),
    Shape(16, (28, 28), 64, 64, 3, groups=8),
    Shape(32, (28, 28), 96, 96, 5, groups=96),
    Shape(17, (40, 40), 60, 60, 3, strides=2, groups=60),
    Shape(16, (32, 32), 48, 24, 3, strides=2, transposed=True),
    Shape(37, (19, 19), 33, 65, 3, strides=2),
    Shape(23, (30, 30), 48, 96, 1, strides=2),
    Shape(8, (64, 64), 24, 24, 3, dilation=3),
]

# The validation set: no constant was fitted to these.
CHECKED_ON = [
    Shape(61, (25, 25), 32, 48, 3),
    Shape(11, (37, 53), 64, 96, 3),
    Shape(3, (160, 120), 48, 48, 5),
    Shape(127, (12, 12), 96, 32, 3),
    Shape(19, (7, 7), 320, 192, 3),
    Shape(1, (384, 384), 24, 40, 3),
    Shape(53, (33, 33), 12, 20, 5),
    Shape(29, (64, 64), 3, 24, 3),
    Shape(41, (56, 56), 24, 24, 3, strides=2),
    Shape(5, (96, 96), 3, 48, 7, strides=2),
    Shape(17, (28, 28), 72, 144, 1),
    Shape(13, (45, 45), 40, 40, 3, dilation=2),
    Shape(59, (300,), 48, 48, 3),
    Shape(32, (2048,), 1, 32, 9, strides=2),
    Shape(3, (18, 22, 26), 24, 24, 3),
    Shape(22, (26, 26), 48, 48, 3, groups=8),
    Shape(9, (31, 31), 128, 128, 3, groups=2),
    Shape(19, (42, 42), 80, 80, 5, groups=80),
    Shape(37, (29, 29), 48, 48, 3, strides=2, groups=48),
    Shape(11, (24, 24), 64, 32, 4, strides=2, transposed=True),
    Shape(7, (20, 20), 40, 40, 3, strides=2, transposed=True),
]
