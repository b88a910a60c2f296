"""Several writers of one run: shards, workers, merging, and what is checked afterwards."""

import io
import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from torch import nn

import aliascope
from aliascope import ImageError, RunError, measure, merge, open_images, verify
from aliascope.measure import merging, writing
from aliascope.measure.store import Run
from aliascope.measure.writing import RunWriter

CONFIG = {"model": "toy", "images": "noise"}


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)
    )


def measured(out, **options):
    return measure(
        net(), "photos", **{"limit": 7, "device": "cpu", "batch_size": 2, "out": out, **options}
    )


@pytest.fixture(scope="module")
def alone():
    return measured(None)


def check_equal(run, reference):
    """The same rows, whatever their order."""
    for rows, expected, keys in (
        (run.images, reference.images, ["image_id"]),
        (run.layers, reference.layers, ["image_id", "layer"]),
    ):
        frames = [
            frame.astype(dict.fromkeys(keys, str)).sort_values(keys).reset_index(drop=True)
            for frame in (rows, expected)
        ]
        pd.testing.assert_frame_equal(*frames, rtol=1e-5, atol=1e-5)


def test_check_equal_sees_a_lost_row_a_row_twice_and_a_wrong_number(alone):
    for spoil in (
        lambda rows: rows[1:],
        lambda rows: pd.concat([rows, rows[:1]]),
        lambda rows: rows.assign(sis=rows["sis"] + 1e-3),
    ):
        spoilt = Run(alone.config, alone.strided_layers, {}, batches=alone.batches)
        spoilt.__dict__["images"] = spoil(alone.images)
        with pytest.raises(AssertionError):
            check_equal(spoilt, alone)


def test_shards_of_a_source_are_its_images_once():
    source = open_images("photos", limit=7)
    ids = [entry.id for entry in source.entries()]
    parts = []
    for index in range(3):
        source.shard = (index, 3)
        parts.append([entry.id for entry in source.entries()])
        assert list(source.identities()) == parts[-1]
        assert source.count == len(parts[-1])
    assert parts == [ids[0::3], ids[1::3], ids[2::3]]


@pytest.mark.parametrize("finish", ["merge", "measure"])
def test_shards_make_the_run_that_one_process_makes(tmp_path, alone, finish):
    for index in (2, 0, 1):
        run = measured(tmp_path, shard=(index, 3))
        assert run.state == "complete"  # of this shard
        assert Run.open(tmp_path).state == ("complete" if index == 1 else "interrupted")
    check_equal(Run.open(tmp_path), alone)
    run = merge(tmp_path) if finish == "merge" else measured(tmp_path)
    assert run.state == "complete"
    assert not list(tmp_path.glob("shard-*"))
    check_equal(Run.open(tmp_path), alone)
    assert verify(tmp_path).verdict == "All 7 images are what was written."


def test_a_shard_without_an_image_is_complete(tmp_path, alone):
    for index in range(9):
        measured(tmp_path, shard=(index, 9))
    check_equal(merge(tmp_path), alone)


def test_what_one_driver_began_another_continues(tmp_path, alone):
    measured(tmp_path, limit=2)  # one process, the first images
    measured(tmp_path, shard=(1, 2))
    measured(tmp_path, shard=(2, 4))  # of another partition
    held = Run.open(tmp_path)
    assert held.state == "interrupted"
    assert len(held.images) == 6
    run = measured(tmp_path)
    assert run.state == "complete"
    check_equal(run, alone)


def test_a_shard_does_not_read_what_the_others_wrote(tmp_path, alone, monkeypatch):
    """A thousand of them would else read half a million times; what is not known is read."""
    read, read_part = [], writing.read_part
    monkeypatch.setattr(
        writing, "read_part", lambda *given: (read.append(given[2]), read_part(*given))[1]
    )
    for index in range(3):
        measured(tmp_path, shard=(index, 3))
    assert read == []
    measured(tmp_path, shard=(1, 3))
    assert {part[:-6] for part in read} == {"part-1-of-3"}
    read.clear()
    measured(tmp_path, shard=(1, 2))  # of another partition: who knows what they have
    assert {part[:-6] for part in read} == {f"part-{index}-of-3" for index in range(3)}
    check_equal(merge(tmp_path), alone)


def test_shards_of_a_folder_that_grows_measure_nothing_twice(tmp_path):
    """What comes in front gives the others other numbers, so that shards hold each other's."""
    folder, out = tmp_path / "pictures", tmp_path / "run"
    folder.mkdir()
    for index in range(4):
        some_picture(index).save(folder / f"{index}.png")
    for index in range(2):
        measure(net(), folder, shard=(index, 2), out=out, device="cpu")
    some_picture(9).save(folder / "00.png")
    for _ in range(2):
        for index in range(2):
            measure(net(), folder, shard=(index, 2), out=out, device="cpu")
    assert verify(out).twice == 0
    check_equal(Run.open(out), measure(net(), folder, device="cpu"))


