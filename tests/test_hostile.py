"""Hostile inputs: a sentence or a result, and nothing else.

No traceback, no hang, bounded memory, nothing executed, nothing written outside the output. All is
seeded; the long versions (`make test-all`) print the figures of docs/reliability.md.
"""

import io
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
import zlib
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from typer.main import get_command

import aliascope
import faults
from aliascope import (
    AliascopeError,
    ImageError,
    Run,
    RunError,
    load_model,
    open_images,
    save_model,
    verify,
)
from aliascope.cli import COMMANDS, app, main
from aliascope.images.decoding import MAX_PIXELS, decode
from aliascope.models.files import read_state, recorded
from aliascope.report import report
from aliascope.report.study import summary_of
from aliascope.results.files import sealed, write_file
from aliascope.study.settings import settings_of
from aliascope.study.study import Study, settings_in

pytestmark = [faults.ONE_WORKER, pytest.mark.timeout(3600)]
SECONDS = 20
"""That one picture or file may take, on a machine that does other things too."""


class Hang(BaseException):
    """No error of the product's, so that nothing there takes it for one."""


@contextmanager
def limit(seconds=SECONDS):
    """Raise `Hang` where the block takes longer."""

    def rings(*_):
        raise Hang

    before = signal.signal(signal.SIGALRM, rings)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_the_limit_ends_what_hangs():
    with pytest.raises(Hang), limit(1):
        time.sleep(5)


def mutated(chance, seeds):
    """One of the files, changed: bits, bytes, numbers of a header, lengths, or parts of others."""
    data = bytearray(seeds[chance.integers(len(seeds))])
    for _ in range(chance.choice([1, 1, 2, 4])):
        place = int(chance.integers(max(1, len(data))))
        match chance.integers(7):
            case 0:
                data[place : place + 1] = bytes(
                    [data[place] ^ (1 << chance.integers(8))] if data else []
                )
            case 1:
                data[place : place + 1] = chance.bytes(1)
            case 2:  # a number, near the beginning, where sizes and counts are
                place %= min(64, len(data) or 1)
                width = int(chance.choice([1, 2, 4]))
                value = chance.choice([b"\0", b"\xff", b"\x7f", b"\x80", b"\x01"])
                data[place : place + width] = bytes(value) * width
            case 3:
                del data[place:]
            case 4:
                length = int(chance.integers(1, 64))
                del data[place : place + length]
            case 5:
                length = int(chance.integers(1, 64))
                data[place:place] = data[place : place + length] * int(chance.integers(1, 9))
            case 6:
                other = seeds[chance.integers(len(seeds))]
                start = int(chance.integers(len(other)))
                data[place : place + 64] = other[start : start + 64]
    return bytes(data)


def test_mutants_differ_and_come_again():
    seeds = [bytes(range(256)), b"x" * 99]
    first, again = ([mutated(np.random.default_rng(s), seeds) for s in range(50)] for _ in range(2))
    assert first == again
    assert len({*first} - {*seeds}) > 40


# Pictures.


def _pictures():
    """A small picture in each format and mode that Pillow writes."""
    rng = np.random.default_rng(0)
    colour = PIL.Image.fromarray(rng.integers(0, 256, (23, 19, 3), dtype=np.uint8))
    made = {}
    PIL.Image.init()
    for kind in sorted(PIL.Image.SAVE):
        for mode in ("RGB", "L", "1", "P", "RGBA", "CMYK", "I;16", "F"):
            stream = io.BytesIO()
            try:
                grey = colour.convert("L") if mode in ("I;16", "F") else colour
                grey.convert(mode).save(stream, kind)
            except Exception:  # noqa: BLE001, S112 - a format that has no such mode
                continue
            made[kind, mode] = stream.getvalue()
    for kind in ("GIF", "TIFF", "PNG", "WEBP"):
        stream = io.BytesIO()
        colour.save(stream, kind, save_all=True, append_images=[colour.rotate(90)])
        made[kind, "frames"] = stream.getvalue()
    for kind, options in {
        "JPEG": {"progressive": True},
        "PNG": {"optimize": True},
        "TIFF": {"compression": "tiff_lzw"},
    }.items():
        stream = io.BytesIO()
        colour.save(stream, kind, **options)
        made[kind, str(options)] = stream.getvalue()
    return made


