import errno
import json
import os
import signal
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import faults
from aliascope.errors import RunError
from aliascope.measure import writing
from aliascope.measure.store import Run
from aliascope.measure.writing import RunWriter
from aliascope.records import StridedLayer
from aliascope.results.files import sealed

CONFIG = {"model": "toy", "images": "noise", "preprocessing": "model", "size": (8, 8)}


def layer(name="conv1", order=0, stride=(2.0, 2.0), kind="conv"):
    return StridedLayer(
        name, kind, (3, 3), stride, (3, 8, 8), (4, 4, 4), stride, order, shortcut=False
    )


LAYERS = [layer("conv1", 0), layer("layer2.0.conv2", 1), layer("layer2.0.downsample.0", 2)]


def value(image_id, column):
    """A number that tells from where it came."""
    return np.float32(int(image_id) + column / 8)


def batch(ids):
    images = {
        "image_id": ids,
        "group": [f"photo{int(i) // 2}" for i in ids],
        "label": [int(i) % 10 for i in ids],
        "sis": np.array([value(i, 0) for i in ids], np.float32),
        "note": ["" for _ in ids],
    }
    columns = [[value(i, 1 + k) for k in range(len(LAYERS))] for i in ids]
    return images, {"avr": np.array(columns, np.float32).reshape(len(ids), len(LAYERS))}


def write(path, ids, *, size=3, pause=0.0, config=CONFIG, **options):
    with RunWriter(path, config, LAYERS, {}, **options) as writer:
        left = [i for i in ids if i not in writer.measured]
        for start in range(0, len(left), size):
            time.sleep(pause)
            writer.add(*batch(left[start : start + size]))
        return writer.finish()


def names(count):
    return [str(i) for i in range(count)]


def check_rows(run, ids):
    """Every image once, every layer of it once, with the numbers that belong to them."""
    images, layers = run.images, run.layers
    assert sorted(images["image_id"]) == sorted(ids)
    assert images.empty or images["sis"].tolist() == [value(i, 0) for i in images["image_id"]]
    keys = set(zip(layers["image_id"], layers["layer"], layers["order"], strict=True))
    assert len(layers) == len(keys) == len(ids) * len(LAYERS)
    assert keys == {(i, layer.name, layer.order) for i in ids for layer in LAYERS}
    expected = [value(*p) for p in zip(layers["image_id"], 1 + layers["order"], strict=True)]
    assert layers.empty or layers["avr"].tolist() == expected


def test_check_rows_sees_a_row_twice_a_lost_row_and_a_wrong_number():
    run = write(None, names(4))
    check_rows(run, names(4))
    for kind, spoil in [
        ("images", lambda rows: pd.concat([rows, rows[:1]])),
        ("layers", lambda rows: pd.concat([rows, rows[:1]])),
        ("images", lambda rows: rows[1:]),
        ("layers", lambda rows: rows[1:]),
        ("images", lambda rows: rows.assign(sis=rows["sis"] + 1)),
        ("layers", lambda rows: rows.assign(avr=rows["avr"][::-1].to_numpy())),
    ]:
        spoilt = write(None, names(4))
        spoilt.__dict__[kind] = spoil(getattr(run, kind))
        with pytest.raises(AssertionError):
            check_rows(spoilt, names(4))


