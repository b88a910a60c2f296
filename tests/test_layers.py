import copy
import inspect

import numpy as np
import onnxruntime
import pytest
import pywt
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import oracles
from aliascope import alias_violation_ratio
from aliascope.layers import (
    LAYERS,
    AdaptivePool,
    APSPool,
    BlurPool,
    IdealPool,
    LPSPool,
    TIPSPool,
    WaveletPool,
)
from aliascope.layers._downsampler import PADDINGS, extend
from aliascope.layers.wavelet import WAVELETS

STRIDES = [2, 3, 4, (1, 2), (3, 2)]
EXACT = {"rtol": 0, "atol": 0}

sides = st.integers(1, 9)
strides = st.sampled_from([1, *STRIDES])
paddings = st.sampled_from(PADDINGS)
seeds = st.integers(0, 2**31)


def pair(stride):
    return (stride, stride) if isinstance(stride, int) else stride


def halved(shape, stride):
    return tuple(-(-n // s) for n, s in zip(shape, pair(stride), strict=True))


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shaken(layer, seed=0):
    """A learned layer as after some training: none of its weights is what it started with."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return layer


def a_roll_of(y, z):
    """Whether z is, bit for bit, some circular shift of y."""
    _, _, height, width = y.shape
    rolls = (y.roll((i, j), (2, 3)) for i in range(height) for j in range(width))
    return y.shape == z.shape and any(torch.equal(rolled, z) for rolled in rolls)


class TestEveryLayer:
    @pytest.mark.parametrize("name", LAYERS)
    def test_signatures_open_alike(self, name):
        parameters = inspect.signature(LAYERS[name]).parameters
        assert list(parameters)[:4] == ["channels", "stride", "size", "padding"]
        assert [p.default for p in parameters.values()][1:3] == [2, 3]
        assert parameters["padding"].default == ("circular" if name == "ideal" else "reflect")
        assert all(p.kind is p.KEYWORD_ONLY for p in list(parameters.values())[2:])

    @pytest.mark.parametrize("name", LAYERS)
    @given(
        shape=st.tuples(sides, sides),
        batch=st.integers(1, 2),
        stride=strides,
        padding=st.sampled_from(["reflect", "replicate", "circular"]),
        dtype=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]),
        layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    )
    @settings(max_examples=15)
    def test_constants_survive_at_every_size(
        self, name, shape, batch, stride, padding, dtype, layout
    ):
        x = torch.tensor([3.0, -2.0]).repeat(batch, 1)[:, :, None, None].expand(-1, -1, *shape)
        x = x.to(dtype).contiguous(memory_format=layout)
        y = LAYERS[name](2, stride, padding=padding).eval()(x)
        expected = x[:, :, :1, :1].expand(-1, -1, *halved(shape, stride))
        torch.testing.assert_close(y, expected, rtol=1e-2 if dtype.itemsize == 2 else 1e-6, atol=0)
        assert y.is_contiguous(memory_format=layout)

    @pytest.mark.parametrize("name", LAYERS)
    @pytest.mark.parametrize("stride", [2, (3, 2)])
    def test_layout_and_precision_change_nothing(self, name, stride):
        x = noise(2, 4, 14, 9)
        layer = shaken(LAYERS[name](4, stride)).eval()
        y = layer(x)
        last = layer(x.to(memory_format=torch.channels_last))
        assert last.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(last, y, rtol=1e-5, atol=1e-6)
        for dtype in (torch.float16, torch.bfloat16):
            low = layer(x.to(dtype))
            assert low.dtype == dtype
            torch.testing.assert_close(low.float(), y, rtol=0, atol=16 * torch.finfo(dtype).eps)

    @pytest.mark.parametrize("name", LAYERS)
    def test_autocast_costs_precision_only(self, name):
        x = noise(2, 4, 14, 9)
        layer = shaken(LAYERS[name](4)).eval()
        with torch.autocast("cpu", torch.bfloat16):
            low = layer(x).float()
        torch.testing.assert_close(low, layer(x), rtol=0, atol=0.1)

    @pytest.mark.parametrize("name", LAYERS)
    def test_images_of_a_batch_do_not_meet(self, name):
        x = noise(5, 3, 11, 8)
        layer = shaken(LAYERS[name](3)).eval()
        alone = torch.cat([layer(image[None]) for image in x])
        torch.testing.assert_close(layer(x), alone, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("name", LAYERS)
    def test_one_layer_serves_all_sizes_in_any_order(self, name):
        """Nothing is remembered of the first size, and rows are not columns."""
        layer = shaken(LAYERS[name](3)).eval()
        for shape in [(14, 6), (6, 14), (14, 14), (7, 6)]:
            x = noise(1, 3, *shape)
            torch.testing.assert_close(layer(x), copy.deepcopy(layer)(x), **EXACT)
            fresh = shaken(LAYERS[name](3)).eval()
            torch.testing.assert_close(layer(x), fresh(x), **EXACT)

    @pytest.mark.parametrize("name", ["blurpool", "ideal", "aps", "wavelet"])
    @pytest.mark.parametrize("stride", [(2, 3), (1, 2), 2])
    def test_transposing_the_map_transposes_the_result(self, name, stride):
        x = noise(2, 3, 14, 9)
        layer, turned = LAYERS[name](3, stride), LAYERS[name](3, pair(stride)[::-1])
        torch.testing.assert_close(turned(x.mT).mT, layer(x), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("name", LAYERS)
    def test_state_holds_what_is_learned_and_no_filters(self, name):
        layer = LAYERS[name](3)
        learned = name in ("lps", "adaptive", "tips")
        assert bool(layer.state_dict()) == learned
        assert not [key for key in layer.state_dict() if "kernel" in key]
        other = shaken(LAYERS[name](3), seed=1)
        other.load_state_dict(layer.state_dict(), strict=True)
        x = noise(1, 3, 8, 8)
        torch.testing.assert_close(other.eval()(x), layer.eval()(x), **EXACT)

    @pytest.mark.parametrize("name", LAYERS)
    def test_gradients_reach_the_map_and_every_parameter(self, name):
        x = noise(2, 3, 9, 8).requires_grad_()
        layer = shaken(LAYERS[name](3, stride=(2, 3)))
        (layer(x) ** 2).sum().backward()
        for tensor in (x, *layer.parameters()):
            assert tensor.grad.isfinite().all()
            assert tensor.grad.abs().sum() > 0

    @pytest.mark.parametrize("name", LAYERS)
    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            ({"padding": "wrap"}, "reflect, zeros, replicate, circular, got 'wrap'"),
            ({"stride": 0}, "channels and stride must be at least 1, got 3 and 0"),
            ({"stride": (2, 0)}, r"at least 1, got 3 and \(2, 0\)"),
        ],
    )
    def test_bad_arguments_are_named(self, name, arguments, sentence):
        with pytest.raises(ValueError, match=sentence):
            LAYERS[name](3, **arguments)

    @pytest.mark.parametrize("name", LAYERS)
    def test_a_map_of_other_channels_is_refused(self, name):
        with pytest.raises(ValueError, match=r"made for 3 channels and got .* \(1, 4, 6, 6\)"):
            LAYERS[name](3).eval()(noise(1, 4, 6, 6))

    @pytest.mark.parametrize("name", ["blurpool", "wavelet", "adaptive", "tips", "ideal"])
    def test_the_phase_moves_the_centre(self, name):
        """Away from the border, phase p is phase 0 of the map moved up and left by p."""
        x = noise(1, 4, 24, 26)
        moved = x.roll((-1, -2), (2, 3))
        y, z = (
            LAYERS[name](4, (2, 4), padding="circular", phase=phase).eval()(maps)
            for maps, phase in ((x, (1, 2)), (moved, 0))
        )
        inner = (slice(None), slice(None), slice(2, 9), slice(2, 4))
        torch.testing.assert_close(y[inner], z[inner], rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("name", ["blurpool", "wavelet", "adaptive", "tips", "ideal"])
    def test_a_phase_outside_of_the_cell_is_refused(self, name):
        with pytest.raises(ValueError, match=r"phase must be 0 to 1 for stride 2, got \(0, 2\)"):
            LAYERS[name](3, (3, 2), phase=(0, 2))


CHOOSING = ("aps", "lps", "tips")


class TestDenseAndSample:
    """What is decimated, and the samples that are kept of it."""

    @pytest.mark.parametrize("name", LAYERS)
    @given(
        shape=st.tuples(sides, sides),
        stride=st.sampled_from([1, 2, 3, (2, 1)]),
        size=st.integers(1, 5),
        padding=paddings,
        data=st.data(),
    )
    @settings(max_examples=40)
    def test_the_samples_of_the_dense_map_are_the_output(
        self, name, shape, stride, size, padding, data
    ):
        options = {"size": size, "padding": padding}
        if "phase" in inspect.signature(LAYERS[name]).parameters:
            places = st.floats(0, 0.75) if name == "ideal" else st.just(0)
            options["phase"] = tuple(
                data.draw(st.integers(0, s - 1)) + data.draw(places) for s in pair(stride)
            )
        x = noise(2, 3, *shape)
        layer = shaken(LAYERS[name](3, stride, **options)).eval()
        dense = layer.dense(x)
        reached = [
            max(side, s * (-(-side // s) - 1) + int(p) + 1)
            for side, s, p in zip(shape, pair(stride), layer.phases, strict=True)
        ]
        goes_on = name in ("blurpool", "wavelet", "adaptive", "ideal") and padding != "circular"
        mapped = name == "blurpool" and size == 1
        assert list(dense.shape[2:]) == (reached if goes_on and not mapped else [*shape])
        assert torch.equal(dense, x) or not (mapped or name == "tips")
        torch.testing.assert_close(layer.sample(dense), layer(x), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("name", LAYERS)
    @pytest.mark.parametrize("stride", [2, (3, 2)])
    def test_a_choice_is_one_of_the_map_and_sampling_by_it_is_linear(self, name, stride):
        x, z = noise(6, 3, 9, 8), noise(6, 3, 9, 8, seed=1)
        layer = shaken(LAYERS[name](3, stride, padding="replicate")).eval()
        dense, other = layer.dense(x), layer.dense(z)
        choice = layer.choice_of(dense)
        assert (choice is None) == (name not in CHOOSING)
        torch.testing.assert_close(layer.sample(dense, choice), layer(x))
        sampled = layer.sample(dense, choice) - 2 * layer.sample(other, choice)
        torch.testing.assert_close(layer.sample(dense - 2 * other, choice), sampled)
        if name in CHOOSING:
            assert not torch.allclose(layer.sample(other, choice), layer(z))

    def test_dense_maps_of_fixed_filters_are_those_at_stride_1(self):
        """An oracle of its own for what lies between the samples."""
        x = noise(1, 2, 9, 8)
        taps = np.array([1, 2, 1]) / 4
        found = BlurPool(2, 3, phase=(2, 1)).dense(x)[0]
        expected = oracles.filter_and_decimate(x[0], taps, taps, (1, 1), (-1, -1), "reflect")
        np.testing.assert_allclose(found, expected, atol=1e-6)
        rows, haar = np.ones(1), np.ones(2) / 2
        found = WaveletPool(2, (1, 2), phase=(0, 1)).dense(x)[0]
        expected = oracles.filter_and_decimate(x[0], rows, haar, (1, 1), (0, 0), "reflect")
        np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_the_ideal_dense_map_is_every_phase_in_turn(self):
        x = noise(1, 2, 8, 6)
        dense = IdealPool(2, phase=(0.5, 0)).dense(x)
        for i in range(2):
            for j in range(2):
                found = IdealPool(2, phase=(i + 0.5, j))(x)
                torch.testing.assert_close(dense[:, :, i::2, j::2], found)

    @pytest.mark.parametrize("layer", [APSPool, LPSPool])
    def test_a_follower_is_sampled_as_its_leader_chose_and_spends_nothing(self, layer):
        both = nn.ModuleList([layer(3), layer(3)]).eval()
        main, shortcut = both
        shortcut.follow(main)
        x, z = noise(6, 3, 8, 6), noise(6, 3, 8, 6, seed=1)
        with pytest.raises(RuntimeError, match="ran before the one that it follows"):
            shortcut.sample(shortcut.dense(z))
        main(x)
        dense = shortcut.dense(z)
        choice = shortcut.choice_of(dense)
        assert torch.equal(choice, main.choose(x))
        assert not torch.equal(choice, layer(3).eval().choose(z))
        sampled = shortcut.sample(dense)
        assert torch.equal(sampled, shortcut.sample(dense, choice))
        assert torch.equal(sampled, shortcut(z))


class AllLayers(nn.Module):
    def __init__(self, stride):
        super().__init__()
        self.layers = nn.ModuleList(
            shaken(layer(4, stride), seed) for seed, layer in enumerate(LAYERS.values())
        )

    def forward(self, x):
        return tuple(layer(x) for layer in self.layers)


class TestExport:
    def test_torch_export_with_any_batch_agrees(self):
        model = AllLayers((3, 2)).eval()
        batch = torch.export.Dim("batch", min=2, max=8)
        program = torch.export.export(model, (noise(2, 4, 14, 9),), dynamic_shapes=({0: batch},))
        x = noise(3, 4, 14, 9, seed=1)
        for name, y, z in zip(LAYERS, program.module()(x), model(x), strict=True):
            torch.testing.assert_close(y, z, rtol=1e-5, atol=1e-6, msg=name)

    @pytest.mark.slow
    def test_onnx_agrees(self):
        model, x = AllLayers((3, 2)).eval(), noise(2, 4, 14, 9)
        exported = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(exported.model_proto.SerializeToString())
        x = noise(2, 4, 14, 9, seed=1)
        outputs = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        for name, y, z in zip(LAYERS, outputs, model(x), strict=True):
            np.testing.assert_allclose(y, z.detach().numpy(), atol=1e-4, err_msg=name)


class TestExtend:
    @given(
        shape=st.tuples(st.integers(1, 5), st.integers(1, 5)),
        border=st.tuples(*[st.integers(0, 9)] * 4),
        crop=st.tuples(st.integers(0, 2), st.integers(0, 2)),
        padding=paddings,
    )
    def test_it_is_numpys_pad_however_narrow_the_map(self, shape, border, crop, padding):
        x = noise(1, 2, *shape)
        top, bottom, left, right = border
        assume(np.__version__ >= "2" or max(border) <= min(shape))  # older ones mirror wrongly then
        around = np.pad(
            x.numpy(), [(0, 0), (0, 0), (top, bottom), (left, right)], oracles.PAD_MODES[padding]
        )
        assume(crop[0] < around.shape[2] and crop[1] < around.shape[3])
        windows = (crop[0] - top, shape[0] + bottom), (crop[1] - left, shape[1] + right)
        found = extend(x, *windows, padding)
        assert np.array_equal(found, around[:, :, crop[0] :, crop[1] :])


class TestFixedFilters:
    """BlurPool and WaveletPool against loops over samples and taps."""

    @given(
        shape=st.tuples(sides, sides),
        stride=strides,
        size=st.integers(1, 7),
        padding=paddings,
        data=st.data(),
    )
    @settings(max_examples=60)
    def test_blur_pool(self, shape, stride, size, padding, data):
        phase = tuple(data.draw(st.integers(0, s - 1)) for s in pair(stride))
        x = noise(1, 2, *shape)
        taps = np.poly1d([0.5, 0.5]) ** (size - 1)
        taps = taps.coeffs if size > 1 else np.ones(1)
        first = [p - (size - 1) // 2 for p in phase]
        expected = oracles.filter_and_decimate(x[0], taps, taps, pair(stride), first, padding)
        found = BlurPool(2, stride, size=size, padding=padding, phase=phase)(x)[0]
        np.testing.assert_allclose(found, expected, atol=1e-6)

    @given(
        shape=st.tuples(sides, sides), wavelet=st.sampled_from(WAVELETS), padding=paddings,
        phase=st.integers(0, 1),
    )  # fmt: skip
    @settings(max_examples=60)
    def test_wavelet_pool(self, shape, wavelet, padding, phase):
        x = noise(1, 2, *shape)
        taps = np.array(pywt.Wavelet(wavelet).dec_lo[::-1]) / np.sqrt(2)
        before = {"haar": 0, "db2": 1, "bior2.2": 2, "bior3.3": 3, "sym4": 4}[wavelet]
        first = (phase - before, phase - before)
        expected = oracles.filter_and_decimate(x[0], taps, taps, (2, 2), first, padding)
        found = WaveletPool(2, wavelet=wavelet, padding=padding, phase=phase)(x)[0]
        np.testing.assert_allclose(found, expected, atol=1e-6)

    @pytest.mark.parametrize("wavelet", WAVELETS)
    def test_it_is_the_low_low_band_of_pywavelets(self, wavelet):
        x = noise(1, 1, 16, 24)
        band = torch.tensor(pywt.dwt2(x[0, 0].double(), wavelet, "periodization")[0] / 2)
        found = [
            WaveletPool(1, wavelet=wavelet, padding="circular", phase=phase)(x) for phase in (0, 1)
        ]
        difference = min(
            (y[0, 0].roll((i, j), (0, 1)) - band).abs().max().item()
            for y in found
            for i in range(8)
            for j in range(12)
        )
        assert difference < 1e-6

    @pytest.mark.parametrize("shape", [(8, 8), (2, 14)])
    def test_haar_is_the_average_pool(self, shape):
        x = noise(2, 3, *shape)
        torch.testing.assert_close(WaveletPool(3, wavelet="haar")(x), nn.AvgPool2d(2)(x))

    def test_four_is_two_levels_and_one_is_none(self):
        x = noise(1, 1, 16, 8)
        level = {"wavelet": "haar", "padding": "circular"}
        twice = WaveletPool(1, **level)(WaveletPool(1, **level)(x))
        # Centred on the second of four pixels, as the cascade is.
        torch.testing.assert_close(WaveletPool(1, 4, phase=1, **level)(x), twice)
        assert torch.equal(WaveletPool(1, 1, **level)(x), x)
        rows = WaveletPool(1, (2, 1), **level)(x)
        torch.testing.assert_close(rows, nn.AvgPool2d((2, 1))(x))

    @pytest.mark.parametrize("stride", [1, *STRIDES])
    def test_taps_sum_to_one(self, stride):
        layers = [BlurPool(3, stride, size=size) for size in range(1, 8)]
        layers += [WaveletPool(3, stride, wavelet=wavelet) for wavelet in WAVELETS]
        for layer in layers:
            torch.testing.assert_close(layer.kernel.sum((1, 2, 3)), torch.ones(3))

    @pytest.mark.parametrize("stride", STRIDES)
    @pytest.mark.parametrize("name", ["blurpool", "wavelet"])
    @pytest.mark.parametrize("phase", [0, None])
    def test_a_roll_by_the_stride_rolls_the_output_by_one(self, name, stride, phase):
        s_h, s_w = pair(stride)
        phase = (s_h - 1, s_w - 1) if phase is None else phase
        x = noise(2, 4, 24, 36)
        for size in range(1, 8):
            pool = LAYERS[name](4, stride, size=size, padding="circular", phase=phase)
            rolled = pool(x.roll((s_h, -2 * s_w), (2, 3)))
            torch.testing.assert_close(rolled, pool(x).roll((1, -2), (2, 3)), **EXACT)

    def test_wavelets_are_named(self):
        with pytest.raises(ValueError, match=r"one of haar, db2, .* got 'db9'"):
            WaveletPool(3, wavelet="db9")

    @pytest.mark.parametrize(
        ("size", "published"),
        [(1, 0.75), (2, 0.3304), (3, 0.1455), (4, 0.0652), (5, 0.0297)],
    )
    def test_the_blur_leaves_of_white_noise_what_the_integral_says(self, size, published):
        def gain(frequency):
            return np.cos(np.pi * frequency) ** (2 * size - 2)

        clean = quad(gain, 0, 0.25)[0] / quad(gain, 0, 0.5)[0]
        assert 1 - clean**2 == pytest.approx(published, abs=5.1e-5)
        blur = BlurPool(1, 1, size=size, padding="circular")
        impulse = torch.zeros(1, 1, 256, 256)
        impulse[..., 0, 0] = 1
        for x, error in ((impulse, 5e-5), (noise(1, 1, 1024, 1024), 2e-3)):
            found = alias_violation_ratio(blur(x), 2, band="box").item()
            assert found == pytest.approx(1 - clean**2, abs=error)

    def test_gradients_are_right(self):
        x = noise(1, 2, 5, 6).double().requires_grad_()
        assert torch.autograd.gradcheck(BlurPool(2, size=4), x)
        assert torch.autograd.gradcheck(IdealPool(2, (2, 3)), x)


class TestIdeal:
    def test_its_matrices_are_kept_and_serve_every_mode(self):
        pool, x = IdealPool(3), torch.rand(1, 3, 18, 22)
        with torch.inference_mode():
            wanted = pool(x)
        trained = x.clone().requires_grad_()
        pool(trained).sum().backward()
        assert trained.grad.abs().sum() > 0
        with FakeTensorMode():
            assert isinstance(pool(torch.rand(1, 3, 26, 14)), FakeTensor)
        assert pool(torch.rand(1, 3, 26, 14)).isfinite().all()
        assert torch.equal(pool(x), wanted)
        assert pool(x.double()).dtype == torch.float64
        torch.testing.assert_close(pool(x.double()).float(), wanted)

    @given(
        shape=st.tuples(st.integers(1, 16), st.integers(1, 16)),
        stride=strides,
        padding=paddings,
        layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
        data=st.data(),
    )
    @settings(max_examples=60)
    def test_it_is_fft_mask_inverse_and_decimation(self, shape, stride, padding, layout, data):
        phases = tuple(
            data.draw(st.sampled_from([0, 0.5, 0.75, s - 1])) if s > 1 else 0 for s in pair(stride)
        )
        x = noise(1, 3, *shape)
        expected = oracles.ideal_pool(x[0].numpy(), pair(stride), phases, padding)
        layer = IdealPool(3, stride, padding=padding, phase=phases)
        found = layer(x.contiguous(memory_format=layout))[0]
        np.testing.assert_allclose(found, expected, atol=1e-5)

    @pytest.mark.parametrize("shift", [(1, 0), (0, 0.5), (0.25, 0.25), (1.25, -0.5)])
    @pytest.mark.parametrize("stride", STRIDES)
    def test_a_shift_of_a_band_limited_map_shifts_its_samples(self, stride, shift):
        """The map is a sum of sinusoids below the cutoff, written down at every place."""
        s_h, s_w = pair(stride)
        shape = 12 * s_h, 6 * s_w
        generator = torch.Generator().manual_seed(0)

        def at(rows, columns):
            generator.manual_seed(0)
            total = torch.zeros(1, 2, len(rows), len(columns), dtype=torch.float64)
            for u in range(-5, 6):
                for v in range(-2, 3):
                    amplitude, start = torch.rand(2, 2, 1, 1, generator=generator).double()
                    angle = u * rows[:, None] / shape[0] + v * columns / shape[1]
                    total += amplitude * torch.cos(2 * torch.pi * (angle + start))
            return total.float()

        rows, columns = (torch.arange(n).double() for n in shape)
        x = at(rows + shift[0], columns + shift[1])
        y = IdealPool(2, stride)(x)
        torch.testing.assert_close(y, x[..., ::s_h, ::s_w], rtol=0, atol=1e-5)
        phases = [value % s for value, s in zip(shift, (s_h, s_w), strict=True)]
        if all(s > 1 or not p for p, s in zip(phases, (s_h, s_w), strict=True)):
            unshifted = IdealPool(2, stride, phase=tuple(phases))(at(rows, columns))
            moved = [int(value // s) for value, s in zip(shift, (s_h, s_w), strict=True)]
            torch.testing.assert_close(
                y, unshifted.roll([-m for m in moved], (2, 3)), rtol=0, atol=1e-5
            )

    @pytest.mark.parametrize("padding", ["circular", "reflect", "replicate"])
    @pytest.mark.parametrize("side", [14, 6, 7, 2, 10, 12])
    def test_ones_stay_ones(self, side, padding):
        y = IdealPool(1, padding=padding)(torch.ones(1, 1, side, side))
        half = -(-side // 2)
        torch.testing.assert_close(y, torch.ones(1, 1, half, half), rtol=0, atol=1e-6)

    @pytest.mark.parametrize(("side", "top"), [(14, 3), (12, 2), (13, 3), (16, 3)])
    def test_the_limit_bin_goes_and_the_one_below_it_stays(self, side, top):
        for k in range(side // 2 + 1):
            wave = torch.cos(2 * torch.pi * k * torch.arange(side) / side).expand(1, 1, side, side)
            y = IdealPool(1, (1, 2))(wave)
            expected = wave[..., ::2] if k <= top else torch.zeros_like(y)
            torch.testing.assert_close(y, expected, rtol=0, atol=1e-5)


class TestAPS:
    @pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
    @pytest.mark.parametrize("stride", STRIDES)
    def test_any_roll_gives_a_roll_of_the_output(self, stride, norm):
        s_h, s_w = pair(stride)
        x = noise(3, 4, 5 * s_h, 4 * s_w)
        pool = APSPool(4, stride, size=1, padding="circular", norm=norm)
        y = pool(x)
        for shift in [(1, 0), (0, 1), (-1, 3), (2, 5), (7, -2)]:
            z = pool(x.roll(shift, (2, 3)))
            assert all(a_roll_of(y[i : i + 1], z[i : i + 1]) for i in range(3))

    def test_what_does_not_adapt_fails_that_test(self):
        x = noise(1, 4, 10, 8)
        pool = BlurPool(4, 2, size=1, padding="circular")
        assert a_roll_of(pool(x), pool(x.roll((2, 4), (2, 3))))
        assert not a_roll_of(pool(x), pool(x.roll((1, 0), (2, 3))))

    @pytest.mark.parametrize("size", [2, 3, 5])
    def test_with_a_blur_too(self, size):
        x = noise(1, 4, 12, 8)
        pool = APSPool(4, 2, size=size, padding="circular")
        for shift in [(1, 0), (3, 1), (-2, 5)]:
            assert a_roll_of(pool(x), pool(x.roll(shift, (2, 3))))

    @given(
        values=st.lists(st.sampled_from([0, 1, -1]), min_size=32, max_size=32),
        stride=st.sampled_from([2, (1, 2), (2, 4)]),
        norm=st.sampled_from(["l1", "l2", "linf"]),
        shift=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    )
    @settings(max_examples=100)
    def test_components_of_equal_norm_are_told_apart(self, values, stride, norm, shift):
        x = torch.tensor(values).float().view(1, 2, 4, 4)
        pool = APSPool(2, stride, size=1, norm=norm)
        assert a_roll_of(pool(x), pool(x.roll(shift, (2, 3))))

    def test_two_dots_are_told_from_two_dots_further_apart(self):
        x = torch.zeros(1, 1, 4, 64)
        x[..., 0, [0, 20, 1, 31]] = 1
        pool = APSPool(1, (1, 2), size=1)
        assert a_roll_of(pool(x), pool(x.roll(1, 3)))

    @given(
        shape=st.tuples(sides, sides),
        stride=strides,
        padding=paddings,
        norm=st.sampled_from(["l1", "l2", "linf"]),
        seed=seeds,
    )
    @settings(max_examples=60)
    def test_it_keeps_the_component_of_largest_norm(self, shape, stride, padding, norm, seed):
        x = noise(2, 3, *shape, seed=seed)
        y = APSPool(3, stride, size=1, padding=padding, norm=norm)(x).numpy()
        order = {"l1": 1, "l2": 2, "linf": np.inf}[norm]
        for image, kept in zip(x.numpy(), y, strict=True):
            candidates = oracles.components(image, pair(stride), padding)
            norms = [np.linalg.norm(c.astype(float).ravel(), order) for c in candidates]
            assert any(np.array_equal(c, kept) for c in candidates)
            kept_norm = np.linalg.norm(kept.astype(float).ravel(), order)
            assert kept_norm == pytest.approx(max(norms), rel=1e-6)

    def test_a_shared_choice_keeps_the_same_component_of_another_map(self):
        x, z = noise(6, 3, 8, 6), noise(6, 5, 8, 6, seed=1)
        main, shortcut = APSPool(3, size=1), APSPool(5, size=1)
        choice = main.choose(x)
        assert choice.shape == (6,)
        assert len(choice.unique()) > 1
        kept = shortcut(z, choice)
        assert not torch.equal(kept, shortcut(z))
        for i, index in enumerate(choice.tolist()):
            assert torch.equal(kept[i], z[i, :, index // 2 :: 2, index % 2 :: 2])

    @pytest.mark.parametrize("layer", [APSPool, LPSPool])
    @pytest.mark.parametrize("training", [False, True])
    def test_a_follower_takes_what_its_leader_chose(self, layer, training):
        main, shortcut = layer(3, size=1), layer(3, size=1)
        shortcut.follow(main)
        both = copy.deepcopy(nn.ModuleList([main, shortcut])).train(training)
        assert both.state_dict().keys() == nn.ModuleList([main, shortcut]).state_dict().keys()
        x = noise(6, 3, 8, 6)
        y = both[0](x)
        with pytest.raises(RuntimeError, match="ran before the one that it follows"):
            copy.deepcopy(both)[1](x)
        torch.testing.assert_close(both[1](2 * x.flip(1)), 2 * y.flip(1))
        with pytest.raises(RuntimeError, match="ran before the one that it follows"):
            both[1](x)
        main(x)
        with pytest.raises(RuntimeError, match="ran before"):
            both[1](x)

    def test_only_equal_strides_can_be_followed(self):
        with pytest.raises(ValueError, match=r"\(2, 2\) cannot follow one of stride \(2, 1\)"):
            APSPool(3).follow(APSPool(3, (2, 1)))

    def test_norms_are_named(self):
        with pytest.raises(ValueError, match="one of l1, l2, linf, got 'l3'"):
            # beartype would refuse it first; users do not have it.
            inspect.unwrap(APSPool.__init__)(APSPool.__new__(APSPool), 3, norm="l3")

    def test_silence_is_kept_silent(self):
        x = torch.zeros(2, 3, 6, 6)
        assert torch.equal(APSPool(3)(x), x[..., ::2, ::2])


class TestLPS:
    @pytest.mark.parametrize("stride", STRIDES)
    @pytest.mark.parametrize("size", [1, 3])
    def test_untrained_it_is_aps(self, stride, size):
        x = noise(4, 3, 12, 7)
        lps = LPSPool(3, stride, size=size).eval()
        torch.testing.assert_close(lps(x), APSPool(3, stride, size=size)(x), **EXACT)

    @pytest.mark.parametrize("stride", STRIDES)
    def test_trained_any_roll_gives_a_roll_of_the_output(self, stride):
        s_h, s_w = pair(stride)
        x = noise(1, 4, 5 * s_h, 4 * s_w)
        pool = shaken(LPSPool(4, stride, size=1, padding="circular")).eval()
        for shift in [(1, 0), (0, 1), (-1, 3), (7, -2)]:
            assert a_roll_of(pool(x), pool(x.roll(shift, (2, 3))))

    def test_trained_it_chooses_by_score(self):
        x = noise(16, 3, 8, 8)
        pool = shaken(LPSPool(3, size=1)).eval()
        scores = torch.stack(
            [
                torch.cat([pool.net(x[i : i + 1, None, :, k::2, m::2]) for i in range(16)])[:, 0]
                for k in range(2)
                for m in range(2)
            ],
            1,
        )
        assert torch.equal(pool.choose(x), scores.argmax(1))
        assert not torch.equal(pool.choose(x), APSPool(3, size=1).choose(x))

    def test_training_draws_single_components_and_a_seed_repeats_the_draw(self):
        x = noise(64, 3, 4, 4)
        pool = LPSPool(3, size=1)
        torch.manual_seed(3)
        y = pool(x)
        torch.manual_seed(3)
        assert torch.equal(pool(x), y)
        assert not torch.equal(pool(x), y)
        candidates = torch.stack([x[..., i::2, j::2] for i in range(2) for j in range(2)], 1)
        distance = (candidates - y[:, None]).abs().amax((2, 3, 4))  # (B, 4)
        assert (distance.amin(1) < 1e-5).all()
        assert len(distance.argmin(1).unique()) == 4

    def test_the_scores_set_the_odds(self):
        x = noise(1, 1, 4, 4).expand(4000, -1, -1, -1)
        pool = shaken(LPSPool(1, (1, 2), size=1, temperature=0.5))
        torch.manual_seed(0)
        with torch.no_grad():
            components = torch.stack([x[:1, ..., ::2], x[:1, ..., 1::2]], 1)
            odds = pool.net(components).softmax(1)[0, 0].item()
            drawn = pool.choose(x)[:, 0]
        assert 0.05 < odds < 0.95
        assert drawn.mean().item() == pytest.approx(odds, abs=0.03)

    @pytest.mark.parametrize("arguments", [{"hidden": 0}, {"temperature": 0}])
    def test_bad_arguments_are_named(self, arguments):
        with pytest.raises(ValueError, match="hidden must be at least 1 and temperature above 0"):
            LPSPool(3, **arguments)


class TestTIPS:
    @pytest.mark.parametrize("stride", STRIDES)
    def test_untrained_it_is_the_average_pool(self, stride):
        s_h, s_w = pair(stride)
        x = noise(2, 3, 3 * s_h, 2 * s_w)
        torch.testing.assert_close(TIPSPool(3, stride)(x), nn.AvgPool2d((s_h, s_w))(x))

    @given(shape=st.tuples(sides, sides), stride=strides, padding=paddings)
    @settings(max_examples=30)
    def test_trained_it_mixes_components_by_their_scores(self, shape, stride, padding):
        pool = shaken(TIPSPool(3, stride, padding=padding))
        x = noise(1, 3, *shape)
        components = np.stack(oracles.components(x[0].numpy(), pair(stride), padding))
        with torch.no_grad():
            scores = [
                pool.net(torch.tensor(component)[None, None]).item() for component in components
            ]
            found = pool(x)[0].numpy()
        weights = np.exp(scores) / np.exp(scores).sum()
        np.testing.assert_allclose(found, np.tensordot(weights, components, 1), atol=1e-5)

    def test_a_single_hidden_channel_is_the_least(self):
        with pytest.raises(ValueError, match="hidden must be at least 1, got 0"):
            TIPSPool(3, hidden=0)


class TestAdaptive:
    @pytest.mark.parametrize("size", range(1, 8))
    @pytest.mark.parametrize("training", [False, True])
    @pytest.mark.parametrize("stride", [2, (3, 2)])
    def test_untrained_it_is_the_blur_pool(self, size, training, stride):
        x = noise(2, 6, 9, 14)
        options = {"size": size, "phase": (1, 0)}
        y = AdaptivePool(6, stride, **options).train(training)(x)
        torch.testing.assert_close(y, BlurPool(6, stride, **options)(x))

    @given(
        shape=st.tuples(sides, sides),
        stride=strides,
        size=st.integers(1, 4),
        padding=paddings,
    )
    @settings(max_examples=30)
    def test_trained_it_filters_each_place_and_group_by_its_own_softmax(
        self, shape, stride, size, padding
    ):
        pool = shaken(AdaptivePool(4, stride, size=size, padding=padding, groups=2)).eval()
        x, before, (s_h, s_w) = noise(1, 4, *shape), (size - 1) // 2, pair(stride)
        around = np.pad(x[0].numpy(), [(0, 0), (9, 9), (9, 9)], oracles.PAD_MODES[padding])
        with torch.no_grad():
            found = pool(x)[0].numpy()
        for i in range(found.shape[1]):
            for j in range(found.shape[2]):
                top, left = 9 + s_h * i - before, 9 + s_w * j - before
                patch = around[:, top : top + size, left : left + size]
                with torch.no_grad():
                    logits = pool.norm(pool.predict(torch.tensor(patch)[None]))[0, :, 0, 0]
                weights = logits.view(2, 1, -1).softmax(2).numpy()
                expected = (weights * patch.reshape(2, 2, -1)).sum(2).ravel()
                np.testing.assert_allclose(found[:, i, j], expected, atol=1e-5)

    @pytest.mark.parametrize(("channels", "groups"), [(64, 8), (12, 4), (3, 1)])
    def test_groups_divide_the_channels(self, channels, groups):
        assert AdaptivePool(channels).groups == groups

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [({"groups": 0}, "groups must be at least 1, got 0"), ({"size": 8}, "1 to 7 taps, got 8")],
    )
    def test_bad_arguments_are_named(self, arguments, sentence):
        with pytest.raises(ValueError, match=sentence):
            AdaptivePool(3, **arguments)