def some_picture(seed):
    noise = np.random.default_rng(seed).integers(0, 256, (240, 240, 3), dtype=np.uint8)
    return PIL.Image.fromarray(noise)


def test_an_image_of_two_shards_counts_once(tmp_path, alone):
    """Two partitions at the same time: neither sees what the other has not written yet."""
    first, second = tmp_path / "a", tmp_path / "b"
    measured(first, shard=(0, 2))
    measured(second, shard=(0, 3))
    for file in second.rglob("*"):
        if file.is_file() and not file.name.startswith("."):
            (first / file.relative_to(second)).write_bytes(file.read_bytes())
    assert verify(first).twice == 2  # numbers 0 and 6
    for shard in [(1, 2), (1, 3), (2, 3)]:
        measured(first, shard=shard)
    check_equal(Run.open(first), alone)
    check_equal(merge(first), alone)


def test_shards_write_beside_each_other_and_nobody_beside_a_writer_of_all(tmp_path):
    def writer(shard):
        return RunWriter(tmp_path, CONFIG, [], {}, shard=shard)

    with writer((0, 2)), writer((1, 2)):
        for other in ((0, 2), None):
            with pytest.raises(RunError, match="is being written by process"), writer(other):
                pass
        with pytest.raises(RunError, match="is being written by process"):
            merge(tmp_path)
    with writer(None), pytest.raises(RunError, match="is being written"), writer((0, 2)):
        pass
    with writer((0, 2)):
        pass


def test_merge_wants_all_shards(tmp_path):
    measured(tmp_path, shard=(0, 3))
    before = (tmp_path / "shard-0-of-3.json").read_bytes()
    with pytest.raises(RunError, match=r"lacks 2 of its shards, 1/3, 2/3: measure with --shard 1"):
        merge(tmp_path)
    assert (tmp_path / "shard-0-of-3.json").read_bytes() == before
    assert verify(tmp_path).shards_left == ("1/3", "2/3")
    assert "not complete: 1/3, 2/3" in verify(tmp_path).verdict


def test_merge_joins_parts_and_what_fails_leaves_all_as_it_was(tmp_path, alone, monkeypatch):
    for index in range(2):
        measured(tmp_path, shard=(index, 2), flush_seconds=0.0)
    files = sorted((tmp_path / "images").iterdir())
    assert len(files) > 3
    with monkeypatch.context() as patch:
        patch.setattr(merging, "sealed", lambda _: b"" / 0)
        with pytest.raises(TypeError):
            merge(tmp_path)
    check_equal(Run.open(tmp_path), alone)
    merge(tmp_path)
    assert len(list((tmp_path / "images").glob("*"))) == 1
    check_equal(Run.open(tmp_path), alone)
    check_equal(merge(tmp_path), alone)  # and again


def test_a_large_part_is_not_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr(merging, "_PART", 5)
    with RunWriter(tmp_path, CONFIG, [], {}, flush_seconds=0.0) as writer:
        for ids in ("abcdef", "gh", "ij", "klm"):
            writer.add({"image_id": list(ids)}, {})
        writer.finish()
    kept = (tmp_path / "images" / "part-00000.parquet").stat().st_mtime_ns
    assert list(merge(tmp_path).parts) == ["part-00000", "part-00004", "part-00003"]
    assert (tmp_path / "images" / "part-00000.parquet").stat().st_mtime_ns == kept
    assert "".join(Run.open(tmp_path).images["image_id"]) == "abcdefghijklm"


def test_a_damaged_file_is_found_and_measured_anew(tmp_path, alone):
    measured(tmp_path, flush_seconds=0.0)
    file = tmp_path / "layers" / "part-00001.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    (tmp_path / "images" / ".part-00009.parquet.tmp").write_bytes(b"half")
    found = verify(tmp_path)
    assert found.damaged == (f"{file} (its bytes are not those that were written)",)
    assert [Path(name).name for name in found.unlisted] == [".part-00009.parquet.tmp"]
    assert (found.sound, found.images) == (False, 5)
    assert found.verdict.startswith("Damaged files: 1. Run the same command again, without --shard")
    run = measured(tmp_path)
    assert "part-00001 was damaged" in run.notices[-1]
    check_equal(run, alone)
    assert verify(tmp_path).sound


def test_rows_that_do_not_belong_together_are_found(tmp_path):
    measured(tmp_path)
    run = Run.open(tmp_path)
    tables = {kind: run.rows(kind) for kind in ("images", "layers")}
    tables["layers"] = tables["layers"].slice(1)
    run.parts = {"part-00000": merging.write_part(tmp_path, "part-00000", tables)}
    record = merging.record_of(run) | {"parts": run.parts}
    (tmp_path / "run.json").write_bytes(merging.sealed(record))
    assert "(13 rows of 7 images in 2 layers)" in verify(tmp_path).damaged[0]


