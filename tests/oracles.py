"""Slow, obvious twins of what aliascope computes fast: numpy float64, loops, no shared code."""

import numpy as np


def alias_violation_ratio(x, stride, band="disc", dc="keep", reduction="power"):
    """The definition, bin by bin, from a dense DFT of one (C, H, W) map."""
    s_h, s_w = (stride, stride) if np.isscalar(stride) else stride
    x = np.asarray(x, dtype=np.float64)
    _, height, width = x.shape
    dft_h = np.exp(-2j * np.pi * np.outer(np.arange(height), np.arange(height)) / height)
    dft_w = np.exp(-2j * np.pi * np.outer(np.arange(width), np.arange(width)) / width)
    power = np.abs(dft_h @ x @ dft_w.T) ** 2
    alias = np.zeros((height, width))
    for u in range(height):
        for v in range(width):
            alias[u, v] = aliased_share(centred(u, height), centred(v, width), s_h, s_w, band)
    if dc == "remove":
        power[:, 0, 0] = 0
    if reduction == "power":
        power = power.mean(axis=0, keepdims=True)
    ratios = [(p * alias).sum() / p.sum() for p in power if p.sum() > 0]
    return np.mean(ratios) if ratios else np.nan


def centred(k, n):
    """Frequency of DFT bin k of n in [-1, 1), 1 being Nyquist."""
    return 2 * (k if 2 * k < n else k - n) / n


def aliased_share(f_u, f_v, s_h, s_w, band):
    a, b = abs(s_h * f_u), abs(s_w * f_v)
    if band == "disc":
        return float(np.sqrt(a * a + b * b) > 1 + 1e-9)
    return 1 - clean_share(a, s_h) * clean_share(b, s_w)


def clean_share(f, stride):
    if stride == 1:
        return 1.0
    if abs(f - 1) < 1e-9:
        return 0.5
    return float(f < 1)
