import math
from dataclasses import replace

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from torch import nn

import aliascope
import aliascope.report
from aliascope import ModelError, RunError
from aliascope.attribute import Attribution, attribute, attribution_of
from aliascope.attribute.swapping import DOSES, EQUIVARIANCE, PLAN, SWAPPED, Attributor
from aliascope.figures import attribution as attribution_figure
from aliascope.images.preprocessing import Preprocessing
from aliascope.layers import BlurPool, IdealPool
from aliascope.measure import Run
from aliascope.models import load_model
from aliascope.taps import decimations, trace
from aliascope.taps.cuts import Continuation, cuts
from aliascope.taps.replay import Undefined

SMALL = Preprocessing(resize=(32, 32), crop=(32, 32))
WIDE = Preprocessing(resize=(40, 40), crop=(32, 32))


class Residual(nn.Module):
    """Two layers at one depth, a pool before them, an activation written in place."""

    def __init__(self, classes=10):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.conv1 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.norm.running_var.uniform_(0.5, 2)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.down = nn.Conv2d(8, 16, 1, stride=2)
        self.head = nn.Linear(16, classes)

    def forward(self, x):
        x = self.pool(torch.relu(self.stem(x)))
        y = self.conv2(self.relu(self.norm(self.conv1(x))))
        y += self.down(x)
        first, second = self.relu(y).chunk(2, 1)
        return self.head(torch.cat([second, first], 1).mean((2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Residual()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("pictures")
    for index in range(6):
        low = rng.integers(0, 256, (14, 14, 3), dtype=np.uint8)
        PIL.Image.fromarray(low).resize((40, 40)).save(path / f"{index:02}.png")
    return path


def found_of(net, folder, **options):
    given = {"preprocess": WIDE, "device": "cpu", "doses": 0} | options
    return attribute(net, str(folder), **given)


def views_of(folder, preprocessing=WIDE):
    """Still, down, right: crop windows of each picture, as the network takes them."""
    wide = preprocessing.widened(1)
    for image in aliascope.open_images(folder):
        x = wide.normalise(wide(image.pixels)[None])
        side = x.shape[-1] - 2
        corners = [(1, 1), *((1 - s.rows, 1 - s.columns) for s in PLAN)]
        yield torch.cat([x[:, :, i : i + side, j : j + side] for i, j in corners])


def low_band(maps, stride):
    """Below the new Nyquist limit alone, by masking the full FFT, in double precision."""
    spectrum = torch.fft.fft2(maps.double())
    for axis in (-2, -1):
        f = torch.fft.fftfreq(maps.shape[axis], dtype=torch.float64).abs()
        keep = (f < 0.5 / stride - 1e-9).to(torch.float64)
        spectrum = spectrum * (keep[:, None] if axis == -2 else keep)
    return torch.fft.ifft2(spectrum).real


def centred(z):
    return z - z.mean(-1, keepdim=True)


def by_hand(front, rest, x, z):
    """`SWAPPED` of one picture, from the definition: front makes D, rest goes on from it.

    z: the logits of all views.
    """
    dense = front(x)
    low = low_band(dense, 2).to(dense.dtype)
    high = dense - low
    alias = centred(rest(low[:1] + high[1:])) - z[0]
    legitimate = centred(rest(low[1:] + high[:1])) - z[0]
    change = z[1:] - z[0]
    whole = change.square().sum()
    expected = {
        "alias_carried": (alias * change).sum() / whole,
        "low_carried": (legitimate * change).sum() / whole,
        "interaction": ((alias + legitimate - change).square().sum() / whole).sqrt(),
        "alias_effect": (alias.norm(dim=1) / z[0].norm()).mean(),
        "low_effect": (legitimate.norm(dim=1) / z[0].norm()).mean(),
    }
    return {name: value.item() for name, value in expected.items()}


@torch.no_grad()
def residual_by_hand(net, x):
    """Layer → its expected columns, of the pool, and of the residual layers together and alone."""

    def tail(main, short):
        y = torch.relu(net.conv2(main) + short)
        return net.head(torch.cat([y[:, 8:], y[:, :8]], 1).mean((2, 3)))

    def samples(dense):
        return dense[:, :, ::2, ::2][:, :, :16, :16]

    def stem(views):
        return nn.functional.max_pool2d(torch.relu(net.stem(views)), 2, stride=1)

    def behind_pool(dense):
        kept = samples(dense)
        return tail(torch.relu(net.norm(net.conv1(kept))), net.down(kept))

    def main_and_short(views):
        short = samples(stem(views))
        main = nn.functional.conv2d(short, net.conv1.weight, net.conv1.bias, padding=1)
        return torch.cat([torch.relu(net.norm(main)), short], 1)

    def behind_both(dense):
        main, short = dense[:, :, ::2, ::2].split([16, 8], 1)
        return tail(main, nn.functional.conv2d(short, net.down.weight, net.down.bias))

    still = main_and_short(x)[:1]

    def behind_main(dense):  # the shortcut stays as it was
        return behind_both(
            torch.cat([dense[:, :16], still[:, 16:].expand(len(dense), -1, -1, -1)], 1)
        )

    def behind_short(dense):
        return behind_both(
            torch.cat([still[:, :16].expand(len(dense), -1, -1, -1), dense[:, 16:]], 1)
        )

    change = centred(net(x))
    pool = by_hand(stem, behind_pool, x, change)
    both = by_hand(main_and_short, behind_both, x, change)
    alone = {
        "pool": pool,
        "conv1": by_hand(main_and_short, behind_main, x, change),
        "down": by_hand(main_and_short, behind_short, x, change),
    }
    return {
        name: (pool if name == "pool" else both) | {f"own_{key}": v for key, v in own.items()}
        for name, own in alone.items()
    }


def test_every_figure_equals_the_definition(net, folder, tmp_path):
    found_of(net, folder, out=tmp_path / "run", batch_size=4)
    rows = Run.open(tmp_path / "run").layers.set_index(["image_id", "layer"])
    ids = [image.id for image in aliascope.open_images(folder)]
    net.eval()
    for image_id, x in zip(ids, views_of(folder), strict=True):
        for layer, columns in residual_by_hand(net, x).items():
            for name, value in columns.items():
                found = rows.loc[(image_id, layer), name]
                assert found == pytest.approx(value, rel=2e-3), (image_id, layer, name)


def test_a_linear_network_has_no_interaction(folder):
    """There the two bands' effects add up to the change exactly."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 5, 2, 2), nn.Flatten(), nn.Linear(8 * 16 * 16, 10))
    found = found_of(net, folder)
    row = found.depths.iloc[0]
    assert row["interaction"] < 1e-4
    assert row["alias_carried"] + row["low_carried"] == pytest.approx(1, abs=1e-4)
    assert row["alias_carried"] > 0.05


@pytest.mark.parametrize("relu", [nn.Identity(), nn.ReLU()])
def test_what_is_band_limited_carries_nothing_by_aliasing(folder, relu):
    """Ideal decimation behind the activation: the aliasing band is empty, whatever the picture."""
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular")
    pool = IdealPool(8, 2, padding="circular")
    net = nn.Sequential(conv, relu, pool, nn.Flatten(), nn.Linear(8 * 16 * 16, 10))
    row = found_of(net, folder, shifts="circular").depths.iloc[0]
    assert abs(row["alias_carried"]) < 1e-5
    assert row["alias_effect"] < 1e-5
    assert row["low_carried"] == pytest.approx(1, abs=1e-5)


def test_the_control_is_the_same_network(net, folder):
    """Dense convolutions and plain decimation behind them: another graph, the same figures."""
    load = load_model(net, size=(32, 32))
    control = aliascope.antialias(load.module, "blurpool", size=1)
    a, b = (found_of(each, folder, doses=2) for each in (net, control))
    assert list(a.depths["stride"]) == list(b.depths["stride"])
    for name in SWAPPED:
        assert np.allclose(a.depths[name], b.depths[name], rtol=1e-3), name
    names = [x for x in EQUIVARIANCE if x in a.layers]
    assert np.allclose(a.layers[names], b.layers[names], rtol=1e-3)
    assert np.allclose(a.doses["change"], b.doses["change"], atol=1e-3)


def test_a_dose_is_what_the_filter_leaves(net, folder, tmp_path):
    """Filters at the pool, against the network with that filter built in."""
    found_of(net, folder, out=tmp_path / "run", doses=3)
    rows = Run.open(tmp_path / "run").layers.set_index(["image_id", "layer"])
    ids = [image.id for image in aliascope.open_images(folder)]
    pools = {f"taps_{k}": BlurPool(8, 2, size=k) for k in (3, 5, 7)}
    net.eval()
    with torch.no_grad():
        for index, (image_id, x) in enumerate(zip(ids, views_of(folder), strict=True)):
            row = rows.loc[(image_id, "pool")]
            if index >= 3:
                assert row[list(DOSES)].isna().all()
                continue
            dense = nn.functional.max_pool2d(torch.relu(net.stem(x)), 2, stride=1)
            for name, pool in pools.items():
                kept = pool(dense)[:, :, :16, :16]
                y = net.conv2(torch.relu(net.norm(net.conv1(kept)))) + net.down(kept)
                y = torch.relu(y)
                z = centred(net.head(torch.cat([y[:, 8:], y[:, :8]], 1).mean((2, 3))))
                expected = ((z[1:] - z[0]).norm(dim=1) / z[0].norm()).mean().item()
                assert row[name] == pytest.approx(expected, rel=1e-3)


def test_a_dose_of_one_tap_changes_nothing(net, folder, monkeypatch):
    """The control of the doses: the same way through the network, and no filter."""
    monkeypatch.setitem(DOSES, "taps_3", 1)
    doses = found_of(net, folder, doses=2).doses.set_index("dose")["change"]
    assert np.allclose(doses["taps_3"], 0, atol=1e-5)
    assert doses["taps_5"].abs().max() > 1e-2


def test_a_map_that_moves_exactly_is_at_its_floor(folder):
    """Before the first sampling a circular convolution moves with the picture, behind it none."""
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 8, 3, 2, 1, padding_mode="circular")
    net = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16 * 16, 10))
    row = found_of(net, folder, doses=6).layers.iloc[0]
    assert row["equivariance_before"] == pytest.approx(row["floor_before"], rel=0.35)
    assert row["equivariance_behind"] > 2 * row["floor_behind"]


def test_nothing_is_left_behind(net, folder):
    state = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    found_of(net, folder, doses=1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert net.training
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    hooks = [h for m in net.modules() for h in (*m._forward_hooks, *m._forward_pre_hooks)]
    assert hooks == []


def test_the_batch_size_changes_nothing(net, folder):
    one, four = (found_of(net, folder, batch_size=n, doses=5) for n in (1, 4))
    for name in ("depths", "layers", "doses"):
        a, b = (getattr(each, name).select_dtypes("number") for each in (one, four))
        assert np.allclose(a, b, rtol=1e-3, atol=1e-5, equal_nan=True), name


def test_an_interrupted_attribution_goes_on(net, folder, tmp_path, monkeypatch):
    whole = found_of(net, folder, doses=3, batch_size=1)
    rows, calls = Attributor.rows, []

    def tired(self, *given):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(given)
        return rows(self, *given)

    monkeypatch.setattr(Attributor, "rows", tired)
    with pytest.raises(KeyboardInterrupt):
        found_of(net, folder, doses=3, batch_size=1, out=tmp_path / "run")
    assert len(Run.open(tmp_path / "run").images) == 2
    monkeypatch.setattr(Attributor, "rows", rows)
    found = found_of(net, folder, doses=3, batch_size=1, out=tmp_path / "run")
    for name in ("depths", "layers", "doses"):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(whole, name), rtol=1e-4)
    opened = Attribution.open(tmp_path / "run" / "attribution.json")
    assert str(opened) == str(found)
    assert str(attribution_of(Run.open(tmp_path / "run"))) == str(found)


def test_other_doses_are_another_run(net, folder, tmp_path):
    found_of(net, folder, doses=1, out=tmp_path / "run")
    with pytest.raises(RunError, match="doses: 1 → 2"):
        found_of(net, folder, doses=2, out=tmp_path / "run")


def test_a_measured_run_is_no_attribution(net, folder):
    run = aliascope.measure(net, str(folder), preprocess=SMALL, device="cpu", limit=1)
    with pytest.raises(RunError, match="holds no attribution"):
        attribution_of(run)


def test_what_is_no_classifier_is_refused(folder):
    with pytest.raises(ModelError, match="needs a classifier"):
        found_of(nn.Conv2d(3, 4, 3, 2), folder)


def test_a_network_that_samples_nothing_is_refused(folder):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ModelError, match="samples nowhere in a way"):
        found_of(net, folder)


class Bypass(nn.Module):
    """A second path from the picture leads past the strided convolution."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.head = nn.Linear(11, 10)

    def forward(self, x):
        return self.head(torch.cat([self.conv(x).mean((2, 3)), x.mean((2, 3))], 1))


def test_a_path_around_the_sampling_is_seen(folder):
    with pytest.raises(ModelError, match="conv: not attributed: it is not on all paths"):
        found_of(Bypass(), folder)


def test_a_picture_that_cannot_be_read_is_listed(net, folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "bad.png").write_bytes(b"none")
    found = found_of(net, tmp_path)
    assert found.n == 6
    assert [x["image_id"] for x in found.skipped] == ["bad.png"]
    assert "skipped bad.png" in str(found)


def test_shares_of_a_blank_change_are_unknown(folder):
    """A network that sees nothing of the shift: what part of nothing is not a number."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1, 2, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.zeros_(net[0].weight)
    assert math.isnan(found_of(net, folder).depths["alias_carried"].iloc[0])


def test_the_figure_shows_the_tables(net, folder):
    found = found_of(net, folder, doses=4)
    sound = found.depths.assign(interaction=[2.0, 0.5])
    figure = attribution_figure.draw({"net": replace(found, depths=sound)}, caption="a caption")
    path, carried, doses = figure.axes
    marks = [line for line in carried.lines if line.get_marker() == "o"]
    shown = [line.get_ydata()[0] for line in marks]
    assert shown == pytest.approx([*found.depths["alias_carried"]])
    assert [line.get_markerfacecolor() == "white" for line in marks] == [True, False]
    assert [tick.get_text() for tick in carried.get_xticklabels()] == ["2", "4"]
    errors = found.layers.groupby("stride", sort=False)["equivariance_behind"].mean()
    ends = [line.get_ydata()[0] for line in path.lines if line.get_marker() == "o"]
    assert ends == pytest.approx([*errors])
    ideal = found.doses.query("dose == 'ideal' and (layers > 1 or place == 'pool')")["change"]
    lowered = [line.get_ydata()[0] for line in doses.lines if line.get_marker() == "o"]
    assert lowered == pytest.approx([*ideal])


def test_the_report_shows_the_tables(net, folder, tmp_path):
    found = found_of(net, folder, doses=2, out=tmp_path / "run")
    page = aliascope.report.report(tmp_path / "run").read_text()
    assert found.verdict.partition(".")[0] in page.replace("&#39;", "'")
    for row in found.depths.to_dict("records"):
        assert f"{row['alias_carried']:.3f}" in page
    assert "conv1 + down" in page


@pytest.mark.parametrize("method", ["aps", "lps", "tips", "wavelet", "ideal", "adaptive"])
def test_every_method_can_be_attributed(net, folder, method):
    """Also where layers share a choice; what was repaired goes on as it does in a forward."""
    repaired = aliascope.antialias(net, method, example=torch.zeros(1, 3, 32, 32))
    found = found_of(repaired, folder, doses=1, limit=2)
    assert list(found.depths["stride"]) == ["2", "4"]
    assert not [text for text in found.notices if "not attributed" in text]


class TestContinuation:
    """The rest of a network, computed from what a cut hands on."""

    def parts(self, net, x):
        net.eval()
        found, _ = decimations(net, trace(net, x[:1]))
        return cuts(found.values()), Continuation(net, x, lambda y: y)

    def test_it_is_the_forward(self, net):
        x = torch.randn(3, 3, 32, 32)
        (pool, both), rest = self.parts(net, x)
        with torch.no_grad():
            read = torch.relu(net.stem(x))
            (place,) = pool.places
            assert torch.allclose(rest.of(pool, [place.handed_on(place(read))]), net(x), atol=1e-5)
            pooled = net.pool(read)
            handed_on = [place.handed_on(place(pooled)) for place in both.places]
            kept = [x.clone() for x in handed_on]
            assert torch.allclose(rest.of(both, handed_on), net(x), atol=1e-5)
            # An activation in place must not write into what was given.
            assert all(map(torch.equal, handed_on, kept))

    def test_other_layers_of_a_depth_are_no_cut(self, net):
        x = torch.randn(2, 3, 32, 32)
        (_, both), rest = self.parts(net, x)
        part = replace(both, places=both.places[:1])
        with pytest.raises(Undefined, match="not on all paths"):
            rest.of(part, [torch.zeros(2, 16, 8, 8)])


def test_an_attribution_lies_where_its_run_does(net, folder, tmp_path, monkeypatch):
    """Also at an address, which is no path: nothing is written here."""
    pytest.importorskip("upath")
    monkeypatch.chdir(tmp_path)
    found = found_of(net, folder, out="memory://why/run", limit=2)
    assert str(Attribution.open("memory://why/run/attribution.json")) == str(found)
    assert list(tmp_path.iterdir()) == []
