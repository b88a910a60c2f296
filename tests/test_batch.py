"""From a batch to rows: what a layer reads, what it decimates, and what company does to both."""

import copy

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from aliascope import Preprocessing, antialias, conversion_of, load_model, shift_instability
from aliascope.measure.batch import measure_batch, prepare
from aliascope.spectra import AVR_VARIANTS, SAMPLED_VARIANTS
from aliascope.taps import decimations, evaluating, strided_layers, tap, trace
from oracles import alias_share, alias_violation_ratio
from test_antialias import ALL, built


def squares(side):
    return Preprocessing(resize=(side,), crop=(side, side))


def noise(side, count=2):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def measured(model, side, count=2, **options):
    """Layer → column → values."""
    loaded = load_model(model)
    options = {"border": "circular"} | options
    instrument = prepare(loaded, preprocess=squares(side), device="cpu", **options)
    images, layers = measure_batch(instrument, noise(side, count))
    names = [layer.name for layer in instrument.layers]
    return images, {name: {k: v[:, i] for k, v in layers.items()} for i, name in enumerate(names)}


def converted_names(converted, after):
    """Layer of the original → its counterpart among the converted network's layers."""
    rows = conversion_of(converted).layers
    # A low-pass at stride 1 before patches is no layer: the patches are.
    return {row.layer: row.downsampler if row.downsampler in after else row.layer for row in rows}


@pytest.mark.parametrize(("build", "count"), ALL)
def test_a_network_and_its_dense_twin_sample_the_same_maps(build, count):
    model = built(build)
    twin = antialias(model, size=1, stem="convert", example=noise(64))
    _, before = measured(model, 64)
    _, after = measured(twin, 64)
    defined = 0
    for name, partner in converted_names(twin, after).items():
        for column in SAMPLED_VARIANTS:
            np.testing.assert_allclose(before[name][column], after[partner][column], atol=1e-5)
            defined += bool(before[name][column].isfinite().all())
    assert defined >= count * len(SAMPLED_VARIANTS)


def test_the_twin_of_a_filter_does_not_sample_the_same_maps():
    model = built(ALL[0].values[0])
    _, before = measured(model, 64)
    twin = antialias(model, size=3, example=noise(64))
    _, after = measured(twin, 64)
    name, partner = list(converted_names(twin, after).items())[2]
    assert (before[name]["alias_share"] > 2 * after[partner]["alias_share"]).all()


