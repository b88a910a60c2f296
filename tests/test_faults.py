"""Kills, full disks, flipped bits, lost renames: complete and equal, or a sentence with a remedy.

The long versions (`make test-all`) print the figures of docs/reliability.md.
"""

import json
import signal
import sys
import time
from datetime import UTC, datetime
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

import faults
from aliascope import (
    AliascopeError,
    Comparison,
    Run,
    RunError,
    compare,
    finetune,
    load_model,
    measure,
    merge,
    save_model,
    verify,
)
from aliascope.images.preprocessing import Preprocessing
from aliascope.measure import writing
from aliascope.models.digests import state_digest
from aliascope.models.files import provenance_of, read_state
from aliascope.report import report
from aliascope.report.study import summary_of
from aliascope.results.checked import checksums
from aliascope.study import run_study
from aliascope.study.study import Study, settings_in
from aliascope.study.tradeoffs import Tradeoffs, compare_methods
from test_shards import check_equal

pytestmark = [faults.ONE_WORKER, pytest.mark.timeout(1800)]
COUNT = 10  # pictures
TIMED = ("latency", "memory")
"""Columns of what no two runs have in common."""


@pytest.fixture(scope="module", autouse=True)
def _server():
    with faults.served():
        yield


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return faults.pictures(tmp_path_factory.mktemp("faults") / "pictures", COUNT)


# What is killed: functions of the pictures and a directory, which end by writing all of it.


def run_of(pictures, out, **options):
    options = {"device": "cpu", "batch_size": 2, "flush_seconds": 0.0, **options}
    return measure(faults.small(), pictures, out=out, **options)


def study_of(pictures, out):
    drawn = "aliascope.study.runner.save"  # to draw takes the most time, and is never read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawn, lambda *_: None)
        found = run_study(
            out=out, baseline="faults:small", antialiased="faults:small@blurpool:3",
            images=str(pictures), latency_seconds=0.0, device="cpu", sweep=2,
        )  # fmt: skip
    if found.failed:
        raise RunError("; ".join(found.failed.values()))


def methods_of(pictures, out):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aliascope.figures.save", lambda *_: None)
        compare_methods(
            "faults:small", pictures, methods=["blurpool:3"], latency_seconds=0.0, device="cpu",
            out=out,
        )  # fmt: skip


def finetuning_of(pictures, out, **options):
    return finetune(
        faults.small(), pictures, steps=12, batch_size=2, holdout=4, checkpoint_seconds=0.0,
        preprocess=Preprocessing(resize=(20,), crop=(16, 16)), device="cpu", out=out, **options,
    )  # fmt: skip


# How what is there is compared with what an undisturbed process wrote.


def same_run(out, alone):
    assert Run.open(out).state == "complete"
    assert verify(out).sound
    check_equal(Run.open(out), Run.open(alone))


def same_tables(out, alone):
    for run in sorted(alone.rglob("run.json")):
        same_run(out / run.parent.relative_to(alone), run.parent)
    tables = sorted(alone.glob("tables/*.csv")) + sorted(alone.glob("methods.csv"))
    assert tables
    for file in tables:
        rows, expected = (pd.read_csv(x / file.relative_to(alone)) for x in (out, alone))
        timed = [name for name in rows if name.startswith(TIMED)]
        frames = [frame.drop(columns=timed) for frame in (rows, expected)]
        pd.testing.assert_frame_equal(*frames, rtol=1e-3, atol=1e-5)


def same_study(out, alone):
    same_tables(out, alone)
    kept = {file.name for file in (alone / "data").iterdir()}
    assert {file.name for file in (out / "data").iterdir()} >= kept
    report(out)  # reads all that is read again


def same_methods(out, alone):
    same_tables(out, alone)
    report(out)


def same_finetuning(out, alone):
    found, expected = (state_digest(read_state(x / "model.safetensors")) for x in (out, alone))
    assert found == expected
    found, expected = (json.loads((x / "finetune.json").read_text()) for x in (out, alone))
    for row in (*found["history"], *expected["history"]):
        del row["seconds"]
    assert found["history"] == expected["history"]


def sound_below(out):
    """Whatever a kill leaves can be read: runs hold only rows that are what was written."""
    for run in out.rglob("run.json"):
        assert verify(run.parent).sound, verify(run.parent).damaged


JOBS = {
    "measure": (run_of, same_run, 100),
    "study": (study_of, same_study, 20),
    "methods": (methods_of, same_methods, 20),
    "finetune": (finetuning_of, same_finetuning, 20),
}
"""What is killed → what it does, how its result is compared, and how often it is killed."""


