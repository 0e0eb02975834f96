"""Convolutions to measure: a set to choose constants on, and one to check them on."""

from typing import NamedTuple


class Shape(NamedTuple):
    """Sizes of a convolution with "SAME" padding; `size` is one, two or three sizes."""

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


# What the planner's constants were chosen on.
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
]

# What they are checked on: nothing was chosen by these.
CHECKED_ON = [
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