PICTURES = _pictures()


def outcome(data):
    """ "read" or "refused"; anything else raises."""
    try:
        with limit():
            pixels, note = decode(data)
    except ImageError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return "refused"
    assert pixels.shape[0] == 3
    assert pixels.dtype == torch.uint8 or 0 <= pixels.min() <= pixels.max() <= 1
    assert pixels.shape[1] * pixels.shape[2] <= MAX_PIXELS
    assert isinstance(note, str)
    return "read"


def attack(seed, count):
    """Mutants of all formats; how many are read, how many refused, and the slowest in seconds."""
    chance, told, slowest = np.random.default_rng(seed), {"read": 0, "refused": 0}, 0.0
    by_kind = {}
    for (kind, _), data in PICTURES.items():
        by_kind.setdefault(kind, []).append(data)
    kinds = sorted(by_kind)
    for index in range(count):
        data = mutated(chance, by_kind[kinds[index % len(kinds)]])
        start = time.monotonic()
        told[outcome(data)] += 1
        slowest = max(slowest, time.monotonic() - start)
    return told | {"slowest": slowest, "formats": len(kinds)}


def growth(target, *args):
    """What a process that runs a function returns, and by how many bytes its memory peaked."""
    ours, theirs = faults.PROCESSES.Pipe()
    with faults.process(_watched, theirs, target, args) as child:
        assert ours.poll(3000), "it hangs"
        found = ours.recv()
        child.join(60)
    return found


def _watched(pipe, target, args):
    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        found = target(*args)
    except BaseException as error:  # noqa: BLE001 - told where the test can see it
        del error
        found = traceback.format_exc()
    pipe.send((found, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)))


@pytest.fixture(scope="module", autouse=True)
def _server():
    with faults.served():
        yield


@pytest.mark.filterwarnings("ignore")  # as `open_images` has it
def test_some_mutated_pictures():
    told = attack(0, 400)
    assert told["formats"] >= 20
    assert told["read"] > 40
    assert told["refused"] > 100


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_many_mutated_pictures(capsys):
    told, peak = growth(attack, 1, 24_000)
    assert isinstance(told, dict), told
    with capsys.disabled():
        sys.stdout.write(f"\n| pictures | 24000 | {told} | peak + {peak / 1e6:.0f} MB |\n")
    assert peak < 4e9


def _png(width, height):
    """A PNG of black that says it is so large, of a few kB."""

    def chunk(kind, data):
        return (
            len(data).to_bytes(4, "big") + kind + data
            + zlib.crc32(kind + data).to_bytes(4, "big")
        )  # fmt: skip

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    rows = zlib.compress(bytes(min(height * (1 + width), 50_000_000)), 9)
    header = chunk(b"IHDR", size + bytes([8, 0, 0, 0, 0]))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _text_bomb():
    """A PNG whose compressed text unpacks to a gigabyte."""
    data = b"Comment\0\0" + zlib.compress(bytes(200_000_000), 9)
    text = len(data).to_bytes(4, "big") + b"zTXt" + data
    text += zlib.crc32(b"zTXt" + data).to_bytes(4, "big")
    whole = PICTURES["PNG", "RGB"]
    return whole[:33] + text + whole[33:]


def _claims(data, kind):
    """The same file with another size in its header."""
    places = {"BMP": (18, 4, "little"), "GIF": (6, 2, "little"), "TGA": (12, 2, "little")}
    start, width, order = places[kind]
    largest = (256**width - 1) // 2 if width == 4 else 65535
    size = largest.to_bytes(width, order)
    return data[:start] + size + size + data[start + 2 * width :]


BOMBS = {
    "png of 10^10 pixels": lambda: _png(100_000, 100_000),
    "png one over": lambda: _png(10_001, 10_000),
    "png one row": lambda: _png(2**31 - 1, 1),
    "compressed text": _text_bomb,
    "bmp": lambda: _claims(PICTURES["BMP", "RGB"], "BMP"),
    "gif": lambda: _claims(PICTURES["GIF", "L"], "GIF"),
    "tga": lambda: _claims(PICTURES["TGA", "RGB"], "TGA"),
}