def killed(work, same, pictures, folder, kills, seed=0):
    """Kill a process at random moments, each time going on in the same directory until it ends.

    Returns:
        How many directories were completed, and the seconds that it took.
    """
    chance, done, completed, start = np.random.default_rng(seed), 0, 0, time.monotonic()
    alone = folder / "alone"
    whole = faults.seconds(work, pictures, alone)
    while True:
        out = folder / str(completed)
        while done < kills:
            begun = time.monotonic()
            code = faults.kill(work, pictures, out, after=chance.uniform(0, whole))
            if code == 0:
                whole = time.monotonic() - begun  # of what was left, on a machine that is less busy
                break
            sound_below(out)
            assert code == -signal.SIGKILL
            done += 1
        faults.seconds(work, pictures, out)
        same(out, alone)
        assert not list(out.rglob("*.tmp"))
        completed += 1
        if done == kills:
            return completed, time.monotonic() - start


@pytest.mark.parametrize("job", [*JOBS])
@pytest.mark.slow
def test_killed_at_random_moments(pictures, tmp_path, job, capsys):
    work, same, kills = JOBS[job]
    completed, spent = killed(work, same, pictures, tmp_path, kills)
    with capsys.disabled():
        sys.stdout.write(
            f"\n| {job} | {kills} kills | {completed} directories | equal | {spent:.0f} s |\n"
        )


def test_a_measurement_killed_a_few_times(pictures, tmp_path):
    killed(run_of, same_run, pictures, tmp_path, 4)


def test_what_is_compared_tells_a_lost_image(pictures, tmp_path):
    run_of(pictures, tmp_path / "all")
    run_of(pictures, tmp_path / "some", limit=COUNT - 1)
    with pytest.raises(AssertionError):
        same_run(tmp_path / "some", tmp_path / "all")


# Disks.


@pytest.mark.parametrize(
    ("job", "size", "enough"),
    [
        ("measure", "60k", "9m"),
        pytest.param("study", "200k", "9m", marks=pytest.mark.slow),
        pytest.param("methods", "100k", "9m", marks=pytest.mark.slow),
        pytest.param("finetune", "16k", "9m", marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_is_full_and_then_larger(pictures, tmp_path, job, size, enough):
    work, same, _ = JOBS[job]
    work(pictures, tmp_path / "alone")
    with faults.disk(tmp_path / "disk", size) as remount:
        out = tmp_path / "disk" / "out"
        with pytest.raises(AliascopeError, match=r"cannot be written \(No space left on device\)"):
            work(pictures, out)
        sound_below(out)
        remount(f"size={enough}")
        work(pictures, out)
        same(out, tmp_path / "alone")


@pytest.mark.parametrize(
    "job", [x if x == "measure" else pytest.param(x, marks=pytest.mark.slow)
            for x in JOBS]
)  # fmt: skip
def test_a_disk_that_nobody_may_write(pictures, tmp_path, job):
    work, same, _ = JOBS[job]
    work(pictures, tmp_path / "alone")
    with faults.disk(tmp_path / "disk", "9m") as remount:
        out = tmp_path / "disk" / "out"
        for there in (False, True):  # before it is begun, and when it is done
            remount("ro")
            with pytest.raises(AliascopeError, match=r"cannot be .*\(Read-only file system\)"):
                work(pictures, out)
            assert out.exists() == there
            if there:
                same(out, tmp_path / "alone") if job == "measure" else sound_below(out)
            remount("rw")
            work(pictures, out)
        same(out, tmp_path / "alone")


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 20))]
)
@pytest.mark.parametrize("job", ["measure", pytest.param("finetune", marks=pytest.mark.slow)])
def test_a_file_system_that_loses_renames(pictures, tmp_path, job, seed):
    """Each run of it says which file it lost, or loses none; what is there then is whole."""
    work, same, _ = JOBS[job]
    work(pictures, tmp_path / "alone")
    told = []
    with faults.losing_renames(0.2, seed) as lost:
        for _ in range(60):
            lost.clear()
            try:
                work(pictures, tmp_path / "out")
            except AliascopeError as error:
                told.append((str(error), [*lost]))
            else:
                break  # none was lost, but of a file that was there already, bit for bit
    assert told
    for sentence, files in told:
        assert any(sentence.startswith(f"{file} cannot be written (") for file in files), sentence
    same(tmp_path / "out", tmp_path / "alone")


