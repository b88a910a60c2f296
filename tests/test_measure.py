import math
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from torch import nn

import aliascope
from aliascope import ImageError, ModelError, RunError, alias_violation_ratio, measure
from aliascope.images.preprocessing import Preprocessing
from aliascope.measure import measure_together, stepping
from aliascope.measure.batch import measure_batch, prepare, rows_of
from aliascope.measure.stepping import BatchSize
from aliascope.spectra import AVR_VARIANTS

SMALL = Preprocessing(resize=(32, 32), crop=(32, 32))


class Net(nn.Module):
    """Two taps as modules, one as a bare call, batch-norm to fold, a dropout to keep quiet."""

    def __init__(self, classes=10):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)
        self.conv = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.head = nn.Linear(16, classes)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = nn.functional.max_pool2d(x, 2)
        x = torch.relu(self.conv(x)).mean((2, 3))
        return self.head(nn.functional.dropout(x, 0.5, self.training))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "pictures"
    path.mkdir()
    for index in range(13):
        low = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        PIL.Image.fromarray(low).resize((48, 40)).save(path / f"{index:02}.png")
    return path


def test_rows_equal_the_plain_computation(net, folder):
    """Every figure, one image at a time, unfolded, with a forward for each view."""
    run = measure(net, str(folder), preprocess=SMALL, batch_size=5, device="cpu")
    net.eval()
    for image, row in zip(aliascope.open_images(folder), run.images.itertuples(), strict=True):
        x = SMALL.normalise(SMALL(image.pixels)[None])
        with torch.no_grad():
            logits = net(x)
            stem = torch.relu(net.norm(net.stem(x)))
            maps = {"stem": x, "max_pool2d": stem, "conv": nn.functional.max_pool2d(stem, 2)}
        assert row.image_id == image.id
        assert row.prediction == logits.argmax().item()
        assert row.confidence == pytest.approx(logits.softmax(1).max().item(), abs=1e-5)
        assert row.sis == pytest.approx(aliascope.shift_instability(net, x).item(), abs=1e-5)
        layers = run.layers[run.layers.image_id == image.id].set_index("layer")
        assert list(layers.index) == list(maps)
        for name, (band, dc) in AVR_VARIANTS.items():
            for layer, map_ in maps.items():
                expected = alias_violation_ratio(map_, 2, band=band, dc=dc).item()
                assert layers.loc[layer, name] == pytest.approx(expected, abs=1e-5)


def test_the_layers_alone_need_one_view(net, folder):
    options = {"preprocess": SMALL, "batch_size": 5, "device": "cpu"}
    run = measure(net, str(folder), only="avr", **options)
    whole = measure(net, str(folder), shifts="circular", **options)
    pd.testing.assert_frame_equal(run.layers, whole.layers)
    assert not {"sis", "prediction", "correct"} & set(run.images)
    assert "sis" in whole.images


def test_crop_shifts_move_the_window(net, folder):
    inner = Preprocessing(resize=(40,), crop=(32, 32))
    options = {"preprocess": inner, "device": "cpu"}
    run = measure(net, str(folder), shifts="crop", batch_size=5, **options)
    plain = measure(net, str(folder), shifts="circular", batch_size=5, **options)
    assert measure(net, str(folder), batch_size=5, **options).config == run.config  # the default
    net.eval()
    for image, row in zip(aliascope.open_images(folder), run.images.itertuples(), strict=True):
        wide = inner.normalise(Preprocessing(resize=(40,), crop=(34, 34))(image.pixels)[None])
        with torch.no_grad():
            # Up moves the picture up: the window moves down.
            up, still = net(wide[..., 2:, 1:-1]).softmax(1), net(wide[..., 1:-1, 1:-1]).softmax(1)
        expected = 1 - torch.cosine_similarity(up.double(), still.double()).item()
        assert row.sis_up == pytest.approx(expected, abs=1e-6)
    # The unshifted view, and so what its layers alias, is the same.
    pd.testing.assert_frame_equal(run.layers, plain.layers, rtol=0, atol=1e-5)
    assert (run.images.prediction == plain.images.prediction).all()
    assert not np.allclose(run.images.sis, plain.images.sis, rtol=1e-3)


