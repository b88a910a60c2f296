import copy

import pytest
import torch
from torch import nn

from aliascope import ModelError, antialias, load_model, strided_layers
from aliascope.layers import BlurPool


@pytest.fixture(scope="module")
def lite0():
    return load_model("efficientnet_lite0", weights="random").module


class TestBlurPool:
    @pytest.mark.parametrize("size", range(1, 8))
    @pytest.mark.parametrize("shape", [(7, 7), (8, 8), (14, 9), (5, 16)])
    @pytest.mark.parametrize("phase", [0, 1])
    def test_constants_survive_and_the_side_is_halved_upwards(self, size, shape, phase):
        y = BlurPool(2, size=size, phase=phase)(torch.ones(1, 2, *shape))
        assert y.shape[2:] == tuple(-(-n // 2) for n in shape)
        torch.testing.assert_close(y, torch.ones_like(y))

    @pytest.mark.parametrize("size", range(1, 8))
    def test_the_taps_are_binomial_and_sum_to_one(self, size):
        impulse = torch.zeros(1, 1, 32, 32)
        impulse[..., 16, 16] = 1
        dense = BlurPool(1, stride=1, size=size)(impulse)[0, 0]
        row = [1.0]
        for _ in range(size - 1):
            row = [a + b for a, b in zip([0, *row], [*row, 0], strict=True)]
        found = dense.sum(0)
        assert found[found > 0].tolist() == pytest.approx([r / 2 ** (size - 1) for r in row])

    @pytest.mark.parametrize("stride", [2, 3, 4])
    def test_a_circular_roll_by_the_stride_rolls_the_output_by_one(self, stride):
        x = torch.randn(1, 4, 24, 24)
        pool = BlurPool(4, stride, size=4, padding="circular")
        torch.testing.assert_close(
            pool(x.roll((stride, -stride), (2, 3))), pool(x).roll((1, -1), (2, 3))
        )

    @pytest.mark.parametrize("phase", [0, 1])
    def test_the_phase_is_the_sample_that_the_filter_is_centred_on(self, phase):
        x = torch.randn(1, 3, 12, 12)
        assert torch.equal(BlurPool(3, size=1, phase=phase)(x), x[..., phase::2, phase::2])
        smooth = BlurPool(3, stride=1, size=3)(x)
        y = BlurPool(3, size=3, phase=phase)(x)
        torch.testing.assert_close(y[..., :5, :5], smooth[..., phase::2, phase::2][..., :5, :5])

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            ({"size": 8}, "1 to 7 taps, got 8"),
            ({"padding": "wrap"}, "got 'wrap'"),
            ({"phase": 2}, "0 to 1 for stride 2, got 2"),
        ],
    )
    def test_bad_arguments_are_named(self, arguments, sentence):
        with pytest.raises(ValueError, match=sentence):
            BlurPool(3, **arguments)


class TestSurgery:
    def test_the_strided_convolutions_of_lite0_become_blur_pools(self, lite0):
        example = torch.zeros(1, 3, 224, 224)
        before = strided_layers(lite0, example)
        after = strided_layers(antialias(lite0, size=2), example)
        assert [layer.kind for layer in after] == ["conv"] + 4 * ["blur_pool"]
        assert [layer.output_shape for layer in after] == [layer.output_shape for layer in before]

    def test_weights_stay_bit_for_bit_and_load_strictly(self, lite0):
        original = copy.deepcopy(lite0.state_dict())
        converted = antialias(lite0)
        assert converted.state_dict().keys() == original.keys()
        for name, tensor in converted.state_dict().items():
            assert torch.equal(tensor, original[name])
            assert torch.equal(lite0.state_dict()[name], original[name])
        converted.load_state_dict(original, strict=True)
        assert strided_layers(lite0, torch.zeros(1, 3, 64, 64))[1].kind == "conv"

    @pytest.mark.parametrize("side", [224, 64])
    def test_one_tap_is_the_original_network(self, lite0, side):
        """Plain decimation on the right phase of the dense response is the strided convolution."""
        x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
        converted = antialias(lite0, size=1, example=x)
        with torch.no_grad():
            torch.testing.assert_close(converted(x), lite0(x), rtol=1e-4, atol=1e-5)

    def test_one_tap_is_the_original_with_torch_padding_too(self):
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 5, 2, 2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        ).eval()
        x = torch.randn(1, 3, 64, 64)
        torch.testing.assert_close(antialias(model, size=1, example=x)(x), model(x))

    def test_a_model_is_never_converted_by_half(self):
        with pytest.raises(ModelError, match=r"cannot anti-alias maxpool \(max_pool\)"):
            antialias(load_model("timm:resnet18", weights="random").module)

    @pytest.mark.parametrize(
        ("spec", "sentence"),
        [
            ("@blur", "unknown method 'blur'; choose from blurpool"),
            ("@blurpool:9", "1 to 7 taps, got 9"),
            ("@blurpool:two", "whole number of taps, as in @blurpool:3"),
        ],
    )
    def test_bad_methods_are_named(self, spec, sentence):
        with pytest.raises(ModelError, match=sentence):
            load_model(f"efficientnet_lite0{spec}", weights="random")
