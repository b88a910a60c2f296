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


def alias_share(x, strides, phase=(0, 0)):
    """‖S(x) − S(L x)‖² / ‖S(x)‖² by numpy's FFT, bin by bin, of one (C, H, W) map."""
    x = np.asarray(x, dtype=np.float64)
    spectrum = np.fft.fft2(x)
    for u in range(x.shape[1]):
        for v in range(x.shape[2]):
            inside = all(
                step == 1 or abs(step * centred(k, n)) < 1 - 1e-9
                for k, n, step in zip((u, v), x.shape[1:], strides, strict=True)
            )
            spectrum[:, u, v] *= inside
    clean = np.fft.ifft2(spectrum).real
    kept, low = (y[:, phase[0] :: strides[0], phase[1] :: strides[1]] for y in (x, clean))
    return ((kept - low) ** 2).sum() / (kept**2).sum()


PAD_MODES = {"reflect": "reflect", "zeros": "constant", "replicate": "edge", "circular": "wrap"}


def filter_and_decimate(x, rows, columns, strides, first, padding):
    """Output (i, j) is the sum over taps of what numpy's own padding puts at s·i + first + k."""
    _, height, width = x.shape
    margin = 32
    around = np.pad(
        np.asarray(x, np.float64), ((0, 0), (margin, margin), (margin, margin)), PAD_MODES[padding]
    )
    y = np.zeros((len(x), -(-height // strides[0]), -(-width // strides[1])))
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            for k, row in enumerate(rows):
                for m, column in enumerate(columns):
                    u = margin + strides[0] * i + first[0] + k
                    v = margin + strides[1] * j + first[1] + m
                    y[:, i, j] += row * column * around[:, u, v]
    return y


def ideal_pool(x, strides, phases, padding="circular"):
    """FFT of one continued (C, H, W) map, mask, shift by the phase, inverse FFT, every s-th."""
    _, height, width = x.shape
    before = (0, 0) if padding in ("circular", "reflect") else (height, width)
    after = {"circular": (0, 0), "reflect": (max(height - 2, 0), max(width - 2, 0))}.get(
        padding, (height, width)
    )
    borders = [(0, 0), *zip(before, after, strict=True)]
    spectrum = np.fft.fft2(np.pad(np.asarray(x, np.float64), borders, PAD_MODES[padding]))
    for axis, (stride, phase) in enumerate(zip(strides, phases, strict=True), 1):
        n = spectrum.shape[axis]
        k = np.round(np.fft.fftfreq(n) * n)
        gain = np.exp(2j * np.pi * k * phase / n)
        if stride > 1:
            gain = gain * (2 * stride * np.abs(k) < n)
        spectrum = spectrum * gain.reshape((1, n, 1) if axis == 1 else (1, 1, n))
    dense = np.fft.ifft2(spectrum).real
    dense = dense[:, before[0] : before[0] + height, before[1] : before[1] + width]
    return dense[:, :: strides[0], :: strides[1]]


def components(x, strides, padding):
    """The polyphase components of one (C, H, W) map, continued to a multiple of the strides."""
    _, height, width = x.shape
    borders = [(0, 0), (0, -height % strides[0]), (0, -width % strides[1])]
    x = np.pad(x, borders, PAD_MODES[padding])
    s_h, s_w = strides
    return [x[:, i::s_h, j::s_w] for i in range(s_h) for j in range(s_w)]
