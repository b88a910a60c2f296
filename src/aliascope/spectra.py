"""Spectra of maps and the share of their energy that aliases when they are sampled.

Convention everywhere: frequencies are per axis and 1 is Nyquist (0.5 cycles/pixel); spectra are
two-sided and unwindowed, so the map is taken as periodic; the mean is kept unless said otherwise.
Nothing here knows of models or files: tensors in, tensors out.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from functools import lru_cache, reduce
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Band = Literal["disc", "box"]
DC = Literal["keep", "remove"]
Reduction = Literal["power", "channel"]
Stride = int | float | Sequence[int | float]

AVR_VARIANTS: dict[str, tuple[Band, DC]] = {
    "avr": ("disc", "keep"),
    "avr_box": ("box", "keep"),
    "avr_ac": ("disc", "remove"),
    "avr_box_ac": ("box", "remove"),
}
"""The columns that a run stores of what a layer reads: band and treatment of the mean."""

SAMPLED_VARIANTS = (*(f"sampled_{name}" for name in AVR_VARIANTS), "alias_share")
"""The columns that it stores of what is decimated."""

_SUMMED = 112
"""At most so many terms are added up at a time in float32."""

_SEEN = 112
"""Samples a side whose amplitudes are compared: larger maps show as much in their middle."""

_ON_THE_LIMIT = 1e-9
"""Frequencies this close are equal: 0.6² + 0.8² must lie on the unit circle."""


def power_spectrum(x: Float[Tensor, "*lead h w"]) -> Float[Tensor, "*lead h w"]:
    """Power spectrum with the zero frequency in the centre.

    P = |fftshift(FFT2(x))|², unnormalised: Σ P = H·W·Σ x² (Parseval).

    Args:
        x: maps, any leading axes; half precision is computed in float32.

    Returns:
        The same shape, float32 or float64, in squared units of `x`.

    >>> power_spectrum(torch.ones(2, 2)).tolist()
    [[0.0, 0.0], [0.0, 16.0]]
    """
    spectrum = torch.fft.fft2(_full_precision(x))
    return torch.fft.fftshift(spectrum.real**2 + spectrum.imag**2, dim=(-2, -1))


def log_power_spectrum(power: Float[Tensor, "*lead h w"]) -> Float[Tensor, "*lead h w"]:
    """log(1 + P), for pictures: the dynamic range of a power spectrum spans many decades.

    >>> log_power_spectrum(torch.zeros(1, 1)).item()
    0.0
    """
    return torch.log1p(power)


def radial_profile(
    power: Float[Tensor, "*lead h w"], bins: int | None = None
) -> tuple[Float[Tensor, " k"], Float[Tensor, "*lead k"]]:
    """Energy in rings around the zero frequency.

    Ring k holds the bins whose radius r = √(f_u² + f_v²) is nearest to k·Δ, so the energies add
    up to the total, and what lies beyond 1/s is what the alias violation ratio counts.

    Args:
        power: centred power spectrum, as `power_spectrum` returns it.
        bins: number of rings K, the last centred on the corner √2; by default rings are one DFT
            bin of the shorter side wide, Δ = 2 / min(H, W).

    Returns:
        Ring centres k·Δ (K,), where 1 is the per-axis Nyquist frequency, and the summed power
        (..., K).

    Raises:
        ValueError: `bins` below 2.

    >>> frequency, energy = radial_profile(power_spectrum(torch.ones(8, 8)))
    >>> frequency[:3].tolist(), energy[:3].tolist()
    ([0.0, 0.25, 0.5], [4096.0, 0.0, 0.0])
    """
    height, width = power.shape[-2:]
    if bins is not None and bins < 2:
        raise ValueError(f"radial_profile needs at least 2 bins, got {bins}")
    ring = math.sqrt(2) / (bins - 1) if bins else 2 / min(height, width)
    f_u = torch.fft.fftshift(torch.fft.fftfreq(height, dtype=torch.float64)) * 2
    f_v = torch.fft.fftshift(torch.fft.fftfreq(width, dtype=torch.float64)) * 2
    radius = torch.hypot(f_u[:, None], f_v[None, :])
    index = torch.floor(radius / ring + 0.5 + _ON_THE_LIMIT).long()
    count = bins or int(math.sqrt(2) / ring + 0.5 + _ON_THE_LIMIT) + 1
    energy = power.new_zeros(*power.shape[:-2], count)
    energy.index_add_(-1, index.flatten().to(power.device), power.flatten(-2))
    return (torch.arange(count) * ring).to(power), energy


def alias_violation_ratio(
    x: Float[Tensor, "batch chan h w"],
    stride: Stride,
    *,
    band: Band = "disc",
    dc: DC = "keep",
    reduction: Reduction = "power",
) -> Float[Tensor, " batch"]:
    """Share of a map's spectral energy above the cutoff of the grid it is about to be sampled on.

    AVR = Σ_{r > 1/s} P / Σ P with P the power spectrum, averaged over channels, and
    r = √(f_u² + f_v²); for strides (s_h, s_w), √((s_h f_u)² + (s_w f_v)²) > 1. A bin exactly on
    the cutoff counts as clean.

    Computed without an FFT: the low band is one small matrix product per axis with the
    orthonormal real Fourier basis, the total follows from Parseval. In float32 a ratio below
    about 1e-6 is not resolved.

    Args:
        x: maps (B, C, H, W); half precision is computed in float32.
        stride: samples read per sample kept, at least 1, or (rows, columns).
        band: "disc" is the published cutoff; "box" the exact alias-free band of decimation,
            |f_u| < 1/s_h and |f_v| < 1/s_w, where a bin on the limit is its own alias and counts
            half.
        dc: "remove" leaves each channel's mean out of the total; after ReLU it dominates.
        reduction: "power" averages the spectra of the channels; "channel" averages the channels'
            own ratios and leaves out channels without energy.

    Returns:
        The ratio in [0, 1] of each map (B,); NaN where there is no energy to share.

    Raises:
        ValueError: a stride below 1 or an unknown option.

    Source: the published aliasing study ("as published"); the box is the sampling theorem for a
        rectangular lattice.

    >>> board = 1 - 2.0 * ((torch.arange(8)[:, None] + torch.arange(8)) % 2)
    >>> alias_violation_ratio(board[None, None], stride=2).item()
    1.0
    >>> alias_violation_ratio(torch.ones(1, 1, 8, 8), stride=2).item()
    0.0
    """
    if band not in ("disc", "box") or dc not in ("keep", "remove"):
        raise ValueError(f"band is disc or box and dc is keep or remove, got {band!r}, {dc!r}")
    if reduction not in ("power", "channel"):
        raise ValueError(f"reduction is power or channel, got {reduction!r}")
    if reduction == "power":
        return _ratios(x, stride, [(band, dc)])[0]
    each = _ratios(x.flatten(0, 1)[:, None], stride, [(band, dc)])[0]
    return each.unflatten(0, x.shape[:2]).nanmean(dim=1)


def alias_violation_ratios(
    x: Float[Tensor, "batch chan h w"], stride: Stride
) -> dict[str, Float[Tensor, " batch"]]:
    """Every variant of `AVR_VARIANTS` for the price of one: they differ only in a mask.

    >>> sorted(alias_violation_ratios(torch.rand(2, 3, 8, 8), 2))
    ['avr', 'avr_ac', 'avr_box', 'avr_box_ac']
    """
    ratios = _ratios(x, stride, list(AVR_VARIANTS.values()))
    return dict(zip(AVR_VARIANTS, ratios, strict=True))


def sampled_ratios(
    x: Float[Tensor, "batch chan h w"],
    stride: Stride,
    *,
    phase: tuple[int, int] = (0, 0),
    size: tuple[int, int] | None = None,
) -> dict[str, Float[Tensor, " batch"]]:
    """What sampling does to the map that is decimated: its alias ratios, and the alias share.

    `sampled_avr` and the like are `alias_violation_ratios` of x. `alias_share` is
    ‖S(x) − S(L x)‖² / ‖S(x)‖², with S the samples from the phase on, L the ideal low-pass to
    |f_u| < 1/s_h and |f_v| < 1/s_w: which part of the energy of what is kept was folded. NaN where
    nothing is kept.

    Args:
        x: maps (B, C, H, W).
        stride: samples read per sample kept, whole numbers.
        phase: row and column of the first sample.
        size: rows and columns that are kept; all by default.

    >>> tone = torch.tensor([1.0, 0, -1, 0]).repeat(2).expand(1, 1, 8, 8)
    >>> sampled_ratios(tone, (1, 2))["alias_share"], sampled_ratios(tone, (1, 4))["alias_share"]
    (tensor([1.]), tensor([1.]))
    """
    strides = _per_axis(stride)
    with torch.autocast(x.device.type, enabled=False):
        bands = _bands(_full_precision(x), strides)
        ratios = _shares(bands, strides, AVR_VARIANTS.values())
        named = zip(SAMPLED_VARIANTS, ratios, strict=False)
        return dict(named) | {"alias_share": _alias_share(bands, strides, phase, size)}


def lost_share(
    kept: Float[Tensor, "batch chan h w"], clean: Float[Tensor, "batch chan h w"]
) -> Float[Tensor, " batch"]:
    """‖kept − clean‖² / ‖kept‖² of each map: the alias share, where the samples are at hand."""
    kept, clean = _full_precision(kept), _full_precision(clean)
    return _energy(kept - clean) / _energy(kept)


def band_limited(
    x: Float[Tensor, "batch chan h w"],
    stride: Stride,
    *,
    phase: tuple[int, int] | None = None,
    size: tuple[int, int] | None = None,
) -> Float[Tensor, "batch chan h2 w2"]:
    """The map without what aliases at a stride: |f_u| < 1/s_h and |f_v| < 1/s_w alone.

    Args:
        x: maps (B, C, H, W).
        stride: samples read per sample kept.
        phase: row and column of the first sample, to get the samples that a stride of whole numbers
            keeps in place of all.
        size: at most so many rows and columns of these.

    >>> board = 1 - 2.0 * ((torch.arange(8)[:, None] + torch.arange(8)) % 2)
    >>> (band_limited(board[None, None] + 3, 2) - 3).abs().max().item() < 1e-6
    True
    """
    strides, (height, width) = _per_axis(stride), x.shape[2:]
    steps = (1, 1) if phase is None else (int(strides[0]), int(strides[1]))
    start = phase or (0, 0)
    rows, columns = (
        len(range(first, side, step))
        for first, side, step in zip(start, (height, width), steps, strict=True)
    )
    counts = (min(rows, size[0]), min(columns, size[1])) if size else (rows, columns)
    with torch.autocast(x.device.type, enabled=False):
        maps = _full_precision(x).permute(0, 2, 3, 1).flatten(1, 2)  # (B, H·W, C)
        low = _low_band(maps, (height, width), strides)
        y = _at(low, (height, width), strides, steps, start, counts)
    return y.permute(0, 3, 1, 2).to(x.dtype)


def amplitude_spectrum(x: Float[Tensor, "*lead h w"]) -> Float[Tensor, "*lead h2 k"]:
    """What a shift of the map leaves as it is: |FFT2(w x)|, non-negative column frequencies alone.

    w is Hann's window, so that what enters at the border hardly counts, over the middle of the map:
    at most 112 samples a side.

    >>> tone = torch.sin(torch.arange(65) * 0.7).expand(64, 65)
    >>> still, moved = amplitude_spectrum(tone[:, 1:]), amplitude_spectrum(tone[:, :-1])
    >>> ((moved - still).norm() / still.norm()).item() < 0.02
    True
    """
    x = _full_precision(x)
    for axis in (-2, -1):
        side = x.shape[axis]
        x = x.narrow(axis, max(side - _SEEN, 0) // 2, min(side, _SEEN))
    rows, columns = (
        torch.hann_window(side + 2, periodic=False, dtype=x.dtype, device=x.device)[1:-1]
        for side in x.shape[-2:]
    )
    return torch.fft.rfft2(x * (rows[:, None] * columns)).abs()


class _Bands(NamedTuple):
    """Maps, channels last, taken apart."""

    maps: Tensor
    """Without their means, (B, H, W, C)."""
    mean: Tensor
    """(B, 1, C)."""
    low: Tensor
    """Coefficients of the frequencies up to the cutoff, (B, K_h, K_w, C)."""
    ac_energy: Tensor
    dc_energy: Tensor


def _bands(x: Tensor, strides: tuple[float, float]) -> _Bands:
    """One projection, from which all ratios follow."""
    height, width = x.shape[-2:]
    maps = x.permute(0, 2, 3, 1).flatten(1, 2)  # (B, H·W, C), a view of channels_last
    channels = maps.shape[-1]
    lines = maps.new_full((1, height), 1 / height) @ maps.reshape(-1, height, width * channels)
    mean = lines.unflatten(2, (width, channels)).mean(dim=2)  # (B, 1, C)
    # Without the mean, high = total - low hardly cancels, however large the mean is.
    maps = maps - mean
    dc_energy = height * width * _energy(mean)
    ac_energy = _energy(maps)
    unresolved = ac_energy <= (8 * torch.finfo(x.dtype).eps) ** 2 * dc_energy
    ac_energy = ac_energy.masked_fill(unresolved, 0)
    low = _low_band(maps, (height, width), strides)
    return _Bands(maps.unflatten(1, (height, width)), mean, low, ac_energy, dc_energy)


def _ratios(x: Tensor, stride: Stride, variants: Iterable[tuple[Band, DC]]) -> list[Tensor]:
    """One ratio (B,) for each (band, dc) from a single projection."""
    strides = _per_axis(stride)
    # Autocast would round the products to half precision and lose the small high band.
    with torch.autocast(x.device.type, enabled=False):
        return _shares(_bands(_full_precision(x), strides), strides, variants)


def _shares(
    bands: _Bands, strides: tuple[float, float], variants: Iterable[tuple[Band, DC]]
) -> list[Tensor]:
    size = bands.maps.shape[1], bands.maps.shape[2]
    # Beside the few strong coefficients the many weak ones would be lost in a float32 sum.
    low = torch.linalg.vecdot(bands.low, bands.low).flatten(1).double()  # (B, K_h·K_w)
    ratios = []
    for band, dc in variants:
        clean = low @ _clean_share(size, strides, band, low.dtype, low.device)
        high = (bands.ac_energy - clean).clamp(min=0)
        total = bands.ac_energy + bands.dc_energy if dc == "keep" else bands.ac_energy
        ratios.append((high / total).to(bands.maps.dtype))
    return ratios


def _alias_share(
    bands: _Bands,
    strides: tuple[float, float],
    phase: tuple[int, int],
    size: tuple[int, int] | None,
) -> Tensor:
    steps = int(strides[0]), int(strides[1])
    kept = bands.maps[:, phase[0] :: steps[0], phase[1] :: steps[1]]
    rows, columns = size or kept.shape[1:3]
    kept = kept[:, :rows, :columns]
    sides = bands.maps.shape[1], bands.maps.shape[2]
    clean = _at(bands.low, sides, strides, steps, phase, (kept.shape[1], kept.shape[2]))
    folded, whole = _energy(kept - clean), _energy(kept + bands.mean[:, None])
    return folded.masked_fill(bands.ac_energy == 0, 0) / whole


def _at(
    low: Tensor,
    sides: tuple[int, int],
    strides: tuple[float, float],
    steps: tuple[int, int],
    phase: tuple[int, int],
    size: tuple[int, int],
) -> Tensor:
    """The alias-free band of maps at every s-th place from a phase on, (B, h, w, C)."""
    axes = zip(sides, strides, steps, phase, size, strict=True)
    rows, columns = (_synthesis(*axis, low.dtype, low.device) for axis in axes)
    y = columns @ low  # (B, K_h, w, C)
    return (rows @ y.flatten(2)).unflatten(2, y.shape[2:])


def _energy(maps: Tensor) -> Tensor:
    flat = maps.flatten(1)
    return torch.linalg.vecdot(flat, flat)


def _low_band(
    maps: Tensor, size: tuple[int, int], strides: tuple[float, float]
) -> Float[Tensor, "batch k_h k_w chan"]:
    """The coefficients of A F Bᵀ, the frequencies up to 1/s."""
    height, width = size
    channels = maps.shape[-1]
    rows = _fourier_rows(height, strides[0], maps.dtype, maps.device)  # (K_h, H)
    columns = _fourier_rows(width, strides[1], maps.dtype, maps.device)  # (K_w, W)
    y = _product(rows, maps.reshape(-1, height, width * channels))  # (B, K_h, W·C)
    return _product(columns, y.reshape(-1, len(rows), width, channels))  # (B, K_h, K_w, C)


def _product(basis: Tensor, maps: Tensor) -> Tensor:
    """Basis times maps, long sums in parts: like terms added to a large sum round it alike."""
    parts = zip(basis.split(_SUMMED, dim=-1), maps.split(_SUMMED, dim=-2), strict=True)
    return reduce(torch.add, itertools.starmap(torch.matmul, parts))


@lru_cache(maxsize=256)
def _synthesis(
    n: int,
    stride: float,
    step: int,
    phase: int,
    count: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """What the alias-free coefficients of `_fourier_rows` add up to at places, (count, K)."""
    with torch.inference_mode(mode=False):
        rows = _fourier_rows(n, stride, torch.float64, torch.device("cpu"))
        limit = (_row_frequencies(n, stride) * (2 * stride / n) - 1).abs() <= _ON_THE_LIMIT
        if stride > 1:
            rows = rows.masked_fill(limit[:, None], 0)
        return rows[:, phase::step][:, :count].mT.contiguous().to(device, dtype)


def _top(n: int, stride: float) -> int:
    """The largest of them."""
    return math.floor(n / (2 * stride) + _ON_THE_LIMIT)


def _row_frequencies(n: int, stride: float) -> Tensor:
    """DFT index of each row of `_fourier_rows`: cosines 0…K, then sines where they exist."""
    top = _top(n, stride)
    return torch.cat([torch.arange(top + 1), torch.arange(1, min(top, (n - 1) // 2) + 1)])


@lru_cache(maxsize=256)
def _fourier_rows(n: int, stride: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The orthonormal real Fourier basis of n samples up to frequency 1/stride, (K, n)."""
    # Cached tensors must serve training too, whoever asked first.
    with torch.inference_mode(mode=False):
        k, top = _row_frequencies(n, stride), _top(n, stride)
        angle = 2 * math.pi * (k[:, None] * torch.arange(n) % n).double() / n
        rows = torch.cat([angle[: top + 1].cos(), angle[top + 1 :].sin()])
        return (rows / rows.norm(dim=1, keepdim=True)).to(device, dtype)