def all_bombs():
    return {name: outcome(make()) for name, make in BOMBS.items()}


def test_bombs_cost_little():
    told, peak = growth(all_bombs)
    assert told == dict.fromkeys(BOMBS, "refused") | {"compressed text": told["compressed text"]}
    assert peak < 400e6


# Files that aliascope wrote, and others changed.


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    """A run, labelled pictures, weights and a study's records, each of which is read below."""
    folder = tmp_path_factory.mktemp("victim")
    pictures = faults.pictures(folder / "pictures", 3)
    (folder / "pictures.csv").write_text("file,label\n00.png,0\n01.png,2\n02.png,1\n")
    aliascope.measure(faults.small(), pictures, device="cpu", out=folder / "run")
    (folder / "shards").mkdir()
    aliascope.measure(faults.small(), pictures, device="cpu", out=folder / "shards", shard=(0, 2))
    loaded = load_model("timm:test_resnet@blurpool:2", weights="random")
    save_model(loaded, folder / "saved.safetensors")
    torch.save(faults.small().state_dict(), folder / "saved.pt")
    (folder / "study").mkdir()
    (folder / "study" / "study.json").write_bytes(sealed(vars(settings_of("embedded"))))
    published = Path(__file__).parents[1] / "docs" / "studies" / "embedded"
    for file in ("summary.json", "manifest.json"):
        (folder / "study" / file).write_bytes((published / file).read_bytes())
    return folder


def _run(folder):
    run = Run.open(folder)
    str(run), run.to_dict()
    return verify(folder)


READERS = {
    "run/run.json": lambda file: _run(file.parent),
    "shards/shard-0-of-2.json": lambda file: _run(file.parent),
    "run/images/part-00000.parquet": lambda file: _run(file.parents[1]),
    "run/layers/part-00000.parquet": lambda file: _run(file.parents[1]),
    "saved.safetensors": lambda file: (recorded(file), read_state(file)),
    "saved.pt": read_state,
    "pictures.csv": lambda file: open_images(file.with_suffix("")),
    "study/study.json": lambda file: settings_in(file.parent),
    "study/summary.json": lambda file: summary_of(file.parent),
    "study/manifest.json": lambda file: Study(settings_of("embedded"), file.parent).manifest(),
}
"""Each kind of file that is read → what reads it."""


def attack_file(file, read, seed, count, change):
    """How many changed copies are read, and how many refused with a sentence; others raise."""
    data, told = file.read_bytes(), {"read": 0, "refused": 0}
    chance = np.random.default_rng(seed)
    before = set(file.parent.rglob("*"))
    try:
        for _ in range(count):
            file.write_bytes(change(chance, data))
            try:
                with limit():
                    read(file)
            except AliascopeError as error:
                assert len(str(error)) < 600  # noqa: PT017
                told["refused"] += 1
            else:
                told["read"] += 1
    finally:
        file.write_bytes(data)
    assert set(file.parent.rglob("*")) == before
    read(file)
    return told


def bytes_changed(chance, data):
    return mutated(chance, [data])


STRANGE = [
    None, True, -1, 2**70, 1e308, float("nan"), "", "\x00", "../../../etc/passwd", "\u202egnp.\n",
    [], {}, [[]], {"": {}}, "x" * 5000, ["a", 1], {"image_id": 1},
]  # fmt: skip


def record_changed(chance, data):
    """One value or key of a record in the place of another; sealed again, as a forger would."""
    record = json.loads(data)
    places = [(record, key) for key in record]
    for holder, key in places:
        inner = holder[key]
        if isinstance(inner, dict):
            places += [(inner, name) for name in inner]
        elif isinstance(inner, list):
            places += [(inner, index) for index in range(len(inner))]
    holder, key = places[chance.integers(len(places))]
    holder[key] = STRANGE[chance.integers(len(STRANGE))]
    if isinstance(holder, dict) and chance.random() < 0.2:
        holder[str(STRANGE[chance.integers(len(STRANGE))])] = holder.pop(key)
    if holder is not record or key != "sha256":
        record.pop("sha256", None)
    return sealed(record) if isinstance(record, dict) else data


