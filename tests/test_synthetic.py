"""Each picture against the spectrum it is documented to have."""

import math

import pytest
import torch

from aliascope.study import synthetic


def power(picture):
    return torch.fft.fft2(picture[0].double()).abs().square()


def radius(side):
    frequency = 2 * torch.fft.fftfreq(side, dtype=torch.float64)
    return torch.hypot(frequency[:, None], frequency)


def share_above(picture, cutoff):
    energy = power(picture)
    return float(energy[radius(picture.shape[-1]) > cutoff + 1e-9].sum() / energy.sum())


def test_every_picture_is_one_float32_channel():
    generator = torch.Generator().manual_seed(0)
    pictures = [
        synthetic.constant(5),
        synthetic.checkerboard(5),
        synthetic.sinusoid(5, 0.3),
        synthetic.white_noise(5, generator),
        synthetic.zone_plate(5),
    ]
    assert [(p.shape, p.dtype, p.is_contiguous()) for p in pictures] == [
        ((1, 5, 5), torch.float32, True)
    ] * 5


def test_constant_has_only_the_zero_frequency():
    energy = power(synthetic.constant(6, value=0.25))
    assert energy[0, 0] == (0.25 * 36) ** 2
    assert energy.sum() == energy[0, 0]


def test_checkerboard_has_only_the_nyquist_corner():
    energy = power(synthetic.checkerboard(8))
    assert energy[4, 4] == 64**2
    assert energy.sum() == energy[4, 4]


def test_wider_squares_halve_the_frequency():
    energy = power(synthetic.checkerboard(8, period=2))
    assert energy[2, 2] > 0
    assert energy[4, 4] == 0


def test_sinusoid_gives_the_published_ratios_at_stride_two():
    frequencies = torch.linspace(0.1, 0.9, 10).tolist()
    shares = [share_above(synthetic.sinusoid(224, frequency), 0.5) for frequency in frequencies]
    published = [0.0019, 0.0026, 0.0036, 0.0056, 0.0135, 0.9931, 0.9987, 0.9992, 0.9992, 0.9989]
    assert [round(share, 4) for share in shares] == published


def test_sinusoid_varies_along_the_columns_only():
    picture = synthetic.sinusoid(16, 0.5)[0]
    assert torch.equal(picture, picture[:1].expand(16, 16))
    assert picture[0].unique().numel() > 2


def test_white_noise_is_flat_and_repeatable():
    first, again, other = (
        synthetic.white_noise(256, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    # Variance 1 of 65,536 pixels: the mean power is side² within 5 standard errors.
    assert float(power(first).mean()) / 256**2 == pytest.approx(1, abs=5 * math.sqrt(2) / 256)
    assert share_above(first, 1) == pytest.approx(1 - math.pi / 4, abs=0.01)


def test_white_noise_leaves_global_randomness_alone():
    before = torch.get_rng_state()
    synthetic.white_noise(4, torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("side", [64, 65])
def test_zone_plate_is_symmetric(side):
    picture = synthetic.zone_plate(side)
    assert torch.equal(picture, picture.mT)
    assert torch.equal(picture, picture.flip(-1))


def test_zone_plate_frequency_grows_linearly_to_nyquist():
    """In a strip around distance x from the centre the strongest frequency along x is 2x / side."""
    side, width = 512, 32
    row = synthetic.zone_plate(side)[0, side // 2].double()
    for start in range(side // 2, side - width + 1, width):
        strip = row[start : start + width] * torch.hann_window(width, dtype=torch.float64)
        strongest = torch.fft.rfft(strip, 1024).abs()[16:].argmax() + 16
        middle = start + (width - 1) / 2 - (side - 1) / 2
        assert float(strongest) / 512 == pytest.approx(2 * middle / side, abs=0.04)
