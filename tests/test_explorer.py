import json
import re
import sys
from dataclasses import replace
from urllib.parse import parse_qsl

import numpy as np
import PIL.Image
import pytest
import torch

import aliascope
from aliascope.cli import main
from aliascope.explorer import Explorer, build, drawing
from aliascope.explorer.session import MAX_BYTES, read_photo, summary
from aliascope.explorer.state import METHODS, UPLOADED, Offer, Shown, restored
from aliascope.measure.batch import prepare, view_logits
from aliascope.measure.shiftmap import grid, shift_by, shift_curves
from aliascope.spectra import power_spectrum
from aliascope.taps import tap

TOY = """
import torch
from torch import nn

def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(8 * 56 * 56, 10), Louder(),
    )

def other():
    return net(1)

class Louder(nn.Module):
    def forward(self, x):
        return 8 * (x - x.mean(-1, keepdim=True))

def flat():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
"""


@pytest.fixture
def explorer(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "toy", raising=False)
    (tmp_path / "toy.py").write_text(TOY)
    return Explorer(["toy:net", "toy:other"], device="cpu")


@pytest.fixture
def photo(tmp_path):
    rng = np.random.default_rng(0)
    low = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    PIL.Image.fromarray(low).resize((400, 300)).save(tmp_path / "mine.png")
    return read_photo(tmp_path / "mine.png")


def test_guesses_are_the_library_s_answer(explorer, photo):
    shift = shift_by(3, -5)
    instrument = prepare(aliascope.load_model("toy:net"), device="cpu")
    wide = replace(instrument.preprocessing, margin=8)(photo.pixels)
    moved = wide[:, 8 - 3 : 8 - 3 + 224, 8 + 5 : 8 + 5 + 224]
    p = view_logits(instrument, moved[None, None])[0, 0].softmax(0)
    guesses = explorer.guesses("toy:net", photo, shift, "crop")
    assert [guess.index for guess in guesses] == p.argsort(descending=True)[:5].tolist()
    assert [guess.probability for guess in guesses] == pytest.approx(
        p.sort(descending=True).values[:5].tolist(), abs=1e-5
    )
    assert guesses[0].label == f"class {guesses[0].index}"
    picture = explorer.picture("toy:net", photo, shift, "crop")
    assert torch.equal(torch.from_numpy(picture).permute(2, 0, 1), (moved * 255).round().byte())


@pytest.mark.parametrize("border", ["crop", "circular"])
def test_maps_fill_and_agree_with_the_curves(explorer, photo, border):
    specs = ("toy:net", "toy:net@blurpool:3")
    sizes, frames = [], []
    for frames in explorer.maps(specs, photo, border):
        sizes.append(len(frames[1]))
    assert sizes == sorted(sizes)
    assert sizes[0] == 0
    assert sizes[-1] == 17 * 17
    instruments = {spec: explorer.model(spec).instrument for spec in specs}
    curves = shift_curves(instruments, {"mine": photo.pixels}, border=border)
    for spec, frame in zip(specs, frames, strict=True):
        wanted = curves[curves["model"] == spec].drop(columns=["image_id", "model"])
        found = wanted[["rows", "columns"]].merge(frame)
        assert found["probability"].to_numpy() == pytest.approx(
            wanted["probability"].to_numpy(), abs=1e-4
        )
    told = summary(frames[0], explorer.model("toy:net"))
    away = frames[0][frames[0]["prediction"] != frames[0]["prediction"].iloc[0]]
    assert told["flips"] == len(away) > 0
    assert told["worst_probability"] == frames[0]["probability"].iloc[1:].min()


def test_a_map_known_by_now_is_not_computed_again(explorer, photo, monkeypatch):
    specs = ("toy:net", "toy:other")
    *_, first = explorer.maps(specs, photo, "crop")
    monkeypatch.setattr("aliascope.explorer.session.shifted_logits", None)
    *_, again = explorer.maps(specs, photo, "crop")
    assert all(x.equals(y) for x, y in zip(first, again, strict=True))
    explorer.guesses("toy:net", photo, shift_by(8, 8), "crop")
    with pytest.raises(TypeError):
        explorer.guesses("toy:net", photo, shift_by(8, 8), "circular")


def test_layers_are_what_measure_has(explorer, tmp_path, photo):
    run = aliascope.measure("toy:net", tmp_path / "mine.png", device="cpu")
    layers = explorer.layers("toy:net", photo)
    assert [layer.name for layer in layers] == run.layers["layer"].tolist() == ["0", "2"]
    for column in ("alias_share", "sampled_avr", "avr"):
        assert [layer.figures[column] for layer in layers] == pytest.approx(
            run.layers[column].tolist(), abs=1e-6
        )
    found = aliascope.attribute("toy:net", tmp_path / "mine.png", device="cpu", doses=0)
    carried = [layer.figures["alias_carried"] for layer in layers]
    assert carried == pytest.approx(found.depths["alias_carried"].tolist(), abs=1e-4)