@pytest.mark.parametrize("kind", ["images", "layers"])
def test_a_part_that_vanished_later(pictures, tmp_path, kind):
    """As of a rename that the server of a file system forgot."""
    run_of(pictures, tmp_path / "alone")
    run_of(pictures, tmp_path / "out")
    file = tmp_path / "out" / kind / "part-00002.parquet"
    file.unlink()
    with pytest.raises(RunError, match=f"{file} cannot be read .*: run the same command again"):
        getattr(Run.open(tmp_path / "out"), kind)
    assert verify(tmp_path / "out").damaged == (f"{file} (No such file or directory)",)
    run_of(pictures, tmp_path / "out")
    same_run(tmp_path / "out", tmp_path / "alone")


# Clocks and other writers.


def test_a_clock_that_goes_backwards(pictures, tmp_path, monkeypatch):
    run_of(pictures, tmp_path / "alone")

    class Clock(datetime):
        years = iter(range(2090, 1990, -1))

        @classmethod
        def now(cls, zone=None):
            return datetime(next(cls.years), 1, 1, tzinfo=UTC)

    monkeypatch.setattr(writing, "datetime", Clock)
    run_of(pictures, tmp_path / "out", limit=4)
    run_of(pictures, tmp_path / "out")
    same_run(tmp_path / "out", tmp_path / "alone")
    for index in range(2):
        run_of(pictures, tmp_path / "shards", shard=(index, 2))
    same_run(tmp_path / "shards", tmp_path / "alone")
    merge(tmp_path / "shards")
    same_run(tmp_path / "shards", tmp_path / "alone")


def write_or_say(work, pictures, out, start, pipe):
    time.sleep(max(0, start - time.monotonic()))
    try:
        work(pictures, out)
    except AliascopeError as error:
        pipe.send(str(error))
    else:
        pipe.send("")


@pytest.mark.parametrize(
    ("job", "times"),
    [("measure", 1), *(pytest.param(x, 8, marks=pytest.mark.slow) for x in JOBS)],
)
def test_two_writers(pictures, tmp_path, job, times):
    """One of them writes all of it; the other does so too, or says who writes."""
    work, same, _ = JOBS[job]
    whole = faults.seconds(work, pictures, tmp_path / "alone")
    chance, refused = np.random.default_rng(0), 0
    for time_ in range(times):
        out, now = tmp_path / str(time_), time.monotonic()
        ours, theirs = faults.PROCESSES.Pipe()
        starts = [now + 0.1, now + 0.1 + chance.uniform(0, 0.2 * whole)]
        with (
            faults.process(write_or_say, work, pictures, out, starts[0], theirs),
            faults.process(write_or_say, work, pictures, out, starts[1], theirs),
        ):
            said = [ours.recv(), ours.recv()]
        assert "" in said
        for sentence in filter(None, said):
            refused += 1
            assert "is being written by" in sentence
            assert "choose another --out" in sentence
        same(out, tmp_path / "alone")
    assert refused or times == 1  # on a busy machine the second may come when the first is done


# Bits.


def checkpoint(place):
    found = finetuning_of(place.parent / "pictures", place)
    return state_digest(found.model.state_dict()), found.history.to_dict()


def opened(place):
    run = Run.open(place)
    return vars(run) | {"rows": [run.images.to_dict(), run.layers.to_dict()]}


def study_in(place):
    return Study(settings_in(place), place)


KINDS = {
    "run.json": ("run", opened),
    "shard-0-of-2.json": ("shards", opened),
    "images/part-00001.parquet": ("run", opened),
    "layers/part-00001.parquet": ("run", opened),
    "study.json": ("study", settings_in),
    "summary.json": ("study", summary_of),
    "manifest.json": ("study", lambda place: study_in(place).manifest()),
    "checksums.json": ("study", checksums),
    "tables/phase5_tradeoff.csv": (
        "study", lambda place: study_in(place).table("phase5_tradeoff").to_csv()
    ),
    "data/effects.csv": ("study", lambda place: study_in(place).rows("effects").to_csv()),
    "data/latency.json": ("study", lambda place: study_in(place).record("latency")),
    "data/phase3_spectra.npz": (
        "study", lambda place: {
            name: array.tobytes()
            for name, array in study_in(place).arrays("phase3_spectra").items()
        },
    ),
    "comparison.json": (
        "comparison", lambda place: vars_of(Comparison.open(place / "comparison.json"))
    ),
    "curves.csv": ("comparison", lambda place: report(place).read_bytes()),
    "methods.json": ("methods", lambda place: vars_of(Tradeoffs.open(place / "methods.json"))),
    "finetune.json": ("finetune", checkpoint),
    "averaged-000012.safetensors": ("finetune", checkpoint),
    "training-000012.safetensors": ("finetune", checkpoint),
    "model.safetensors": (
        "finetune", lambda place: state_digest(read_state(place / "model.safetensors"))
    ),
    "saved.safetensors": ("saved", lambda place: saved_in(place / "saved.safetensors")),
}  # fmt: skip
"""Each kind of file that is read again: of what it is a part, and what is read of it."""


