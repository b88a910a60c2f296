"""Pictures whose spectra are known in closed form: (1, side, side), float32.

Frequencies are normalised so that 1 is the per-axis Nyquist frequency, half a cycle a pixel.
"""

import math

import torch
from jaxtyping import Float
from torch import Generator, Tensor


def constant(side: int, value: float = 0.5) -> Float[Tensor, "1 side side"]:
    """One value everywhere: all energy at frequency 0.

    Args:
        side: Rows and columns, in pixels.
        value: The value of every pixel.

    Returns:
        The picture, (1, side, side).

    >>> constant(2)
    tensor([[[0.5000, 0.5000],
             [0.5000, 0.5000]]])
    """
    return torch.full((1, side, side), value)


def checkerboard(side: int, period: int = 1) -> Float[Tensor, "1 side side"]:
    """Squares of ±1, (−1)^(⌊y / period⌋ + ⌊x / period⌋): with period 1 all energy at (1, 1).

    Args:
        side: Rows and columns, in pixels.
        period: Side of one square, in pixels; half a cycle.

    Returns:
        The picture, (1, side, side); the corner is +1.

    >>> checkerboard(2)
    tensor([[[ 1., -1.],
             [-1.,  1.]]])
    """
    square = torch.arange(side) // period
    return (1.0 - 2.0 * ((square[:, None] + square) % 2))[None]


def sinusoid(side: int, frequency: float) -> Float[Tensor, "1 side side"]:
    """A wave along the columns, sin(2π f (N / 2) t) with t = linspace(0, 1, N); every row the same.

    `linspace` includes both ends, so the frequency on the grid is f · N / (N − 1) and the wave does
    not close: a little energy leaks, as in the published figures.

    Args:
        side: Rows and columns N, in pixels.
        frequency: f, in units of the Nyquist frequency.

    Returns:
        The picture, (1, side, side), in [−1, 1].

    >>> sinusoid(3, frequency=1 / 3)[0].round()
    tensor([[0., 1., 0.],
            [0., 1., 0.],
            [0., 1., 0.]])
    """
    time = torch.linspace(0, 1, side, dtype=torch.float64)
    wave = torch.sin(math.pi * frequency * side * time).float()
    return wave.expand(1, side, side).contiguous()


def white_noise(side: int, generator: Generator) -> Float[Tensor, "1 side side"]:
    """Independent standard normal pixels: the same expected energy, side², at every frequency.

    Args:
        side: Rows and columns, in pixels.
        generator: Where the numbers come from; the same state gives the same picture.

    Returns:
        The picture, (1, side, side).

    >>> white_noise(8, torch.Generator().manual_seed(0)).shape
    torch.Size([1, 8, 8])
    """
    return torch.randn((1, side, side), generator=generator)


def zone_plate(side: int) -> Float[Tensor, "1 side side"]:
    """Every frequency once, cos(π (x² + y²) / side), x and y in pixels from the centre.

    The frequency at (x, y) is (2x, 2y) / side: 0 at the centre, 1 at the border along an axis.

    Args:
        side: Rows and columns, in pixels.

    Returns:
        The picture, (1, side, side), in [−1, 1].

    >>> zone_plate(3)[0, 1]
    tensor([0.5000, 1.0000, 0.5000])
    """
    squared = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2) ** 2
    return torch.cos(math.pi * (squared[:, None] + squared) / side).float()[None]