def test_spectra_are_of_what_is_sampled(explorer, photo):
    """A max-pool of 2 samples its own maximum at stride 1; its kept samples are what it yields."""
    layer = explorer.layers("toy:net", photo)[1]
    model = explorer.model("toy:net").instrument
    picture = replace(model.preprocessing, margin=0)(photo.pixels)
    with tap(model.module, [model.layers[1]], of="output") as tapped, torch.no_grad():
        model.module(model.preprocessing.normalise(picture[None]))
    kept = tapped.outputs["2"]
    energy = power_spectrum(kept).mean((0, 1)) / kept[0, 0].numel() ** 2
    assert layer.after.shape == (28, 28)
    wanted = energy.reshape(28, 2, 28, 2).mean((1, 3)).log10().numpy()
    assert layer.after == pytest.approx(wanted, abs=1e-3)
    assert layer.before.shape == (28, 28)


def test_a_broken_file_gets_a_sentence(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(aliascope.ImageError, match=r"^text.png is in no format that Pillow reads"):
        read_photo(tmp_path / "text.png")
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(aliascope.ImageError, match=r"^large.png is larger than 20 MB"):
        read_photo(tmp_path / "large.png")


def test_what_cannot_be_explored_is_said(explorer):
    with pytest.raises(aliascope.ModelError, match="toy:flat is no classifier"):
        explorer.model("toy:flat")


def test_results_in_memory_are_bounded(explorer, photo):
    for index in range(40):
        other = replace(photo, digest=str(index))
        explorer.guesses("toy:net", other, shift_by(0, 0), "crop")
    assert len(explorer._logits) == 32


OFFER = Offer(("toy:net", "toy:other"), ("a.png#0-0", "b&c.png#0-0"))


@pytest.mark.parametrize("b", OFFER.seconds)
def test_a_link_restores_what_it_was_made_of(b):
    shown = Shown("toy:other", b, "b&c.png#0-0", 7, -8, "circular")
    assert restored(dict(parse_qsl(shown.query[1:])), OFFER) == (shown, [])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("a", "os:system"),
        ("a", "toy:net@blurpool"),
        ("b", "@blurpool:3:partial"),
        ("b", "/etc/x.safetensors"),
        ("sample", "/etc/passwd"),
        ("dx", "9"),
        ("dy", "1e3"),
        ("border", "native"),
    ],
)
def test_a_link_chooses_only_what_is_offered(key, value):
    shown, complaints = restored({key: value}, OFFER)
    assert shown == OFFER.first
    (complaint,) = complaints
    assert f"{key}={value!r}" in complaint


def test_a_link_says_that_it_does_not_hold_the_photograph():
    shown, complaints = restored({"sample": UPLOADED, "dx": "2"}, OFFER)
    assert shown == replace(OFFER.first, columns=2)
    assert "drop it again" in complaints[0]


def test_every_method_that_is_offered_converts(explorer):
    for method in METHODS:
        assert explorer.model(f"toy:net@{method}").instrument.classes == 10


def test_markup_in_names_stays_text(explorer, photo):
    evil = "<img src=x onerror=alert(1)>${alert(2)}{{value}}`"
    named = replace(photo, name=evil)
    model = replace(
        explorer.model("toy:net"),
        loaded=replace(explorer.model("toy:net").loaded, spec=evil, class_names=(evil,) * 10),
    )
    explorer._models["toy:net"] = model
    explorer._models[evil] = model
    shown = Shown(evil, evil, UPLOADED, 1, 1)
    *_, frames = explorer.maps(shown.specs, named, "crop")
    guesses = [explorer.guesses(spec, named, shift_by(1, 1), "crop") for spec in shown.specs]
    picture = explorer.picture(evil, named, shift_by(1, 1), "crop")
    html = [
        drawing.answer(shown, evil, picture, guesses),
        drawing.maps(shown, [model, model], frames, 8),
        drawing.confidence(shown, [model, model], frames),
        drawing.layers(shown, explorer.pairs(shown.specs, named)),
        drawing.message([evil]),
        drawing.links(shown, explorer.record(shown, named)),
    ]
    for text in html:
        assert not re.search(r"<img src=x|\$\{|\{\{|`", text)
    for text in html[:5]:
        assert "&lt;img src=x" in text


def test_the_record_holds_what_is_shown(explorer, photo):
    shown = Shown("toy:net", "@ideal", UPLOADED, 2, -1)
    *_, frames = explorer.maps(shown.specs, photo, shown.border)
    explorer.pairs(shown.specs, photo)
    record = json.loads(json.dumps(explorer.record(shown, photo), allow_nan=False))
    assert record["photograph"] == "mine.png"
    assert (record["rows"], record["columns"]) == (2, -1)
    assert record["models"]["b"]["spec"] == "toy:net@ideal"
    assert record["models"]["a"]["map"]["prediction"] == frames[0]["prediction"].tolist()
    assert [layer["layer"] for layer in record["models"]["a"]["layers"]] == ["0", "2"]
    assert len(record["models"]["a"]["likeliest"]) == 5


def test_without_gradio_a_sentence_says_what_to_install(monkeypatch, capfd):
    monkeypatch.delitem(sys.modules, "aliascope.explorer.page", raising=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(aliascope.AliascopeError, match=r"pip install 'aliascope\[explorer\]'"):
        build()
    monkeypatch.setattr(sys, "argv", ["aliascope", "explore"])
    with pytest.raises(SystemExit):
        main()
    assert capfd.readouterr().err.startswith("error: the explorer needs Gradio")


def test_the_plan_of_the_map_begins_without_a_shift():
    assert (grid()[0].rows, grid()[0].columns) == (0, 0)