@lru_cache(maxsize=256)
def _clean_share(
    size: tuple[int, int],
    strides: tuple[float, float],
    band: Band,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """The share of each coefficient of `_low_band` that does not alias, (K_h·K_w,)."""
    with torch.inference_mode(mode=False):
        (height, width), (s_h, s_w) = size, strides
        f_u = _row_frequencies(height, s_h).double() * (2 * s_h / height)  # 1 = the cutoff
        f_v = _row_frequencies(width, s_w).double() * (2 * s_w / width)
        if band == "disc":
            clean = (torch.hypot(f_u[:, None], f_v) <= 1 + _ON_THE_LIMIT).double()
        else:
            clean = _box_share(f_u, s_h)[:, None] * _box_share(f_v, s_w)
        return clean.flatten().to(device, dtype)


def _box_share(frequency: Tensor, stride: float) -> Tensor:
    # Nothing is decimated at stride 1, so there the Nyquist bin is clean.
    limit = 1.0 if stride == 1 else 0.5
    on_limit = (frequency - 1).abs() <= _ON_THE_LIMIT
    return torch.where(on_limit, limit, (frequency < 1).double())


def _per_axis(stride: Stride) -> tuple[float, float]:
    rows, columns = (stride, stride) if isinstance(stride, int | float) else stride
    if not (rows >= 1 and columns >= 1):
        raise ValueError(f"stride must be at least 1 along each axis, got {stride}")
    return float(rows), float(columns)


def _full_precision(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