@pytest.mark.parametrize("name", [*READERS])
def test_some_changed_files(victim, name):
    attack_file(victim / name, READERS[name], 0, 25, bytes_changed)
    if name.endswith("json"):
        attack_file(victim / name, READERS[name], 1, 25, record_changed)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*READERS])
def test_many_changed_files(victim, name, capsys):
    told = attack_file(victim / name, READERS[name], 2, 500, bytes_changed)
    if name.endswith("json"):
        forged = attack_file(victim / name, READERS[name], 3, 500, record_changed)
        told = {key: told[key] + forged[key] for key in told}
    with capsys.disabled():
        sys.stdout.write(f"\n| {name} | {sum(told.values())} | {told} |\n")


@pytest.mark.parametrize("depth", [100_000])
@pytest.mark.parametrize("name", [name for name in READERS if name.endswith("json")])
def test_a_record_nested_without_end(victim, name, depth):
    def nested(_chance, _data):
        return b"[" * depth + b"]" * depth

    assert attack_file(victim / name, READERS[name], 0, 1, nested)["refused"] == 1


def test_a_part_outside_of_its_run_is_refused(victim, tmp_path):
    """To merge would read it, and then delete it."""
    shutil.copytree(victim / "run", tmp_path / "run")
    for kind in ("images", "layers"):
        (tmp_path / "run" / kind / "part-00000.parquet").rename(tmp_path / f"{kind}.parquet")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    del record["sha256"]
    record["parts"] = {"../../images": record["parts"]["part-00000"]}
    (tmp_path / "run" / "run.json").write_bytes(sealed(record))
    for read in (Run.open, verify, aliascope.merge):
        with pytest.raises(RunError, match="cannot be read"):
            read(tmp_path / "run")
    assert (tmp_path / "images.parquet").exists()


def test_nothing_in_a_file_of_weights_is_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(AliascopeError, match="cannot read weights from"):
        read_state(tmp_path / "evil.pt")
    assert not (tmp_path / "executed").exists()
    torch.load(tmp_path / "evil.pt", weights_only=False)  # which would have
    assert (tmp_path / "executed").exists()


# Names.

NAMES = [
    "with\nnewline.png", "tab\there.png", "\u202egnp.exe.png", "\u2066left\u2069.png", "日本語.png",
    "עברית.png", "ไทย.png", "e\u0301.png", "é.png", "🙂.png", "'quotes\".png",
    "$(touch executed).png",
    "; touch executed;.png", "<script>alert(1)<script>.png", "%s%n{0}.png", "-rf.png", " .png",
    "\x1b[31mred.png", "a\rb.png", "[bold]x[.png", os.fsdecode(b"caf\xe9.png"), "x" * 240 + ".png",
    "=cmd|' C'!A0.png",
]  # fmt: skip


def test_names_of_any_script(tmp_path, monkeypatch):
    """Each is measured once, comes back as it was, and is text on the page."""
    monkeypatch.chdir(tmp_path)
    source = faults.pictures(tmp_path / "source", 1) / "00.png"
    for folder in ("good", "bad"):
        (tmp_path / "in" / folder).mkdir(parents=True)
    for name in NAMES:
        shutil.copy(source, tmp_path / "in" / "good" / name)
        (tmp_path / "in" / "bad" / name).write_bytes(b"no picture")
    run = aliascope.measure(faults.small(), tmp_path / "in", device="cpu", out=tmp_path / "out")
    assert len(set(run.images["image_id"])) == len(NAMES) == len(run.skipped)
    again = Run.open(tmp_path / "out")
    assert [*again.images["image_id"]] == [*run.images["image_id"]]
    assert verify(tmp_path / "out").sound
    printed = str(again)
    assert not any(sign in printed for sign in ("\x1b", "\u202e", "\u2066", "\r"))
    page = report(tmp_path / "out").read_text("utf-8")
    assert "<script>alert" not in page
    assert {file.name for file in tmp_path.iterdir()} == {"source", "in", "out"}


# Command lines.