@pytest.mark.parametrize("flush_seconds", [0.0, 10.0])
@pytest.mark.parametrize("where", ["disk", "memory"])
def test_round_trip(tmp_path, where, flush_seconds):
    path = tmp_path / "deep" / "run" if where == "disk" else None
    images = {
        "image_id": ["b/ü.png", "a"],
        "group": ["g", "g"],
        "label": [7, None],
        "prediction": np.array([7, 3]),
        "correct": np.array([True, None], object),
        "sis": np.array([0.25, np.nan]),
        "note": ["greyscale", ""],
    }
    layers = {"avr": np.array([[1, 2, 3], [4, 5, np.nan]], np.float64)}
    info = {"device": "cpu"}
    with RunWriter(path, CONFIG, LAYERS, info, flush_seconds=flush_seconds) as writer:
        assert writer.measured == frozenset()
        assert writer.previous_info is None
        writer.add(images, layers)
        writer.skip("c", "truncated")
        writer.notice("no classes")
        writer.notice("no classes")
        writer.run.info["batch_size"] = 4
        finished = writer.finish()
    for run in [finished, Run.open(path)] if path else [finished]:
        assert run.path == path
        assert (run.model, run.state, run.error) == ("toy", "complete", "")
        assert run.config == CONFIG | {"size": [8, 8]}
        assert run.info == {"device": "cpu", "pid": os.getpid(), "batch_size": 4}
        assert run.strided_layers == LAYERS
        assert run.skipped == [{"image_id": "c", "reason": "truncated"}]
        assert run.notices == ["no classes"]
        assert run.times["started"] <= run.times["updated"]
        assert list(run.images) == list(images)
        assert run.images["image_id"].tolist() == ["b/ü.png", "a"]
        assert run.images["label"].tolist() == [7, pd.NA]
        types = run.images.dtypes.astype(str)
        assert types[["label", "prediction", "correct"]].tolist() == ["Int64", "Int64", "boolean"]
        assert types["sis"] == "float32"
        assert run.images["correct"].tolist() == [True, pd.NA]
        np.testing.assert_array_equal(run.images["sis"], np.float32([0.25, np.nan]))
        assert list(run.layers) == ["image_id", "layer", "order", "avr"]
        np.testing.assert_array_equal(run.layers["avr"], np.float32([1, 2, 3, 4, 5, np.nan]))
        assert run.layers["layer"].tolist() == 2 * [layer.name for layer in LAYERS]
        assert run.layers["image_id"].tolist() == 3 * ["b/ü.png"] + 3 * ["a"]
        assert run.layers["avr"].dtype == np.float32


@given(st.lists(st.integers(1, 5), max_size=6), st.integers(0, 6), st.sampled_from([0.0, 9.0]))
@settings(max_examples=12)
def test_rows_do_not_depend_on_batches_parts_or_interruption(sizes, stop, flush_seconds):
    ends = np.cumsum([0, *sizes])
    ids = names(sum(sizes))
    with tempfile.TemporaryDirectory() as folder:
        with RunWriter(folder, CONFIG, LAYERS, {}, flush_seconds=flush_seconds) as writer:
            for start, size in list(zip(ends, sizes, strict=False))[:stop]:
                writer.add(*batch(ids[start : start + size]))
        assert Run.open(folder).state == "interrupted"
        run = write(folder, ids, flush_seconds=flush_seconds)
        pd.testing.assert_frame_equal(run.images, write(None, ids, size=1).images)
        check_rows(Run.open(folder), ids)


def test_a_million_rows_stay_small():
    layers = [layer(f"stage.{k}.a_rather_long_name_of_a_module", k) for k in range(10)]
    with RunWriter(None, CONFIG, layers, {}) as writer:
        for start in range(0, 100_000, 1000):
            ids = [f"n01440764/ILSVRC2012_val_{start + k:08d}.JPEG" for k in range(1000)]
            writer.add({"image_id": ids}, {"avr": np.zeros((1000, 10))})
        rows = writer.finish().layers
    assert len(rows) == 1_000_000
    # Three columns of four bytes, the names a million times fewer.
    assert rows.memory_usage(deep=True).sum() < 30e6


def test_a_metric_that_appears_late_is_unknown_before(tmp_path):
    write(tmp_path, ["0"])
    with RunWriter(tmp_path, CONFIG, LAYERS, {}) as writer:
        images, layers = batch(["1"])
        writer.add(images | {"agreement": [0.5]}, layers)
        run = writer.finish()
    np.testing.assert_array_equal(run.images["agreement"], [np.nan, 0.5])


def test_nothing_measured(tmp_path):
    run = write(tmp_path, [])
    assert run.images.empty
    assert run.layers.empty
    assert {"image_id", "group", "label", "note"} <= set(run.images)
    assert "0 images measured" in str(run)
    assert run.to_dict()["metrics"]["sis"] == {"mean": None, "std": None}


def test_no_layers():
    with RunWriter(None, CONFIG, [], {}) as writer:
        writer.add({"image_id": ["a"]}, {"avr": np.zeros((1, 0))})
        run = writer.finish()
    assert len(run.images) == 1
    assert run.layers.empty
    assert "AVR" in str(run)


