import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from aliascope.spectra import (
    AVR_VARIANTS,
    alias_violation_ratio,
    alias_violation_ratios,
    band_limited,
    log_power_spectrum,
    lost_share,
    power_spectrum,
    radial_profile,
    sampled_ratios,
)

OPTIONS = list(itertools.product(("disc", "box"), ("keep", "remove"), ("power", "channel")))
STRIDES = [1, 2, 3, 4, (2, 1), (1, 2), (3, 2), 1.5]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pixel_checkerboard(side):
    index = torch.arange(side)
    return (1 - 2.0 * ((index[:, None] + index) % 2)).expand(1, 1, side, side)


# The nine unit tests of the published study, under their own names.


def test_power_spectrum_shape():
    assert power_spectrum(torch.rand(2, 3, 7, 10)).shape == (2, 3, 7, 10)


def test_power_spectrum_nonnegative():
    assert (power_spectrum(noise(3, 16, 16)) >= 0).all()


def test_power_spectrum_constant_is_dc_only():
    power = power_spectrum(torch.full((16, 12), 0.5))
    assert power[8, 6].item() == pytest.approx((0.5 * 16 * 12) ** 2)
    power[8, 6] = 0
    assert power.max() < 1e-6


def test_radial_profile_length():
    frequency, energy = radial_profile(torch.rand(5, 32, 32), bins=20)
    assert frequency.shape == (20,)
    assert energy.shape == (5, 20)


def test_radial_profile_nonnegative():
    assert (radial_profile(power_spectrum(noise(32, 32)))[1] >= 0).all()


def test_radial_profile_constant_peaks_at_zero():
    frequency, energy = radial_profile(power_spectrum(torch.ones(32, 32)))
    assert frequency[energy.argmax()] == 0


def test_avr_constant_is_low():
    assert alias_violation_ratio(torch.ones(1, 3, 32, 32), 2).item() == 0


def test_avr_checkerboard_is_high():
    assert alias_violation_ratio(pixel_checkerboard(32), 2).item() == 1


@given(st.integers(0, 2**31), st.sampled_from(STRIDES), st.sampled_from(OPTIONS))
def test_avr_range(seed, stride, options):
    band, dc, reduction = options
    x = noise(2, 3, 9, 12, seed=seed).relu()
    ratio = alias_violation_ratio(x, stride, band=band, dc=dc, reduction=reduction)
    assert ((ratio >= 0) & (ratio <= 1)).all()


# Against the definition.


@settings(max_examples=150)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 19), st.integers(1, 19)),
    stride=st.sampled_from(STRIDES),
    options=st.sampled_from(OPTIONS),
    mean=st.sampled_from([0.0, 1.0, -7.0]),
    seed=st.integers(0, 2**31),
)
def test_avr_equals_the_float64_dft(shape, stride, options, mean, seed):
    band, dc, reduction = options
    x = noise(1, *shape, seed=seed) + mean
    expected = oracles.alias_violation_ratio(x[0], stride, band, dc, reduction)
    actual = alias_violation_ratio(x, stride, band=band, dc=dc, reduction=reduction).item()
    if dc == "remove" and shape[1:] == (1, 1):
        assert math.isnan(actual)
    else:
        assert actual == pytest.approx(expected, abs=1e-5)


def test_the_oracle_notices_a_wrong_cutoff():
    x = noise(2, 14, 14)
    # A narrower band must read higher, or agreement with the oracle would mean nothing.
    assert oracles.alias_violation_ratio(x, 2) != pytest.approx(
        oracles.alias_violation_ratio(x, 2.5), abs=1e-3
    )


@pytest.mark.parametrize("shape", [(224, 224), (56, 57), (14, 14), (7, 7), (31, 1)])
def test_avr_at_the_sizes_of_networks(shape):
    x = noise(2, 3, *shape).relu()
    for band, dc in AVR_VARIANTS.values():
        expected = [oracles.alias_violation_ratio(m, 2, band, dc) for m in x]
        actual = alias_violation_ratio(x, 2, band=band, dc=dc)
        np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.fixture(scope="module")
def avr_by_hand():
    """Of large maps the oracle takes a second each: it is asked once."""
    known = {}

    def avr(x, band, dc):
        key = x.numpy().tobytes(), band, dc
        if key not in known:
            known[key] = oracles.alias_violation_ratio(x, 3, band, dc)
        return known[key]

    return avr


@pytest.mark.xdist_group("spectra")
@pytest.mark.parametrize("reduction", ["power", "channel"])
@pytest.mark.parametrize("channels", [1, 3])
def test_avr_of_large_maps_in_float32(avr_by_hand, channels, reduction):
    """Long sums of like terms, each rounded the same way."""
    place = torch.arange(224)[:, None]
    maps = [
        0.9 + 8 * (place == 223),  # the mean is a sum of 50,000 equal numbers
        0.3 + 1.3 * (place > 95),
        1.3 * torch.cos(2 * math.pi * place / 224),  # all its energy in one coefficient
    ]
    x = torch.stack([m.expand(224, 224) for m in maps])[:, None]
    alike = x.expand(-1, channels, -1, -1).contiguous()  # their ratio is that of one
    for band, dc in AVR_VARIANTS.values():
        expected = [avr_by_hand(m, band, dc) for m in x]
        actual = alias_violation_ratio(alike, 3, band=band, dc=dc, reduction=reduction)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=4e-6)