WORDS = [
    "faults:small", "faults:nothing", "os:getcwd", "timm:nothing", "nothing", "", " ", "-1", "0",
    "1e999", "nan", "2/1", "0/2", "x" * 300, "\u202e", "a\nb", "..", "photos", "hf:", "wds:{{0..}}",
    "imagenet:", "s3:/", "@", "a@b@c", ":::", "faults:small@blurpool:99", "faults:small@ideal:x",
    "[bold", "*", "**", "out", "out/run", "{base}/pictures", "{base}/run", "{base}/run/run.json",
    "{base}/pictures/00.png", "{base}/saved.safetensors", "{base}/study", "out/a.safetensors",
]  # fmt: skip
SHORTLY = {"study": "--limit=0", "methods": "--limit=0", "bench": "--seconds=-1",
           "antialias": "--steps=1", "compare": "--limit=1"}  # fmt: skip
"""What a command that would take minutes gets besides; the explorer, a server, is left out."""


def command_lines(seed, base):
    """Random ones, of the options and arguments that a command has."""
    chance, group = np.random.default_rng(seed), get_command(app)
    while True:
        name = str(chance.choice([name for name in COMMANDS if name != "explore"]))
        known = [x for p in group.get_command(None, name).params for x in p.opts if x[0] == "-"]
        line = [name]
        for _ in range(chance.integers(0, 6)):
            if chance.random() < 0.5:
                line.append(str(chance.choice(known)))
            if chance.random() < 0.8:
                line.append(WORDS[chance.integers(len(WORDS))].format(base=base))
        yield [*line, SHORTLY[name]] if name in SHORTLY else line


def attack_commands(seed, count, base, place):
    """Run command lines, each in a folder of its own; which ended otherwise than they should."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    wrong, codes = [], {}
    before = {file: file.stat().st_mtime_ns for file in (base / "pictures").rglob("*")}
    around = {*base.parent.iterdir(), *base.iterdir()}
    for number, line in zip(range(count), command_lines(seed, base), strict=False):
        own = place / str(number)
        own.mkdir(parents=True)
        os.chdir(own)
        sys.argv = ["aliascope", *line]
        said = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
        code = "traceback"
        try:
            with limit(60), redirect_stdout(said), redirect_stderr(said):
                main()
        except SystemExit as end:
            code = end.code
        except BaseException as error:  # noqa: BLE001 - told to the test
            wrong.append((line, repr(error)))
        text = said.buffer.getvalue().decode()
        if "Traceback" in text:
            wrong.append((line, text))
        codes[code] = codes.get(code, 0) + 1
        if strangers := {*base.parent.iterdir(), *base.iterdir()} - around:
            wrong.append((line, f"wrote {strangers}"))
    if before != {file: file.stat().st_mtime_ns for file in (base / "pictures").rglob("*")}:
        wrong.append(("all", "pictures were changed"))
    return codes, wrong


def test_some_command_lines(victim, tmp_path):
    found, _ = growth(attack_commands, 0, 40, victim, tmp_path)
    assert isinstance(found, tuple), found
    codes, wrong = found
    assert wrong == []
    assert sum(codes.values()) == 40


@pytest.mark.slow
def test_many_command_lines(victim, tmp_path, capsys):
    found, peak = growth(attack_commands, 1, 2000, victim, tmp_path)
    assert isinstance(found, tuple), found
    codes, wrong = found
    with capsys.disabled():
        sys.stdout.write(f"\n| command lines | 2000 | {codes} | peak + {peak / 1e6:.0f} MB |\n")
    assert not wrong, "\n".join(f"{line}"[:300] + f"\n    {why}" for line, why in wrong)


def test_a_study_that_lost_a_table_is_not_reported(victim):
    table = victim / "study" / "tables" / "phase5_tradeoff.csv"
    with pytest.raises(RunError, match=f"{table} is missing: run the same study again"):
        report(victim / "study")


def test_a_path_that_no_system_has_is_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["aliascope", "verify", "x" * 300])
    with pytest.raises(SystemExit, match="1"):
        main()
    said = capsys.readouterr().err
    assert said.startswith(f"error: {'x' * 300}")
    assert said.endswith("cannot be used (File name too long): give another path, or mend that\n")


def test_what_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "device")
    for place in (tmp_path / "device", tmp_path, Path("/")):
        with pytest.raises(RunError, match="cannot be written"):
            write_file(place, b"page")
    assert (tmp_path / "device").is_fifo()