def test_a_column_of_the_wrong_length_is_refused_at_once():
    with RunWriter(None, CONFIG, LAYERS, {}) as writer:
        images, layers = batch(["0", "1"])
        with pytest.raises(pa.ArrowInvalid):
            writer.add(images | {"sis": np.zeros(3)}, layers)
        writer.add(images, layers)
        assert len(writer.finish().images) == 2


def test_table():
    layers = [
        layer("conv1", 0, stride=(4.0, 4.0), kind="patch_embed"),
        layer("a.very.long.name.of.a.module.interpolate", 1, (4 / 3, 4 / 3), "interpolate"),
        layer("pool", 2, stride=(2.0, 1.0), kind="max_blur_pool"),
    ]
    with RunWriter(None, CONFIG, layers, {}) as writer:
        images = {
            "image_id": ["a", "b", "c"],
            "sis": [0.01, 0.02, 0.06],
            "agreement": [1.0, 0.75, 0.5],
            "correct": [True, False, None],
        }
        avr = np.array([[0.1, 0.2, np.nan], [0.3, 0.4, np.nan], [0.5, 0.6, np.nan]])
        writer.add(images, {"sampled_avr": avr, "avr": avr / 2})
        for k in range(7):
            writer.skip(f"{k}.png", "truncated")
        writer.notice("the model is no classifier " * 5)
        text = str(writer.finish())
    expected = """\
toy on noise: 3 images measured, 7 skipped, complete

shift instability (SIS)  0.0300 ± 0.0265
SIS at confidence ½      –
agreement                0.7500 ± 0.2500
logit instability        –
accuracy                 0.5000

layer                    kind           stride  sampled AVR      alias share  read AVR
conv1                    patch_embed    4       0.3000 ± 0.2000  –            0.1500 ± 0.1000
…f.a.module.interpolate  interpolate    1.33    0.4000 ± 0.2000  –            0.2000 ± 0.1000
pool                     max_blur_pool  2×1     –                –            –

3 photographs: fewer than 30, so that each of them weighs.

notice: the model is no classifier the model is no classifier the model is no classifier the model
  is no classifier the model is no classifier
skipped 0.png: truncated
skipped 1.png: truncated
skipped 2.png: truncated
skipped 3.png: truncated
skipped 4.png: truncated
… and 2 more"""
    assert text == expected


def test_an_observation_is_a_photograph_not_a_crop_of_it():
    with RunWriter(None, CONFIG, [layer("conv1", 0)], {}) as writer:
        sis, groups = [0.1, 0.3, 0.6], ["cat", "cat", "cup"]
        avr = np.array([[0.1], [0.2], [np.nan]])
        writer.add({"image_id": ["a", "b", "c"], "group": groups, "sis": sis}, {"avr": avr})
        run = writer.finish()
    found = run.to_dict()
    assert found["metrics"]["sis"] == pytest.approx({"mean": 0.4, "std": 0.4 / 2**0.5})
    assert found["layers"][0]["avr"] == {"mean": pytest.approx(0.15), "std": None}
    assert "(SIS)  0.4000 ± 0.2828" in str(run)
    assert run.table.set_index("metric").loc["sis", "mean"] == pytest.approx(0.4)


def test_the_table_fits_a_hundred_columns_and_the_dictionary_is_json():
    stride, name = (4 / 3, 5 / 3), "a.very.long.name" * 9
    with RunWriter(None, CONFIG, [layer(name, 0, stride, "max_blur_pool")], {}) as writer:
        metrics = {
            metric: np.array([[0.1], [0.2]]) for metric in ("sampled_avr", "alias_share", "avr")
        }
        writer.add({"image_id": ["a", "b"], "correct": [True, None]}, metrics)
        writer.skip("x" * 150, "y " * 99)
        run = writer.finish()
    assert max(map(len, str(run).splitlines())) == 100
    summary = json.loads(json.dumps(run.to_dict(), allow_nan=False))
    assert summary["measured"] == 2
    assert summary["metrics"]["sis"] == {"mean": None, "std": None}
    assert summary["metrics"]["correct"] == {"mean": 1.0}
    assert summary["layers"][0]["name"] == name
    assert summary["layers"][0]["avr"] == pytest.approx({"mean": 0.15, "std": 0.05 * 2**0.5})
    assert summary["config"] == run.config
    assert summary["path"] is None


