"""Anti-aliased downsamplers, one file each."""

from aliascope.layers.blurpool import BlurPool

__all__ = ["BlurPool"]