def vars_of(result):
    return {k: v.to_csv() if isinstance(v, pd.DataFrame) else v for k, v in vars(result).items()}


def saved_in(file):
    return provenance_of(file), state_digest(read_state(file))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """One directory of each kind, made when it is asked for."""
    folder = tmp_path_factory.mktemp("written")
    pictures = faults.pictures(folder / "pictures", COUNT)
    makers = {
        "run": partial(run_of, pictures),
        "shards": lambda out: [run_of(pictures, out, shard=(i, 2)) for i in range(2)],
        "study": partial(study_of, pictures),
        "comparison": lambda out: compare(
            "faults:small", "faults:small@blurpool:3", images=pictures, device="cpu", out=out
        ),
        "methods": partial(methods_of, pictures),
        "finetune": partial(finetuning_of, pictures),
        "saved": lambda out: (
            out.mkdir(),
            save_model(load_model("timm:test_resnet@blurpool:2", weights="random"),
                       out / "saved.safetensors"),
        ),
    }  # fmt: skip

    def make(kind):
        if not (folder / kind).exists():
            makers[kind](folder / kind)
        return folder / kind

    return make


def seen(place, name, read, damaged):
    """How many of these damaged copies are read as what was written; the others say what is wrong.

    Any other value, and any other error, fails.
    """
    file = place / name
    data, told, read_all_the_same = file.read_bytes(), read(place), 0
    # Beartype's own errors are those of a library that is fed nonsense: none may come.
    try:
        for copy in damaged(data):
            file.write_bytes(copy)
            try:
                found = read(place)
            except AliascopeError as error:
                assert file.name in str(error), str(error)  # noqa: PT017
                assert ": " in str(error).replace(str(file), ""), str(error)  # noqa: PT017
            else:
                assert str(found) == str(told)
                read_all_the_same += 1
    finally:
        file.write_bytes(data)
    assert str(read(place)) == str(told)
    return read_all_the_same


SHORT = {
    "run.json": 20, "shard-0-of-2.json": 10, "images/part-00001.parquet": 10,
    "finetune.json": 3, "averaged-000012.safetensors": 3, "model.safetensors": 20,
    "saved.safetensors": 8,
}  # fmt: skip
"""How many bits are flipped where all must be quick; those of the other kinds are slow to make."""


@pytest.mark.parametrize("name", [*SHORT])
def test_a_few_flipped_bits(written, name):
    kind, read = KINDS[name]
    assert seen(written(kind), name, read, partial(faults.flipped, seed=0, count=SHORT[name])) < 5


@pytest.mark.slow
@pytest.mark.parametrize("name", [*KINDS])
def test_no_flipped_bit_is_unseen(written, name, capsys):
    kind, read = KINDS[name]
    same = seen(written(kind), name, read, partial(faults.flipped, seed=1, count=400))
    with capsys.disabled():
        sys.stdout.write(f"\n| {name} | 400 bits | {400 - same} refused | {same} as written |\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in KINDS if name != "curves.csv"])
def test_verify_names_what_is_damaged_wherever_it_is(written, name):
    """Of the files in KINDS, given the directory above them."""
    kind, read = KINDS[name]
    folder = written(kind)
    read(folder)
    assert verify(folder).sound, verify(folder).damaged
    for copy in faults.flipped((folder / name).read_bytes(), 3, 3):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(copy)
        try:
            told = "\n".join(verify(folder).damaged)
        except RunError as error:
            told = str(error)
        finally:
            (folder / name).write_bytes(whole)
        assert name in told


@pytest.mark.slow
@pytest.mark.parametrize("name", [*KINDS])
def test_no_truncation_is_unseen(written, name):
    kind, read = KINDS[name]
    lengths = np.random.default_rng(2).integers

    def shorter(data):
        return (data[: lengths(len(data))] for _ in range(20))

    assert seen(written(kind), name, read, shorter) == 0