def test_run_json_is_for_people_and_its_own_kind_of_numbers(tmp_path):
    config = CONFIG | {"seed": np.int64(3), "rate": float("nan"), "file": Path("a/b")}
    with RunWriter(tmp_path, config, LAYERS, {}) as writer:
        writer.skip("b\udcff.png", "ü")
        writer.finish()
    text = (tmp_path / "run.json").read_text("utf-8")
    record = json.loads(text)
    assert list(record)[:3] == ["format", "state", "error"]
    assert record["format"] == 3
    assert record["config"] == CONFIG | {"size": [8, 8], "seed": 3, "rate": None, "file": "a/b"}
    assert record["layers"][1]["name"] == "layer2.0.conv2"
    assert '  "state": "complete",\n' in text
    assert '"ü"' in text
    assert Run.open(tmp_path).skipped[0]["image_id"] == "b\udcff.png"


def test_a_run_is_continued(tmp_path):
    with RunWriter(tmp_path, CONFIG, LAYERS, {"batch_size": 4}) as writer:
        writer.add(*batch(names(3)))
        writer.skip("9", "truncated")
        writer.notice("no classes")
    first = Run.open(tmp_path)
    assert first.state == "interrupted"
    with RunWriter(tmp_path, CONFIG, LAYERS, {"batch_size": 8}) as writer:
        assert writer.measured == set(names(3))
        assert writer.previous_info["batch_size"] == 4
        assert Run.open(tmp_path).state == "running"
        writer.notice("no classes")
        writer.add(*batch(["3"]))
        run = writer.finish()
    assert run.skipped == []  # a mended image gets another chance
    assert run.notices == ["no classes"]
    assert run.times["started"] == first.times["started"]
    check_rows(run, names(4))


def test_a_complete_run_stays_as_it_is(tmp_path):
    write(tmp_path, names(4))
    with RunWriter(tmp_path, CONFIG, LAYERS, {}) as writer:
        assert writer.measured == set(names(4))
    assert Run.open(tmp_path).state == "interrupted"
    run = write(tmp_path, names(4))
    assert run.state == "complete"
    check_rows(run, names(4))


def test_another_configuration_is_refused_with_its_differences(tmp_path):
    write(tmp_path, names(4))
    other = CONFIG | {"preprocessing": "resize224", "seed": 1}
    other.pop("images")
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(RunError) as caught, RunWriter(tmp_path, other, LAYERS[:2], {}):
        pass
    assert str(caught.value) == (
        f"{tmp_path} holds a run of another configuration (images: noise → unset; preprocessing: "
        "model → resize224; layers: ['conv1', 'layer2.0.conv2', 'layer2.0.downsample.0'] → "
        "['conv1', 'layer2.0.conv2']; seed: unset → 1): choose another --out, or delete that "
        "directory"
    )
    assert (tmp_path / "run.json").read_bytes() == before
    check_rows(write(tmp_path, names(4)), names(4))  # and the lock is free again


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=5,
)


@given(st.dictionaries(st.text(max_size=3), json_values, max_size=4))
@settings(max_examples=20)
def test_any_configuration_is_equal_to_itself(config):
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            with RunWriter(folder, {"model": "toy"} | config, [], {}) as writer:
                run = writer.finish()
            assert run.config == Run.open(folder).config


def known(ids, **others):
    return {image_id: others.get(image_id, f"{image_id} as it was") for image_id in ids}


def extend(path, identities, config=CONFIG):
    with RunWriter(path, config, LAYERS, {}, identities=identities) as writer:
        for image_id in sorted(identities.keys() - writer.measured):
            writer.add(*batch([image_id]))
        return writer.finish()