class TestWhatIsDecimated:
    def test_a_convolution_behind_its_norm_and_activation(self):
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, 1, 1)
        ).eval()
        nn.init.normal_(net[1].running_mean)
        x = torch.randn(2, 3, 15, 16)
        with torch.no_grad():
            found, missing = decimations(net, trace(net, x))
            dense = net[2](net[1](F.conv2d(x, net[0].weight, net[0].bias, 1, 1)))
            torch.testing.assert_close(found["0"](x), dense)
            torch.testing.assert_close(found["0"].kept(dense), net[2](net[1](net[0](x))))
        assert not missing

    def test_the_input_of_a_strided_1x1_convolution(self):
        net, x = nn.Sequential(nn.Conv2d(3, 8, 1, 2)), torch.randn(1, 3, 8, 8)
        found, _ = decimations(net, trace(net, x))
        assert torch.equal(found["0"](x), x)

    @pytest.mark.parametrize("side", [15, 16])
    def test_padding_by_the_stride_gives_the_phase_that_a_repair_takes(self, side):
        conv = timm.layers.Conv2dSame(3, 8, 3, stride=2)
        net, x = nn.Sequential(conv), torch.randn(1, 3, side, side)
        with torch.no_grad():
            found, _ = decimations(net, trace(net, x))
            assert found["0"].phase == (1 - side % 2,) * 2
            assert found["0"](x).shape[2:] == (side, side)
            torch.testing.assert_close(found["0"].kept(found["0"](x)), conv(x))
            assert conv.stride == (2, 2)

    @pytest.mark.parametrize(
        "pool",
        [
            nn.MaxPool2d(3, 2, 1),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.AvgPool2d(2),
            nn.LPPool2d(2, 3, 2),
            nn.PixelUnshuffle(2),
            timm.layers.BlurPool2d(3),
        ],
        ids=lambda pool: type(pool).__name__,
    )
    def test_pools_at_stride_1(self, pool):
        net, x = nn.Sequential(nn.Identity(), pool), torch.rand(1, 3, 14, 18)
        (layer,) = strided_layers(net, x)
        found, missing = decimations(net, trace(net, x))
        assert not missing
        decimation = found[layer.name]
        kept = decimation.kept(decimation(x))
        torch.testing.assert_close(kept, pool(x)[:, ::4] if "Unshuffle" in str(pool) else pool(x))

    @pytest.mark.parametrize(
        "call",
        [
            lambda x: F.conv2d(x, torch.ones(4, 3, 3, 3), stride=2, padding=1),
            lambda x: F.max_pool2d(x, 3, 2, 1),
            lambda x: F.avg_pool2d(x, 2),
            lambda x: F.adaptive_avg_pool2d(x, (8, 8)),
            lambda x: F.interpolate(x, scale_factor=0.5),
            lambda x: x[:, :, 1::2, ::2],
        ],
        ids=["conv", "max", "avg", "adaptive", "nearest", "slice"],
    )
    def test_bare_calls(self, call):
        class Net(nn.Module):
            def forward(self, x):
                return call(x).relu()

        net, x = Net(), torch.randn(1, 3, 16, 16)
        (layer,) = strided_layers(net, x)
        found, missing = decimations(net, trace(net, x))
        assert not missing
        decimation = found[layer.name]
        kept = decimation.kept(decimation(x))
        torch.testing.assert_close(kept, net(x) if layer.kind == "conv" else call(x))

    def test_resizing_by_interpolation_is_no_choice_of_samples_and_says_so(self):
        class Net(nn.Module):
            def forward(self, x):
                return F.interpolate(x, scale_factor=0.5, mode="bilinear")

        found, missing = decimations(Net(), trace(Net(), torch.rand(1, 3, 16, 16)))
        assert not found
        assert "no samples of its response" in missing["interpolate"]
        instrument = prepare(load_model(Net()), preprocess=squares(16), device="cpu")
        assert any("what it decimates is not measured" in text for text in instrument.notices)
        _, layers = measure_batch(instrument, noise(16))
        assert layers["avr"].isfinite().all()
        assert layers["alias_share"].isnan().all()

    @pytest.mark.parametrize("method", ["aps", "lps", "tips"])
    def test_what_choosers_choose_among(self, method):
        net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.MaxPool2d(2)).eval()
        twin = antialias(net, method, size=1, example=noise(16))
        _, before = measured(net, 16)
        _, after = measured(twin, 16)
        for column in SAMPLED_VARIANTS[:-1]:
            torch.testing.assert_close(before["1"][column], after["1.1"][column])
        assert after["1.1"]["alias_share"].isfinite().all()

    def test_ideal_lets_nothing_fold(self):
        net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.MaxPool2d(2)).eval()
        twin = antialias(net, "ideal", padding="circular", example=noise(16))
        _, layers = measured(twin, 16)
        assert layers["1.1"]["alias_share"].max() < 1e-6
        assert layers["1.1"]["sampled_avr_box"].max() < 1e-6

    def test_the_columns_are_the_oracles(self):
        net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 2, 1)).eval()
        _, layers = measured(net, 30)
        x = squares(30).normalise(noise(30))
        with torch.no_grad():
            dense = F.conv2d(x, net[0].weight, net[0].bias, 1, 1).relu()
            pooled = F.max_pool2d(net[:2](x), 3, 1, 1)
        for name, read, map_ in (("0", x, dense), ("2", net[:2](x), pooled)):
            for prefix, seen in (("", read), ("sampled_", map_)):
                for column, (band, dc) in AVR_VARIANTS.items():
                    wanted = [alias_violation_ratio(m.detach().numpy(), 2, band, dc) for m in seen]
                    np.testing.assert_allclose(layers[name][prefix + column], wanted, atol=1e-5)
            wanted = [alias_share(m.numpy(), (2, 2), (0, 0)) for m in map_]
            np.testing.assert_allclose(layers[name]["alias_share"], wanted, atol=1e-5)


