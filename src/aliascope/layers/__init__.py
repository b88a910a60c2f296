"""Anti-aliased downsamplers, one file and one paper each.

All are called alike: `Class(channels, stride=2, *, size=3, padding="reflect", …)`, and turn H × W
samples into ⌈H/s⌉ × ⌈W/s⌉. `LAYERS` finds them by the name of their method.
"""

from torch import nn

from aliascope.layers._downsampler import PADDINGS, Downsampler, Padding
from aliascope.layers.adaptive import AdaptivePool
from aliascope.layers.aps import APSPool
from aliascope.layers.blurpool import BlurPool
from aliascope.layers.ideal import IdealPool
from aliascope.layers.lps import LPSPool
from aliascope.layers.tips import TIPSPool
from aliascope.layers.wavelet import WAVELETS, Wavelet, WaveletPool

LAYERS: dict[str, type[nn.Module]] = {
    "blurpool": BlurPool,
    "ideal": IdealPool,
    "aps": APSPool,
    "lps": LPSPool,
    "wavelet": WaveletPool,
    "adaptive": AdaptivePool,
    "tips": TIPSPool,
}
"""Name of a method → its layer."""

__all__ = [
    "LAYERS",
    "PADDINGS",
    "WAVELETS",
    "APSPool",
    "AdaptivePool",
    "BlurPool",
    "Downsampler",
    "IdealPool",
    "LPSPool",
    "Padding",
    "TIPSPool",
    "Wavelet",
    "WaveletPool",
]
