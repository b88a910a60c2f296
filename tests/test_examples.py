"""The example that trains, on a data set of the same layout."""

import re
import runpy
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

EXAMPLE = Path(__file__).parents[1] / "examples" / "train_cifar10.py"
LAYERS = ["maxpool", "layer2.conv1", "layer2.downsample.0"]
LAYERS += ["layer3.conv1", "layer3.downsample.0"]


@pytest.mark.slow
def test_it_shows_how_layers_alias_while_it_trains(tiny_cifar, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    words = [str(tiny_cifar), "--out", str(out), "--epochs", "2", "--batch-size", "16"]
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *words])
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    printed = capsys.readouterr().out
    events = EventAccumulator(str(next(out.glob("events*"))))
    events.Reload()
    for figure in ("alias_share", "avr"):
        for layer in LAYERS:
            points = events.Scalars(f"aliascope/{figure}/{layer}")
            assert [point.step for point in points] == list(range(11))
            shown = re.search(rf"^{figure}/{layer} +(.+)$", printed, flags=re.MULTILINE)[1]
            wanted = [points[step].value for step in (0, 5, 10)]
            assert [float(x) for x in shown.split()] == pytest.approx(wanted, abs=6e-4)
            assert len(set(wanted)) == 3
    assert re.search(r"^accuracy 0\.\d+ on 40 test images; \d+ s$", printed, flags=re.MULTILINE)
    drawn = (out / "curves.svg").read_text()
    assert all(f">{layer}<" in drawn for layer in [*LAYERS, "agreement", "epoch"])