def test_the_variants_are_the_single_ratios():
    x = noise(3, 4, 14, 10).relu()
    together = alias_violation_ratios(x, 2)
    for name, (band, dc) in AVR_VARIANTS.items():
        torch.testing.assert_close(
            together[name], alias_violation_ratio(x, 2, band=band, dc=dc), rtol=0, atol=0
        )


# Figures that must come out.


def test_avr_of_the_published_frequency_sweep():
    t = torch.linspace(0, 1, 224, dtype=torch.float64)
    sweep = [
        alias_violation_ratio(
            torch.sin(2 * math.pi * f * 112 * t).expand(1, 1, 224, 224).float(), 2
        ).item()
        for f in np.linspace(0.1, 0.9, 10)
    ]
    published = [0.0019, 0.0026, 0.0036, 0.0056, 0.0135, 0.9931, 0.9987, 0.9992, 0.9992, 0.9989]
    assert [round(r, 4) for r in sweep] == published


def test_a_diagonal_tone_violates_the_disc_and_yet_does_not_alias():
    t = torch.arange(56) / 56
    wave = torch.cos(2 * math.pi * 10 * t)
    tone = (wave[:, None] * wave)[None, None]
    assert alias_violation_ratio(tone, 2).item() == pytest.approx(1.0, abs=1e-6)
    assert alias_violation_ratio(tone, 2, band="box").item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("stride", [2, 3, 4])
def test_white_noise_in_the_box_is_one_minus_one_over_stride_squared(stride):
    # An impulse is white noise with no randomness: every bin has the same power.
    impulse = torch.zeros(1, 1, 24, 48)
    impulse[..., 5, 7] = 1
    ratio = alias_violation_ratio(impulse, stride, band="box").item()
    assert ratio == pytest.approx(1 - 1 / stride**2, abs=1e-6)


def test_stride_one_keeps_the_box_and_loses_the_corners_of_the_disc():
    impulse = torch.zeros(1, 1, 512, 512)
    impulse[..., 0, 0] = 1
    assert alias_violation_ratio(impulse, 1, band="box").item() == pytest.approx(0, abs=1e-6)
    assert alias_violation_ratio(impulse, 1).item() == pytest.approx(1 - math.pi / 4, abs=2e-3)


def test_the_mean_dominates_after_relu():
    uniform = torch.rand(1, 64, 112, 112, generator=torch.Generator().manual_seed(0))
    # White noise puts 1 - π/16 of its varying energy outside the disc; uniform [0, 1) noise has
    # three quarters of its energy, E[x]² / E[x²], in the mean.
    outside = 1 - math.pi / 16
    assert alias_violation_ratio(uniform, 2).item() == pytest.approx(outside / 4, abs=2e-3)
    assert alias_violation_ratio(uniform, 2, dc="remove").item() == pytest.approx(outside, abs=2e-3)


def test_a_bin_on_the_cutoff_is_clean():
    # (6, 8) cycles of 20: r = √(0.6² + 0.8²) = 1 exactly, at stride 1.
    t = torch.arange(20) / 20
    angle = 2 * math.pi * (6 * t[:, None] + 8 * t)
    assert alias_violation_ratio(angle.cos()[None, None], 1).item() == pytest.approx(0, abs=1e-6)


# Edges.


def test_no_energy_is_undefined_not_zero():
    assert alias_violation_ratio(torch.zeros(1, 2, 8, 8), 2).isnan().all()
    assert alias_violation_ratio(torch.full((1, 2, 8, 8), 0.1), 2, dc="remove").isnan().all()
    assert alias_violation_ratio(torch.full((1, 2, 8, 8), 0.1), 2).item() == 0


def test_a_channel_without_energy_is_left_out_of_the_channel_mean():
    x = torch.cat([pixel_checkerboard(8), torch.zeros(1, 1, 8, 8)], dim=1)
    assert alias_violation_ratio(x, 2, reduction="channel").item() == 1


