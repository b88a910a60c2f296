"""The methods: how each one's downsampler is made, and what it promises and costs."""

import inspect
import re
from dataclasses import dataclass

import torch
from torch import nn

from aliascope.antialias.flops import counted
from aliascope.layers import LAYERS
from aliascope.layers.wavelet import delay

FOLDED = "folded"
"""The method without a layer of its own: its filter goes into the kernel of the convolution."""
METHODS = (*LAYERS, FOLDED)
OF_TAPS = ("blurpool", "adaptive", FOLDED)
"""Those of a number of taps, of which one is none."""
LOW_PASSES = (*OF_TAPS, "ideal")
"""Those that filter at stride 1 as well; the others only exist together with a decimation."""

_EXACT_UNDER = {
    "blurpool": "circular shifts by multiples of the stride",
    "ideal": "circular shifts of a band-limited map, sub-pixel ones too",
    "aps": "circular shifts, where sides divide by the total stride",
    "lps": "as aps, in eval mode",
    "wavelet": "circular shifts by multiples of the stride",
    "adaptive": "circular shifts by multiples of the stride",
    "tips": "circular shifts by multiples of the stride",
    FOLDED: "circular shifts by multiples of the stride",
}


@dataclass(frozen=True)
class Method:
    """One anti-aliased downsampler."""

    name: str
    layer: str
    """Its class in `aliascope.layers`."""
    paper: str
    parameters: int
    """Learned ones of a layer of 64 channels."""
    exact_under: str
    """Which shifts of the input only shift the output, with circular padding."""
    mflops: float
    """Of one layer on a map of 64 × 56 × 56, a multiply-add being two; sums are not counted."""


_FOLDED = Method(
    FOLDED,
    "Conv2d",
    "folding is exact, since convolutions commute; Zhang 2019 (arXiv 1904.11486) for the taps",
    0,
    _EXACT_UNDER[FOLDED],
    round(2 * (5**2 - 3**2) * 64 * 28**2 / 1e6, 2),  # what a depthwise 3 × 3 kernel grows by
)


def available_methods() -> list[Method]:
    """Every method that `antialias` knows.

    >>> [method.name for method in available_methods() if method.parameters]
    ['lps', 'adaptive', 'tips']
    """
    return [_described(name) for name in LAYERS] + [_FOLDED]


def _described(name: str) -> Method:
    layer = downsampler(name, 64, (2, 2)).eval()
    _, flops = counted(layer, torch.zeros(1, 64, 56, 56))
    return Method(
        name,
        type(layer).__name__,
        _source(type(layer)),
        sum(parameter.numel() for parameter in layer.parameters()),
        _EXACT_UNDER[name],
        round(flops[""] / 1e6, 2),
    )


def layer_of(method: str) -> type[nn.Module]:
    """A method's layer; of `folded`, that of what cannot be folded: pools and 1 × 1 shortcuts."""
    return LAYERS["blurpool" if method == FOLDED else method]


def _source(layer: type[nn.Module]) -> str:
    """The paper, as far as its arXiv number: what the docstring has under "Source:"."""
    text = (inspect.getdoc(layer) or "").partition("Source:")[2].partition("\n\n")[0]
    return re.split(r"(?<=\))[,;.]", " ".join(text.split()))[0]


def downsampler(
    method: str,
    channels: int,
    stride: tuple[int, int],
    *,
    size: int = 3,
    padding: str = "reflect",
    wavelet: str = "haar",
    phase: tuple[float | int, float | int] = (0, 0),
    cutoff: tuple[int, int] | None = None,
) -> nn.Module:
    """A method's layer. APS and LPS choose their phase themselves.

    `cutoff`, the stride that is to follow, is for the filter without taps: the ideal one.

    What a learned layer starts from does not depend on the random state, nor touch it.

    Raises:
        ValueError: an argument out of range.
    """
    layer = layer_of(method)
    arguments: dict = {"size": size, "padding": padding}
    taken = inspect.signature(layer).parameters
    if "phase" in taken:
        arguments["phase"] = phase[0] if phase[0] == phase[1] else phase
    if "cutoff" in taken:
        arguments["cutoff"] = cutoff
    if "wavelet" in taken:
        arguments["wavelet"] = wavelet
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return layer(channels, stride[0] if stride[0] == stride[1] else stride, **arguments)


def centre(method: str, size: int, stride: int, wavelet: str) -> float:
    """How far behind its phase the middle of a filter lies, in samples."""
    if method == "tips":
        return (stride - 1) / 2
    if method == "wavelet":
        return delay(wavelet, stride)
    return 0.0 if method == "ideal" or size % 2 else 0.5