@pytest.mark.parametrize(
    ("shard", "out", "sentence"),
    [
        ((3, 3), "run", "there is no shard 3/3: they count from 0 to 2"),
        ((-1, 3), "run", "there is no shard -1/3"),
        ((0, 3), None, "shard 0/3 of a run needs a directory: give --out"),
    ],
)
def test_a_shard_that_there_is_not(tmp_path, shard, out, sentence):
    with pytest.raises(RunError, match=sentence):
        measured(out and tmp_path / out, shard=shard)


def test_a_run_and_its_pictures_at_an_address():
    """On a file system without renames and locks; fsspec has one in memory."""
    fsspec = pytest.importorskip("fsspec")
    pytest.importorskip("upath")
    files = fsspec.filesystem("memory")
    for name in "ab":
        image = PIL.Image.effect_noise((64, 64), 60).convert("RGB")
        image.save(stream := io.BytesIO(), "png")
        files.pipe_file(f"/photographs/{name}.png", stream.getvalue())
    files.pipe_file("/photographs/.hidden.png", b"")
    files.pipe_file("/photographs/notes.txt", b"")
    files.pipe_file("/photographs/deep/broken.png", b"no picture")
    source = open_images("memory://photographs")
    assert source.ids == ["a.png", "b.png", "deep/broken.png"]
    assert all(text.partition(" bytes")[0].isdigit() for text in source.identities().values())
    place = {"out": "memory://bucket/run", "device": "cpu"}
    for index in (0, 1):
        measure(net(), "memory://photographs", shard=(index, 2), **place)
    run = merge(place["out"])
    assert verify(place["out"]).sound
    assert (run.state, len(run.images), len(run.skipped)) == ("complete", 2, 1)
    assert run.skipped[0]["image_id"] == "deep/broken.png"
    again = measure(net(), "memory://photographs", **place)
    pd.testing.assert_frame_equal(again.images, run.images)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what reads S3
def test_a_run_on_s3(monkeypatch, alone):
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "name", "AWS_SECRET_ACCESS_KEY": "secret-of-s3",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    try:
        files = pytest.importorskip("fsspec").filesystem("s3", skip_instance_cache=True)
        files.mkdir("bucket")
        for index in (0, 1):
            measured("s3://bucket/run", shard=(index, 2), flush_seconds=0.0)
        check_equal(merge("s3://bucket/run"), alone)
        check_equal(Run.open("s3://bucket/run"), alone)
        assert verify("s3://bucket/run").sound
        assert b"secret-of-s3" not in files.cat_file("bucket/run/run.json")
        assert [run for run in files.find("bucket/run") if "shard" in run] == []
    finally:
        server.stop()


def test_an_address_that_leads_nowhere():
    with pytest.raises(ImageError, match="nothing://a cannot be read; give an address"):
        open_images("nothing://a")
    with pytest.raises(ImageError, match="memory://empty"):
        open_images("memory://empty")
    with pytest.raises(RunError, match="nothing://b cannot be reached"):
        measured("nothing://b")


class Mortal(nn.Module):
    """Dies without notice at its first forward of several views, so often, and then works."""

    def __init__(self, folder, deaths):
        super().__init__()
        self.net, self.folder, self.deaths = net(), folder, deaths

    def forward(self, x):
        died = len(list(self.folder.iterdir()))
        if len(x) > 2 and died < self.deaths:
            (self.folder / str(died)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.net(x)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_workers_make_the_same_run_though_one_is_killed(tmp_path, alone):
    told = []
    run = measure(
        Mortal(tmp_path, 1), "photos", limit=7, device="cpu", batch_size=2, workers=2,
        progress=lambda *said: told.append(said),
    )  # fmt: skip
    assert len(list(tmp_path.iterdir())) == 1
    assert run.path is None
    assert told[-1][:2] == (7, 7)
    renamed = run.layers.assign(layer=run.layers["layer"].astype(str).str.removeprefix("net."))
    run.__dict__["layers"] = renamed
    check_equal(run, alone)


@pytest.mark.slow
def test_a_worker_that_dies_again_and_again(tmp_path):
    with pytest.raises(RunError, match=r"died 3 times \(exit code -9\), perhaps of too little mem"):
        measure(Mortal(tmp_path, 99), "photos", limit=2, device="cpu", workers=2)


@pytest.mark.slow
def test_what_a_worker_cannot_do_is_said(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match="no image of"):
        measure(net(), tmp_path, device="cpu", workers=2)


def test_workers_cannot_share_a_shard(tmp_path):
    with pytest.raises(RunError, match="workers cannot share shard"):
        measured(tmp_path, workers=2, shard=(0, 2))
    with pytest.raises(RunError, match="0 workers measure nothing"):
        measured(tmp_path, workers=0)


def test_public_names():
    assert {"merge", "verify", "Verified"} <= set(aliascope.__all__)
    assert np.isfinite(aliascope.verify.__doc__.count("Raises"))
