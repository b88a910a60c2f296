"""The example that trains, on a data set of the same layout that is made here."""

import io
import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

EXAMPLE = Path(__file__).parents[1] / "examples" / "train_cifar10.py"
CLASSES = [f"class {number}" for number in range(10)]
LAYERS = ["maxpool", "layer2.conv1", "layer2.downsample.0"]
LAYERS += ["layer3.conv1", "layer3.downsample.0"]


@pytest.fixture
def data(tmp_path):
    """Blobs whose colour tells the class, as JPEGs in Parquet, as Hugging Face's data sets are."""
    rng = np.random.default_rng(0)
    features = {"image": {"_type": "Image"}, "label": {"names": CLASSES, "_type": "ClassLabel"}}
    described = {"huggingface": json.dumps({"info": {"features": features}})}
    folder = tmp_path / "data"
    folder.mkdir()
    for split, count in (("train", 80), ("test", 40)):
        labels = rng.integers(10, size=count)
        images = []
        for label in labels:
            pixels = rng.integers(0, 60, (32, 32, 3), dtype=np.uint8)
            pixels[8:24, 8:24] += np.array([label * 19, 190 - label * 19, 90], dtype=np.uint8)
            file = io.BytesIO()
            PIL.Image.fromarray(pixels).save(file, "JPEG")
            images.append({"bytes": file.getvalue(), "path": f"{label}.jpg"})
        table = pa.table({"image": images, "label": labels}).replace_schema_metadata(described)
        pq.write_table(table, folder / f"{split}.parquet")
    return folder


@pytest.mark.slow
def test_it_shows_how_layers_alias_while_it_trains(data, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    words = [str(data), "--out", str(out), "--epochs", "2", "--batch-size", "16"]
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