def test_a_run_is_extended_by_images_that_came_later(tmp_path):
    extend(tmp_path, known("13"))
    before = (tmp_path / "images" / "part-00000.parquet").stat().st_mtime_ns
    run = extend(tmp_path, known("0123"))  # before and between, too
    assert (tmp_path / "images" / "part-00000.parquet").stat().st_mtime_ns == before
    check_rows(run, names(4))
    assert dict(zip(run.images["image_id"], run.images["identity"], strict=True)) == known("0123")
    assert extend(tmp_path, known("0123")).images.equals(run.images)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (known("0123", **{"2": "new"}), "of 2, whose picture or label has changed since: choose"),
        (known("0123", **{"1": "new", "2": "new"}), "of 1 and 1 more, whose picture or label has"),
        (known("0"), "of 1 and 1 more, not asked for: choose another --out, or delete that dir"),
        (known("01"), "of 2, not asked for"),
        (known("345"), "of 0 and 2 more, not asked for"),
    ],
)
def test_images_that_changed_or_are_not_asked_for_are_refused(tmp_path, asked, sentence):
    extend(tmp_path, known("012"))
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(RunError, match=f"^{tmp_path} holds figures {sentence}"):
        extend(tmp_path, asked)
    assert (tmp_path / "run.json").read_bytes() == before
    check_rows(extend(tmp_path, known("0123")), names(4))


def test_of_a_stream_the_ids_alone_are_known(tmp_path):
    write(tmp_path, names(2))
    run = write(tmp_path, names(4))
    assert "identity" not in run.images
    with pytest.raises(RunError, match="of 0 and 3 more, whose picture or label has changed"):
        extend(tmp_path, known("0123"))


def test_somebody_elses_directory_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunError, match=r"holds other files \(thesis.tex\) and no run.json: choose"):
        write(tmp_path, names(4))
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_directory_with_hidden_files_only_is_free(tmp_path):
    (tmp_path / ".lock").touch()  # as a process killed before its first run.json leaves it
    (tmp_path / ".run.json.tmp").write_text("{")
    check_rows(write(tmp_path, names(4)), names(4))
    assert not (tmp_path / ".run.json.tmp").exists()


@pytest.mark.parametrize("sub", ["", "run"])
def test_a_file_in_the_way(tmp_path, sub):
    (tmp_path / "file").touch()
    with pytest.raises(
        RunError, match=r"cannot be written \((File exists|Not a directory)\): mend"
    ):
        write(tmp_path / "file" / sub, names(4))


def test_a_place_where_nobody_can_write():
    with pytest.raises(RunError, match=r"^/proc/run cannot be written"):
        write("/proc/run", names(4))