def test_the_batch_size_changes_nothing(net, folder):
    runs = [
        measure(net, str(folder), preprocess=SMALL, batch_size=size, device="cpu")
        for size in (1, 4, 13, None)
    ]
    for run in runs[1:]:
        for frame in ("images", "layers"):
            a, b = getattr(runs[0], frame), getattr(run, frame)
            numbers = a.select_dtypes("float").columns
            assert len(numbers) >= 4
            pd.testing.assert_frame_equal(a[numbers], b[numbers], rtol=0, atol=1e-5)
            pd.testing.assert_frame_equal(a.drop(columns=numbers), b.drop(columns=numbers))


def test_a_model_in_train_mode_is_measured_in_eval_mode_and_left_untouched(net, folder):
    net.train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    run = measure(net, str(folder), preprocess=SMALL, device="cpu", limit=3)
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    again = measure(net.eval(), str(folder), preprocess=SMALL, device="cpu", limit=3)
    np.testing.assert_array_equal(run.images.sis, again.images.sis)


def test_conv_leaves_pools_out(net, folder):
    run = measure(net, str(folder), preprocess=SMALL, ops="conv", limit=2, device="cpu")
    assert [layer.name for layer in run.strided_layers] == ["stem", "conv"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_close(net, folder, precision):
    full = measure(net, str(folder), preprocess=SMALL, device="cpu")
    half = measure(net, str(folder), preprocess=SMALL, device="cpu", precision=precision)
    np.testing.assert_allclose(half.layers.avr, full.layers.avr, atol=5e-3)
    assert (half.layers.avr != full.layers.avr).any()


def test_labels_count_only_where_they_number_the_models_classes(net, folder):
    names = sorted(path.name for path in folder.iterdir())
    labels = folder.with_suffix(".csv")
    rows = "\n".join(f"{name},{min(i, 9)}" for i, name in enumerate(names))
    labels.write_text(f"file,label\n{rows}\n")
    run = measure(net, str(folder), preprocess=SMALL, device="cpu")
    expected = run.images.prediction == run.images.label
    assert run.images.correct.tolist() == expected.tolist()
    other = measure(Net(classes=7), str(folder), preprocess=SMALL, device="cpu")
    assert other.images.correct.isna().all()
    assert other.images.label.notna().all()


def test_a_run_in_a_directory_holds_the_same_rows_and_is_not_measured_twice(
    net, folder, tmp_path, monkeypatch
):
    in_memory = measure(net, str(folder), preprocess=SMALL, device="cpu", batch_size=4)
    out = tmp_path / "run"
    run = measure(net, str(folder), preprocess=SMALL, device="cpu", batch_size=4, out=out)
    pd.testing.assert_frame_equal(run.images, in_memory.images)
    pd.testing.assert_frame_equal(run.layers, in_memory.layers)
    monkeypatch.setattr(sys.modules["aliascope.measure"], "rows_of", None)
    again = measure(net, str(folder), preprocess=SMALL, device="cpu", batch_size=4, out=out)
    pd.testing.assert_frame_equal(again.images, run.images)


def test_another_configuration_is_refused_and_the_difference_named(net, folder, tmp_path):
    out = tmp_path / "run"
    measure(net, str(folder), preprocess=SMALL, device="cpu", out=out, limit=3)
    with pytest.raises(RunError, match="precision: fp32 → bf16"):
        measure(
            net, str(folder), preprocess=SMALL, device="cpu", out=out, limit=3, precision="bf16"
        )
    with torch.no_grad():
        net.head.bias += 1
    with pytest.raises(RunError, match="weights_digest"):
        measure(net, str(folder), preprocess=SMALL, device="cpu", out=out, limit=3)


def test_a_run_is_extended_by_pictures_that_come_later(net, folder, tmp_path):
    out, options = tmp_path / "run", {"preprocess": SMALL, "device": "cpu", "batch_size": 3}
    measure(net, str(folder), out=out, limit=3, **options)
    PIL.Image.new("RGB", (48, 40), (200, 30, 60)).save(folder / "00b.png")
    later = measure(net, str(folder), out=out, **options)
    whole = measure(net, str(folder), **options)
    assert later.images.identity.notna().all()
    for kind, keys in (("images", ["image_id"]), ("layers", ["image_id", "order"])):
        tables = [getattr(run, kind).astype({"image_id": str}) for run in (later, whole)]
        tables = [
            table.sort_values(keys, ignore_index=True)[measured_columns(table)] for table in tables
        ]
        pd.testing.assert_frame_equal(*tables, atol=1e-5, check_categorical=False)


def measured_columns(table):
    return [name for name in table if name != "identity"]


def test_pictures_and_labels_that_changed_are_refused(net, folder, tmp_path):
    """Row 2 of what was silently wrong: the old numbers, called complete."""
    out, options = tmp_path / "run", {"preprocess": SMALL, "device": "cpu"}
    table = folder.with_name("pictures.csv")
    table.write_text("file,label\n" + "".join(f"{i:02}.png,{i % 9 + 1}\n" for i in range(13)))
    measure(net, str(folder), out=out, **options)
    table.write_text("file,label\n" + "".join(f"{i:02}.png,{i % 8 + 2}\n" for i in range(13)))
    with pytest.raises(RunError, match="whose picture or label has changed since"):
        measure(net, str(folder), out=out, **options)
    out = tmp_path / "other"
    measure(net, str(folder), out=out, **options)
    PIL.Image.new("RGB", (48, 40), (200, 30, 60)).save(folder / "04.png")
    with pytest.raises(RunError, match=r"figures of 04\.png, whose picture or label"):
        measure(net, str(folder), out=out, **options)


def test_another_split_of_a_data_set_is_refused(net, tmp_path):
    class Numbered(torch.utils.data.Dataset):
        def __init__(self, split):
            self.split, self.offset = split, 50 * (split == "test")

        def __len__(self):
            return 4

        def __getitem__(self, index):
            generator = torch.Generator().manual_seed(index + self.offset)
            return torch.rand(3, 40, 40, generator=generator), index

    options = {"preprocess": SMALL, "device": "cpu", "out": tmp_path / "run"}
    measure(net, Numbered("train"), **options)
    with pytest.raises(RunError, match="whose picture or label has changed"):
        measure(net, Numbered("test"), **options)


def test_a_run_directory_continued_with_another_network_is_refused(net, folder, tmp_path):
    """Row 1: the same weights with another downsampler gave the first one's numbers."""
    options = {"preprocess": SMALL, "device": "cpu", "out": tmp_path / "run", "limit": 2}

    class Blocks(nn.Sequential):
        pass

    plain = Blocks(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    example = torch.zeros(1, 3, 32, 32)
    first, second = (
        aliascope.antialias(plain, method, example=example, stem="convert")
        for method in ("blurpool", "ideal")
    )
    measure(first, str(folder), **options)
    with pytest.raises(RunError, match="structure"):
        measure(second, str(folder), **options)


def test_unreadable_images_are_listed_and_skipped(net, folder):
    (folder / "03.png").write_bytes((folder / "03.png").read_bytes()[:60])
    (folder / "05.png").write_text("no picture")
    PIL.Image.open(folder / "06.png").convert("L").save(folder / "06.png")
    run = measure(net, str(folder), preprocess=SMALL, device="cpu")
    assert [item["image_id"] for item in run.skipped] == ["03.png", "05.png"]
    assert all(item["reason"] for item in run.skipped)
    assert len(run.images) == 11
    assert run.images.set_index("image_id").note["06.png"] == "greyscale"
    assert "11 images measured, 2 skipped" in " ".join(str(run).split())


def test_nothing_readable_is_an_error(net, tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(ImageError, match=r"no image of .* could be measured"):
        measure(net, str(tmp_path), preprocess=SMALL, device="cpu")


def test_what_is_no_classifier_still_has_its_aliasing_measured(folder):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Flatten(0))
    run = measure(model, str(folder), preprocess=SMALL, device="cpu")
    assert len(run.layers) == 13
    assert "sis" not in run.images or run.images.sis.isna().all()
    assert any("shift stability needs logits" in notice for notice in run.notices)


def test_a_model_that_does_not_downsample_still_has_its_stability_measured(folder):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    run = measure(model, str(folder), preprocess=SMALL, device="cpu")
    assert run.images.sis.notna().all()
    assert run.layers.empty


class Poisoned(Net):
    def forward(self, x):
        bright = x.mean((1, 2, 3)) > x.mean()
        return super().forward(torch.where(bright[:, None, None, None], x, math.nan))


def test_activations_that_are_not_finite_stay_undefined_and_are_said(folder):
    torch.manual_seed(0)
    run = measure(Poisoned(), str(folder), preprocess=SMALL, device="cpu", batch_size=13)
    bad = run.images.sis.isna()
    assert 0 < bad.sum() < 13
    assert run.images.prediction.isna().tolist() == bad.tolist()
    assert run.images.agreement.isna().tolist() == bad.tolist()
    assert any("not finite" in notice for notice in run.notices)


class Broken(nn.Module):
    def forward(self, x):
        raise RuntimeError("wrong size\nand much more")


def test_a_model_that_fails_is_named_with_its_first_line(folder):
    with pytest.raises(
        ModelError, match=r"Broken failed on an image of shape \(1, 3, 32, 32\): wrong size$"
    ):
        measure(Broken(), str(folder), preprocess=SMALL, device="cpu")


def test_a_device_that_is_not_there_is_named(net, folder):
    with pytest.raises(ModelError, match="device 'cuda:77' cannot be used here"):
        measure(net, str(folder), preprocess=SMALL, device="cuda:77")


@pytest.mark.parametrize(
    ("decoding", "forward", "word"),
    [(5, 1, "decoding"), (0.2, 1, "decoding"), (0.01, 1, "forward")],
)
def test_progress_says_what_is_waited_for(net, folder, monkeypatch, decoding, forward, word):
    module, now, told = stepping, [0.0], []
    made, added = module.batches, module._add_batch

    def slow_batches(*arguments):
        for batch in made(*arguments):
            now[0] += decoding
            yield batch

    def slow_forward(*arguments, **options):
        now[0] += forward
        added(*arguments, **options)

    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(module, "batches", slow_batches)
    monkeypatch.setattr(module, "_add_batch", slow_forward)
    measure(
        *(net, str(folder)), preprocess=SMALL, device="cpu", limit=4, batch_size=2,
        progress=lambda *each: told.append(each),
    )  # fmt: skip
    assert told == [(0, 4, "decoding"), (2, 4, word), (4, 4, word)]


def test_interrupted_work_is_kept_and_continued(net, folder, tmp_path):
    out = tmp_path / "run"

    def interrupt(done, *_):
        if done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(
            net,
            str(folder),
            preprocess=SMALL,
            device="cpu",
            out=out,
            batch_size=2,
            progress=interrupt,
        )
    half = aliascope.Run.open(out)
    assert half.state == "interrupted"
    assert len(half.images) == 6
    run = measure(net, str(folder), preprocess=SMALL, device="cpu", out=out, batch_size=2)
    whole = measure(net, str(folder), preprocess=SMALL, device="cpu", batch_size=2)
    assert run.state == "complete"
    pd.testing.assert_frame_equal(run.images, whole.images)


def test_windows_folded_into_the_batch_count_as_channels_of_their_image():
    class Windowed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, stride=2)

        def forward(self, x):
            windows = x.unfold(2, 16, 16).unfold(3, 16, 16)  # (B, 3, 2, 2, 16, 16)
            windows = windows.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, 16, 16)
            return self.conv(windows).mean((2, 3)).unflatten(0, (-1, 4)).flatten(1)

    instrument = prepare(aliascope.load_model(Windowed()), preprocess=SMALL, device="cpu")
    images = torch.rand(3, 3, 32, 32)
    _, layers = measure_batch(instrument, images)
    x = SMALL.normalise(images)
    each = [
        alias_violation_ratio(
            torch.cat([one[:, :16, :16], one[:, :16, 16:], one[:, 16:, :16], one[:, 16:, 16:]])[
                None
            ],
            2,
        )
        for one in x
    ]
    torch.testing.assert_close(layers["avr"][:, 0], torch.cat(each), rtol=0, atol=1e-5)