class Loop(nn.Module):
    """One picture at a time, as detectors do it."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 10)

    def forward(self, x):
        return torch.cat([self.head(self.conv(one[None]).relu().mean((2, 3))) for one in x])


class Single(Loop):
    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)).reshape(1, 8))


class TestCompany:
    @pytest.mark.parametrize("count", [1, 2, 3])
    @pytest.mark.parametrize("kind", [Loop, Single])
    def test_a_model_that_takes_pictures_one_by_one(self, kind, count):
        torch.manual_seed(0)
        net = kind().eval()
        images, layers = measured(net, 32, count)
        x = squares(32).normalise(noise(32, count))
        each = [shift_instability(net, one[None]).item() for one in x] if kind is Loop else None
        if each:
            np.testing.assert_allclose(images["sis"], each, atol=1e-6)
        for column in AVR_VARIANTS:
            alone = [measured_alone(net, noise(32, count)[i])[column] for i in range(count)]
            np.testing.assert_allclose(layers["conv"][column], alone, atol=1e-6)

    def test_statistics_of_the_batch_are_kept_out(self):
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.BatchNorm2d(8, track_running_stats=False),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 10),
        ).eval()
        one, _ = measured(net, 32, 1)
        three, _ = measured(net, 32, 3)
        torch.testing.assert_close(one["sis"], three["sis"][:1])
        instrument = prepare(load_model(net), preprocess=squares(32), device="cpu")
        assert any("measured alone" in text for text in instrument.notices)

    def test_an_ordinary_network_runs_all_views_at_once(self):
        instrument = prepare(load_model(built(ALL[0].values[0])), preprocess=squares(64))
        assert not instrument.singly


def measured_alone(net, picture):
    instrument = prepare(load_model(net), preprocess=squares(32), device="cpu", border="circular")
    _, layers = measure_batch(instrument, picture[None])
    return {name: column[0, 0].item() for name, column in layers.items()}


class Lambda(nn.Module):
    """With five axes in a parameter, as lambda layers have them."""

    def __init__(self):
        super().__init__()
        self.down, self.mix = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv3d(1, 1, (1, 3, 3))

    def forward(self, x):
        return self.mix(self.down(x)[:, None]).mean((1, 3, 4))


class TestNetworksOfAnyMake:
    def test_filters_with_five_axes(self):
        _, layers = measured(Lambda().eval(), 16)
        wanted = [
            alias_violation_ratio(x.numpy(), 2, *AVR_VARIANTS["avr"])
            for x in squares(16).normalise(noise(16))
        ]
        np.testing.assert_allclose(layers["down"]["avr"], wanted, atol=1e-5)

    def test_weight_norm_of_the_old_make(self):
        plain = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2))
        normed = copy.deepcopy(plain)
        with pytest.warns(FutureWarning, match="weight_norm"):
            torch.nn.utils.weight_norm(normed[0])
        _, expected = measured(plain.eval(), 16)
        _, layers = measured(normed.eval(), 16)
        torch.testing.assert_close(layers, expected)

    @pytest.mark.parametrize("whole", [True, False], ids=["whole", "a part"])
    def test_compiled(self, whole):
        net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)))
        _, expected = measured(net.eval(), 16)
        if whole:
            net = torch.compile(net, backend="eager")
        else:
            net[1] = torch.compile(net[1], backend="eager")
        _, layers = measured(net, 16)
        torch.testing.assert_close(layers, expected)

    def test_a_network_of_one_channel_gets_grey_pictures(self):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
        ).eval()
        loaded = load_model(net)
        assert loaded.example().shape == (1, 1, 224, 224)
        preprocess = Preprocessing((16,), (16, 16), mean=(0.2, 0.3, 0.4), std=(0.1, 0.2, 0.3))
        instrument = prepare(loaded, preprocess=preprocess, device="cpu", border="circular")
        assert "the network takes one channel: pictures are turned to grey" in instrument.notices
        images, layers = measure_batch(instrument, noise(16))
        red, green, blue = noise(16).unbind(1)
        x = ((0.299 * red + 0.587 * green + 0.114 * blue - 0.3) / 0.2)[:, None]
        wanted = [alias_violation_ratio(one.numpy(), 2, *AVR_VARIANTS["avr"]) for one in x]
        np.testing.assert_allclose(layers["avr"][:, 0], wanted, atol=1e-5)
        wanted = [shift_instability(net, one[None]).item() for one in x]
        np.testing.assert_allclose(images["sis"], wanted, atol=1e-6)

    def test_fewer_rows_and_more_columns(self):
        class Net(nn.Module):
            def forward(self, x):
                return F.interpolate(x, size=(8, 32))

        _, layers = measured(Net(), 16)
        x = squares(16).normalise(noise(16))
        wanted = [alias_violation_ratio(one.numpy(), (2, 1), *AVR_VARIANTS["avr"]) for one in x]
        np.testing.assert_allclose(layers["interpolate"]["avr"], wanted, atol=1e-5)

    def test_what_is_downsampled_unseen_is_said(self):
        class Net(nn.Module):
            def forward(self, x):
                return x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax((3, 5))

        instrument = prepare(load_model(Net()), preprocess=squares(16), device="cpu")
        assert any("fall from 16×16 to 8×8 samples" in text for text in instrument.notices)


class TestTap:
    def test_what_comes_later_does_not_change_what_was_captured(self):
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(1, 2), nn.ReLU(inplace=True)).eval()
        x = torch.randn(1, 3, 9, 9)
        with torch.no_grad(), tap(net, strided_layers(net, x), of="both") as tapped:
            net(x)
        assert tapped.inputs["1"].min() < 0
        assert tapped.outputs["1"].min() < 0

    @pytest.mark.parametrize("bare", [False, True])
    def test_an_output_can_be_replaced_for_one_forward(self, bare):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.pool = nn.MaxPool2d(2)

            def forward(self, x):
                return (F.max_pool2d(x, 2) if bare else self.pool(x)) + 1

        net, x = Net(), torch.rand(1, 3, 8, 8)
        (layer,) = strided_layers(net, x)
        plain = net(x)
        with tap(net, [layer], replace={layer.name: lambda y: y * 0}, of="output") as tapped:
            assert torch.equal(net(x), torch.ones(1, 3, 4, 4))
        assert not tapped.outputs[layer.name].any()
        assert torch.equal(net(x), plain)

    def test_a_module_by_its_name_is_read_before_what_surgery_put_there(self):
        net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1, 2)).eval()
        twin, x = antialias(net, example=noise(16)), torch.randn(1, 3, 16, 16)
        with evaluating(twin), tap(twin, ["1"]) as tapped:
            twin(x)
        torch.testing.assert_close(tapped.inputs["1"], net[0](x))