def test_nan_stays_nan_and_spoils_only_its_own_map():
    x = torch.rand(2, 1, 8, 8)
    x[0, 0, 3, 3] = math.nan
    assert alias_violation_ratio(x, 2).isnan().tolist() == [True, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    x = torch.rand(2, 8, 28, 28).to(dtype)
    ratio = alias_violation_ratio(x, 2)
    assert ratio.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = alias_violation_ratio(x, 2)
    torch.testing.assert_close(inside, alias_violation_ratio(x.float(), 2), rtol=0, atol=0)
    torch.testing.assert_close(ratio, inside, rtol=0, atol=0)


def test_memory_layout_does_not_matter():
    x = noise(2, 6, 14, 14)
    torch.testing.assert_close(
        alias_violation_ratio(x.contiguous(memory_format=torch.channels_last), 2),
        alias_violation_ratio(x, 2),
        rtol=0,
        atol=1e-6,
    )


def test_it_is_differentiable_even_after_inference_filled_the_caches():
    with torch.inference_mode():
        alias_violation_ratio(torch.rand(1, 1, 22, 22), 2)
    x = torch.rand(1, 1, 22, 22, requires_grad=True)
    alias_violation_ratio(x, 2, band="box").sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"stride": 0.5}, "stride must be at least 1 along each axis, got 0.5"),
        ({"stride": (2, 0)}, r"got \(2, 0\)"),
    ],
)
def test_bad_arguments_are_named(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        alias_violation_ratio(torch.rand(1, 1, 8, 8), **arguments)


# Properties.

maps = st.builds(
    lambda h, w, seed: noise(1, 2, h, w, seed=seed),
    st.integers(2, 16),
    st.integers(2, 16),
    st.integers(0, 2**31),
)


@given(maps)
def test_parseval(x):
    power = power_spectrum(x)
    total = x.double().square().sum() * x.shape[-2] * x.shape[-1]
    assert power.double().sum().item() == pytest.approx(total.item(), rel=1e-5)


@given(maps, st.sampled_from([None, 5, 12]))
def test_ring_energies_add_up(x, bins):
    power = power_spectrum(x)
    torch.testing.assert_close(radial_profile(power, bins)[1].sum(-1), power.sum((-2, -1)))


def test_radial_profile_finds_a_tone_where_it_is():
    t = torch.arange(64) / 64
    tone = torch.cos(2 * math.pi * 12 * t).expand(64, 64)
    frequency, energy = radial_profile(power_spectrum(tone))
    assert frequency[energy.argmax()].item() == 12 / 32
    assert frequency[-1] == pytest.approx(math.sqrt(2), abs=1 / 32)


def test_radial_profile_refuses_one_bin():
    with pytest.raises(ValueError, match="at least 2 bins, got 1"):
        radial_profile(torch.rand(8, 8), bins=1)


@given(maps, st.integers(0, 15), st.integers(0, 15), st.floats(0.01, 100))
def test_avr_ignores_circular_shift_and_scale(x, dy, dx, scale):
    moved = scale * torch.roll(x, (dy, dx), dims=(-2, -1))
    torch.testing.assert_close(
        alias_violation_ratio(moved, 2), alias_violation_ratio(x, 2), rtol=0, atol=2e-6
    )


@given(maps)
def test_avr_grows_with_stride(x):
    ratios = [alias_violation_ratio(x, s).item() for s in (1, 1.5, 2, 3, 4)]
    assert all(a <= b + 1e-6 for a, b in itertools.pairwise(ratios))


def test_log_power_spectrum_is_log1p():
    power = torch.tensor([[0.0, math.e - 1]])
    torch.testing.assert_close(log_power_spectrum(power), torch.tensor([[0.0, 1.0]]))


class TestSampledRatios:
    @pytest.mark.parametrize("shape", [(12, 12), (13, 10), (14, 15), (7, 9)])
    @pytest.mark.parametrize("stride", [2, 3, (2, 1), (1, 3)])
    @pytest.mark.parametrize("phase", [(0, 0), (1, 0)])
    def test_alias_share_is_that_of_an_fft(self, shape, stride, phase):
        strides = (stride, stride) if isinstance(stride, int) else stride
        if phase[0] >= strides[0]:
            phase = (0, 0)
        x = torch.randn(2, 3, *shape, dtype=torch.float64) + 2
        found = sampled_ratios(x, stride, phase=phase)
        wanted = [oracles.alias_share(map_.numpy(), strides, phase) for map_ in x]
        np.testing.assert_allclose(found["alias_share"], wanted, rtol=1e-9, atol=1e-12)
        ratios = alias_violation_ratios(x, stride)
        assert {f"sampled_{name}" for name in ratios} | {"alias_share"} == set(found)
        for name, ratio in ratios.items():
            assert torch.equal(found[f"sampled_{name}"], ratio)

    def test_of_no_energy_it_is_undefined_and_of_a_constant_zero(self):
        assert sampled_ratios(torch.zeros(1, 2, 8, 8), 2)["alias_share"].isnan()
        assert sampled_ratios(torch.ones(1, 2, 8, 8), 2)["alias_share"] == 0

    def test_white_noise_folds_as_much_as_the_band_that_is_lost(self):
        x = torch.randn(1, 400, 24, 24, generator=torch.Generator().manual_seed(0))
        found = sampled_ratios(x, 2)["alias_share"]
        assert found.item() == pytest.approx(1 - (11 / 24) ** 2, abs=0.01)

    def test_only_what_is_kept_counts(self):
        x = torch.randn(1, 2, 9, 9, dtype=torch.float64)
        found = sampled_ratios(x, 2, size=(4, 4))["alias_share"]
        clean = band_limited(x, 2)
        kept, low = (y[..., ::2, ::2][..., :4, :4] for y in (x, clean))
        assert found.item() == pytest.approx(((kept - low) ** 2).sum() / (kept**2).sum())
        assert lost_share(kept, low).item() == pytest.approx(found.item())