class TestBatchSize:
    def search(self, seconds_per_image, start=4):
        sizes = BatchSize(start)
        for _ in range(40):
            sizes.record(sizes.current, float(seconds_per_image(sizes.current) * sizes.current))
        return sizes.current

    def test_it_finds_the_fastest_size(self):
        assert self.search(lambda n: abs(n - 16) + 1) == 16
        assert self.search(lambda n: n) == 1
        assert self.search(lambda n: 1 / n) == 1024

    def test_a_size_that_is_given_stays(self):
        sizes = BatchSize(7, fixed=True)
        sizes.record(7, 1.0)
        assert sizes.current == 7

    def test_what_did_not_fit_is_not_tried_again(self):
        sizes = BatchSize(64)
        sizes.forbid(64)
        for _ in range(40):
            sizes.record(sizes.current, 1.0)
            assert sizes.current < 64

    def test_short_memory_halves_the_batch_and_loses_nothing(self, net, folder, monkeypatch):
        def tight(instrument, batch, **options):
            if len(batch) > 2:
                raise torch.OutOfMemoryError
            return rows_of(instrument, batch, **options)

        expected = measure(net, str(folder), preprocess=SMALL, device="cpu", batch_size=2)
        monkeypatch.setattr(sys.modules["aliascope.measure"], "rows_of", tight)
        run = measure(net, str(folder), preprocess=SMALL, device="cpu", batch_size=8)
        assert run.images.image_id.tolist() == expected.images.image_id.tolist()
        np.testing.assert_allclose(run.images.sis, expected.images.sis, atol=1e-6)