def test_open_wants_a_run_directory(tmp_path):
    for path in [tmp_path, tmp_path / "missing"]:
        with pytest.raises(
            RunError, match=r"run.json does not exist: give a directory that `alias"
        ):
            Run.open(path)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "3", "{}", '{"format": 3}', '{"format": 3, "layers": [3]}', "\xff"),
        *('{"format": "3"}', sealed({"format": 3, "layers": [], "parts": [3]}).decode()),
    ],
)
def test_open_names_an_unreadable_run_json(tmp_path, text):
    (tmp_path / "run.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(RunError, match=r"run.json cannot be read \(.*\): delete .* measure again$"):
        Run.open(tmp_path)


@pytest.mark.parametrize(
    ("version", "remedy"), [(2, "delete .*, measure again"), (4, "upgrade aliascope")]
)
def test_open_refuses_another_format(tmp_path, version, remedy):
    (tmp_path / "run.json").write_text(json.dumps({"format": version, "new": 1}))
    with pytest.raises(RunError, match=f"has format {version}, this aliascope's is 3: {remedy}"):
        Run.open(tmp_path)


@pytest.mark.parametrize("kind", ["images", "layers"])
@pytest.mark.parametrize("damage", ["truncated", "missing", "empty", "folder"])
def test_a_damaged_part_is_named_and_the_remedy_works(tmp_path, kind, damage):
    write(tmp_path, names(9), flush_seconds=0.0)
    file = tmp_path / kind / "part-00001.parquet"
    data = file.read_bytes()
    file.unlink()
    if damage == "folder":
        file.mkdir()
    elif damage != "missing":
        file.write_bytes(data[: len(data) // 2 if damage == "truncated" else 0])
    with pytest.raises(RunError, match=rf"{file} cannot be read \(.*\): run the same comm"):
        getattr(Run.open(tmp_path), kind)
    run = write(tmp_path, names(9))
    check_rows(run, names(9))
    check_rows(Run.open(tmp_path), names(9))
    told = [text for text in run.notices if text.startswith("part-00001 was damaged (")]
    assert len(told) == 1


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names of open files: Linux only")
def test_a_file_is_on_the_disk_before_it_gets_its_name_and_its_folder_after(tmp_path, monkeypatch):
    log, replace = [], os.replace

    def record(handle):
        log.append(Path(f"/proc/self/fd/{handle}").readlink())

    writing = RunWriter(tmp_path, CONFIG, LAYERS, {}, flush_seconds=0.0)
    with writing as writer, monkeypatch.context() as patch:
        patch.setattr(os, "fsync", record)
        patch.setattr(os, "replace", lambda *files: log.append(files) or replace(*files))
        writer.add(*batch(names(3)))
    expected = []
    for file in ("layers/part-00000.parquet", "images/part-00000.parquet", "run.json"):
        final = tmp_path / file
        temporary = final.with_name(f".{final.name}.tmp")
        expected += [temporary, (temporary, final), final.parent]
    assert log == expected


def test_a_layers_file_on_its_own_is_ignored_and_replaced(tmp_path):
    write(tmp_path, names(3))
    leftover = tmp_path / "layers" / "part-00001.parquet"
    leftover.write_bytes(before := b"of a kill between the two files of a part")
    check_rows(Run.open(tmp_path), names(3))
    check_rows(write(tmp_path, [*names(3), "7", "8"]), [*names(3), "7", "8"])
    assert leftover.read_bytes() != before


def test_no_flipped_bit_in_a_record_is_unseen(tmp_path):
    """What can be read says what was written; what cannot says so."""
    write(tmp_path, names(6))
    file, told = tmp_path / "run.json", Run.open(tmp_path)
    read = 0
    for data in faults.flipped(file.read_bytes(), 0, 200):
        file.write_bytes(data)
        try:
            run = Run.open(tmp_path)
        except RunError:
            continue
        read += 1
        assert (run.config, run.parts, run.state) == (told.config, told.parts, told.state)
    assert read < 10  # white space


@pytest.mark.parametrize("kind", ["images", "layers"])
def test_no_flipped_bit_changes_a_number_unseen(tmp_path, kind):
    """Neither in the data nor in what Parquet says of them."""
    write(tmp_path, names(6))
    file = tmp_path / kind / "part-00000.parquet"
    for data in faults.flipped(file.read_bytes(), 0, 60):
        file.write_bytes(data)
        with pytest.raises(RunError, match="its bytes are not those that were written"):
            getattr(Run.open(tmp_path), kind)


def test_parts_of_another_run_are_noticed(tmp_path):
    for name, ids in (("a", names(3)), ("b", ["7", "8", "9"])):
        write(tmp_path / name, ids)
    part = "layers/part-00000.parquet"
    (tmp_path / "b" / part).replace(tmp_path / "a" / part)
    with pytest.raises(RunError, match="its bytes are not"):
        _ = Run.open(tmp_path / "a").layers


def test_leftovers_and_copies_do_no_harm(tmp_path):
    write(tmp_path, names(6), flush_seconds=0.0)
    part = tmp_path / "images" / "part-00000.parquet"
    copies = [part.with_name("part-00000 (copy).parquet"), part.with_name("part-00007.parquet")]
    for copy in copies:
        copy.write_bytes(part.read_bytes())
    leftovers = [tmp_path / kind / ".part-00009.parquet.tmp" for kind in ("images", "layers")]
    for file in leftovers:
        file.write_bytes(b"half a part")
    check_rows(Run.open(tmp_path), names(6))
    check_rows(write(tmp_path, names(6)), names(6))
    assert not any(file.exists() for file in leftovers)
    assert all(copy.exists() for copy in copies)


def test_a_reader_beside_a_writer_sees_whole_parts(tmp_path):
    with RunWriter(tmp_path, CONFIG, LAYERS, {}, flush_seconds=0.0) as writer:
        writer.add(*batch(names(3)))
        run = Run.open(tmp_path)
        assert len(run.images) == 3
        writer.add(*batch(["3"]))
        check_rows(run, names(3))
        check_rows(Run.open(tmp_path), names(4))


def test_rows_wait_for_flush_seconds(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(writing.time, "monotonic", lambda: now[0])
    with RunWriter(tmp_path, CONFIG, LAYERS, {}, flush_seconds=10.0) as writer:
        for now[0], ids, parts in [(9.9, "0", 0), (10.0, "1", 1), (19.9, "2", 1), (20.0, "3", 2)]:
            writer.add(*batch([ids]))
            assert len(list((tmp_path / "images").iterdir())) == parts


def test_memory_is_bounded_on_the_way_to_a_directory(tmp_path):
    with RunWriter(tmp_path, CONFIG, LAYERS, {}, flush_seconds=1e9) as writer:
        most = 0
        for start in range(0, 100_000, 500):
            ids = [str(i) for i in range(start, start + 500)]
            writer.add({"image_id": ids}, {"avr": np.zeros((500, len(LAYERS)))})
            most = max(most, sum(rows["images"].num_rows for rows in writer.run.batches))
        run = writer.finish()
    assert 0 < most < 4096
    assert run.batches == []
    assert repr(run) == f"<Run of toy, complete, in {tmp_path}>"
    assert run.images["image_id"].nunique() == 100_000


@pytest.mark.parametrize(
    ("error", "state", "sentence"),
    [
        (KeyboardInterrupt(), "interrupted", ""),
        (ValueError("NaN in conv1"), "failed", "NaN in conv1"),
    ],
)
def test_an_early_end_keeps_the_rows(tmp_path, error, state, sentence):
    with suppress(type(error)), RunWriter(tmp_path, CONFIG, LAYERS, {}) as writer:
        writer.add(*batch(names(3)))
        raise error
    run = Run.open(tmp_path)
    assert (run.state, run.error) == (state, sentence)
    assert ("error: NaN in conv1" in str(run)) == bool(sentence)
    check_rows(run, names(3))
    run = write(tmp_path, names(5))
    assert (run.state, run.error) == ("complete", "")
    check_rows(run, names(5))


def test_an_error_after_the_end_leaves_the_run_complete(tmp_path):
    with suppress(KeyboardInterrupt), RunWriter(tmp_path, CONFIG, LAYERS, {}) as writer:
        writer.finish()
        raise KeyboardInterrupt
    assert Run.open(tmp_path).state == "complete"


@contextmanager
def failing(monkeypatch, step, error):
    """Raises at the `step`-th sync or rename and, a full disk staying full, at all later ones."""
    calls = []

    def patched(real):
        def call(*args):
            calls.append(args)
            if len(calls) == step or (len(calls) > step and isinstance(error, OSError)):
                raise error
            return real(*args)

        return call

    with monkeypatch.context() as patch:
        for name in ("fsync", "replace"):
            patch.setattr(os, name, patched(getattr(os, name)))
        yield


# Three steps a file, of run.json and then of parts of two files, each followed by run.json again.
@pytest.mark.parametrize("step", range(1, 16))
def test_a_full_disk_is_one_sentence_and_costs_nothing_written(tmp_path, monkeypatch, step):
    full = OSError(errno.ENOSPC, "No space left on device")
    with failing(monkeypatch, step, full), pytest.raises(RunError) as caught:
        write(tmp_path, names(9), flush_seconds=0.0)
    assert "cannot be written (No space left on device): mend that and run" in str(caught.value)
    assert not list(tmp_path.glob("**/*.tmp"))
    if step > 2:
        check_rows(Run.open(tmp_path), names(3 * ((step - 3) // 9)))
    check_rows(write(tmp_path, names(9)), names(9))


@pytest.mark.parametrize("step", range(1, 22))
def test_ctrl_c_in_the_middle_of_a_commit_loses_nothing_that_was_added(tmp_path, monkeypatch, step):
    added, writing = 0, RunWriter(tmp_path, CONFIG, LAYERS, {}, flush_seconds=0.0)
    interrupted = failing(monkeypatch, step, KeyboardInterrupt())
    with interrupted, suppress(KeyboardInterrupt), writing as writer:
        for added in (3, 6, 9):
            writer.add(*batch(names(9)[added - 3 : added]))
    assert added == (3 * ((step - 4) // 9 + 1) if step > 3 else 0)
    if step > 2:
        check_rows(Run.open(tmp_path), names(added))
    check_rows(write(tmp_path, names(9)), names(9))


def test_a_disk_that_is_really_full(tmp_path):
    with faults.disk(tmp_path / "disk", "64k"):
        path = tmp_path / "disk" / "run"
        with pytest.raises(RunError, match=r"cannot be written \(No space left on device\)"):
            write(path, names(99), flush_seconds=0.0)
        kept = Run.open(path).images["image_id"].tolist()
        assert kept
        check_rows(Run.open(path), kept)


@pytest.fixture
def _server():
    with faults.served():
        yield


def write_slowly(path, ids):
    write(path, ids, size=2, pause=0.002, flush_seconds=0.0)


def hold(pipe, path):
    with RunWriter(path, CONFIG, LAYERS, {}) as writer:
        writer.add(*batch(names(3)))
        pipe.send("locked")
        time.sleep(60)


@faults.ONE_WORKER
@pytest.mark.usefixtures("_server")
def test_a_second_writer_is_refused_until_the_first_is_killed(tmp_path):
    ours, theirs = faults.PROCESSES.Pipe()
    with faults.process(hold, theirs, tmp_path) as child:
        assert ours.recv() == "locked"
        with pytest.raises(RunError) as caught:
            write(tmp_path, names(4))
        assert str(caught.value) == (
            f"{tmp_path} is being written by process {child.pid}: wait for it, or choose another "
            "--out"
        )
        assert Run.open(tmp_path).state == "running"
    check_rows(write(tmp_path, names(4)), names(4))


def test_a_second_writer_in_the_same_process_is_refused(tmp_path):
    with RunWriter(tmp_path, CONFIG, LAYERS, {}):
        with pytest.raises(RunError, match=f"is being written by process {os.getpid()}"):
            write(tmp_path, names(4))
        for entry in ("run.json", "images", "layers"):
            (tmp_path / entry).rename(tmp_path / f".{entry}")  # as before the first run.json
        with pytest.raises(RunError, match="is being written by another process"):
            write(tmp_path, names(4))
        for entry in ("run.json", "images", "layers"):
            (tmp_path / f".{entry}").rename(tmp_path / entry)


def write_and_die(path, step):
    """Dies of SIGKILL at its `step`-th system call that changes or syncs the run directory."""
    left = [step]

    def deadly(function, half=None):
        def call(*args):
            left[0] -= 1
            if left[0] == 0:
                if half:
                    half(*args)
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args)

        return call

    write_bytes = Path.write_bytes
    half = lambda path, data: write_bytes(path, bytes(data)[: len(data) // 2])  # noqa: E731
    Path.write_bytes = deadly(write_bytes, half)
    os.fsync, os.replace, os.mkdir = map(deadly, (os.fsync, os.replace, os.mkdir))
    write(path, names(6), flush_seconds=0.0)


@faults.ONE_WORKER
@pytest.mark.usefixtures("_server")
def test_killed_at_every_step_of_a_run(tmp_path):
    for step in range(1, 100):
        path = tmp_path / str(step)
        with faults.process(write_and_die, path, step) as child:
            child.join(timeout=60)
            if child.exitcode == 0:
                break
            assert child.exitcode == -signal.SIGKILL
        if (path / "run.json").exists():
            found = Run.open(path).images["image_id"].tolist()
            assert found in ([], names(3), names(6))
            check_rows(Run.open(path), found)
        check_rows(write(path, names(6)), names(6))
        assert not list(path.glob("**/*.tmp"))
    # Two parts and the run.json of the beginning and the end, each of four steps, and the folders.
    assert 40 < step < 100


@faults.ONE_WORKER
@pytest.mark.usefixtures("_server")
def test_killed_at_random_moments_and_continued(tmp_path):
    moments, ids = np.random.default_rng(0), names(1000)
    for _ in range(10):
        parts = len(list(tmp_path.glob("images/part-*")))
        goal = parts + moments.integers(0, 8)
        with faults.process(write_slowly, tmp_path, ids) as child:
            while parts < goal:
                assert child.exitcode is None, "finished before the last kill"
                time.sleep(0.001)
                parts = len(list(tmp_path.glob("images/part-*")))
            time.sleep(moments.uniform(0, 0.05))
            child.kill()
            child.join()
            assert child.exitcode == -signal.SIGKILL
    found = Run.open(tmp_path)
    assert found.state == "running"
    assert 0 < len(found.images) < len(ids)
    check_rows(found, found.images["image_id"].tolist())
    check_rows(write(tmp_path, ids, size=100), ids)