@pytest.mark.slow
def test_the_input_of_conv1_on_stl10_aliases_as_published(published):
    run = measure(
        "timm:resnet50",
        published / "stl10_test_first1000",
        weights="random",
        preprocess="resize224",
        ops="conv",
        only="avr",
        device="cpu",
    )
    conv1 = run.layers.avr[run.layers.layer == "conv1"]
    assert f"{conv1.mean():.4f} ± {conv1.std():.4f}" == "0.0036 ± 0.0024"


@pytest.mark.slow
def test_lite0_on_the_thousand_imagenet_photographs(published):
    images = published / "imagenet_1000"
    run = measure("efficientnet_lite0", images, shifts="circular", device="cpu")
    assert run.images.correct.mean() == pytest.approx(0.88, abs=0.005)
    assert run.images.sis.mean() == pytest.approx(0.0073, abs=2e-4)


class Exhausted(nn.Module):
    """Out of memory at its third batch of several views."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.batches = 0

    def forward(self, x):
        self.batches += len(x) > 5
        if self.batches > 2:
            raise torch.OutOfMemoryError
        return self.net(x)


def counting(images):
    """A source that keeps the ids of what it decodes."""
    source, decoded = aliascope.open_images(str(images)), []

    def counted(entry):
        def load():
            decoded.append(entry.id)
            return entry.load()

        return entry._replace(load=load)

    read = source.read
    return replace(source, read=lambda: map(counted, read())), decoded


def together(*args, **options):
    """What comes of each job, in their order."""
    return [ended for _, ended in sorted(measure_together(*args, **options), key=lambda x: x[0])]


def alike(run, alone):
    pd.testing.assert_frame_equal(run.images, alone.images)
    pd.testing.assert_frame_equal(run.layers, alone.layers)


@pytest.mark.parametrize("sizes", [(2, 2), (1, 5), (13, 2)])
def test_side_by_side_each_picture_is_decoded_once(net, folder, sizes):
    (folder / "broken.png").write_bytes(b"no picture")
    source, decoded = counting(folder)
    jobs = [{"model": Net(classes), "batch_size": size}
            for classes, size in zip((10, 4), sizes, strict=True)]  # fmt: skip
    told = []
    options = {"preprocess": SMALL, "device": "cpu"}
    runs = together(source, jobs, progress=lambda *x: told.append(x), **options)
    assert sorted(decoded) == sorted({*decoded})
    assert len(decoded) == 14
    assert told[-1][:2] == (28, 28)
    for run, job in zip(runs, jobs, strict=True):
        alike(run, measure(images=str(folder), **job, **options))
        assert len(run.skipped) == 1


def test_side_by_side_one_that_fails_stops_no_other(net, folder, tmp_path):
    jobs = [
        {"model": Exhausted(Net()), "out": tmp_path / "a"},
        {"model": net, "out": tmp_path / "b"},
    ]
    options = {"preprocess": SMALL, "device": "cpu", "batch_size": 2}
    failed, run = together(str(folder), jobs, **options)
    assert isinstance(failed, ModelError)
    assert "does not fit into the memory" in str(failed)
    assert 0 < len(aliascope.Run.open(tmp_path / "a").images) < 13
    alike(run, measure(net, str(folder), **options))
    source, decoded = counting(folder)
    assert together(source, jobs[1:], **options)[0].state == "complete"
    assert decoded == []  # nothing of what is there


def test_side_by_side_who_leaves_the_loop_ends_them_all_and_keeps_their_rows(net, folder, tmp_path):
    """As a comparison does, which is nothing without one of them."""
    options = {"preprocess": SMALL, "device": "cpu", "batch_size": 2, "out": tmp_path}
    source, decoded = counting(folder)
    with pytest.raises(ModelError, match="does not fit into the memory"):
        aliascope.compare(Exhausted(Net()), net, images=source, **options)
    assert len(decoded) < 13 or len(aliascope.Run.open(tmp_path / "B").images) < 13
    assert aliascope.Run.open(tmp_path / "B").state == "interrupted"
    assert aliascope.compare(net, net, images=str(folder), out=tmp_path / "again", limit=3,
                             preprocess=SMALL, device="cpu").n == 3  # fmt: skip


def test_side_by_side_a_run_that_is_further_on_is_continued(net, folder, tmp_path):
    options = {"preprocess": SMALL, "device": "cpu", "batch_size": 2}
    measure(net, str(folder), out=tmp_path / "a", limit=9, **options)
    source, decoded = counting(folder)
    other = Net(4)
    jobs = [{"model": net, "out": tmp_path / "a"}, {"model": other, "out": tmp_path / "b"}]
    first, second = together(source, jobs, **options)
    assert sorted(decoded) == sorted({*decoded})
    alike(first, measure(net, str(folder), **options))
    alike(second, measure(other, str(folder), **options))


def test_side_by_side_workers_measure_one_after_the_other(monkeypatch, folder):
    asked, made = [], {name: object.__new__(aliascope.Run) for name in "ab"}

    def processes(model, *_, **__):
        asked.append(model)
        return made[model]

    monkeypatch.setattr(sys.modules["aliascope.measure"], "in_processes", processes)
    jobs = [{"model": "a"}, {"model": "b"}]
    assert together(folder, jobs, workers=2) == [made["a"], made["b"]]
    assert asked == ["a", "b"]
