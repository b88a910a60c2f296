import csv
import inspect
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import typing
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from typer.main import get_command

import aliascope
from aliascope.antialias import METHODS
from aliascope.antialias.recipe import Stem
from aliascope.cli import app, main
from aliascope.cli.output import complain, print_csv, progress, say
from aliascope.export.targets import To
from aliascope.images.preprocessing import PreprocessingName
from aliascope.layers import Padding, Wavelet
from aliascope.measure import Engine
from aliascope.measure.batch import Only, Ops
from aliascope.runtime import Precision
from aliascope.shifts import Border
from aliascope.study.tradeoffs import compare_methods

_GROUP = get_command(app)
COMMANDS = {verb: _GROUP.get_command(None, verb) for verb in _GROUP.list_commands(None)}
VERBS = sorted(COMMANDS)
TOY = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )

def flat():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())

def hidden():
    class Hidden(nn.Module):
        def forward(self, x):
            return x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax((3, 5))
    return nn.Sequential(Hidden(), *flat())

def small():  # of 32 × 32 pixels and nothing else
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                         nn.Linear(8 * 16 * 16, 10))

def broken():
    return nn.Sequential(nn.Linear(5, 5))

def slow():
    import pathlib, time
    class Slow(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()
            self.forwards = 0
        def forward(self, x):
            self.forwards += 1
            busy = pathlib.Path("busy")
            if self.forwards == 8 and not busy.exists():
                busy.touch()
                for _ in range(600):  # till it is interrupted
                    time.sleep(0.05)
            return self.net(x)
    return Slow()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder with toy models and twelve pictures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["aliascope"])
    monkeypatch.delitem(sys.modules, "toy", raising=False)
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for index in range(12):
        low = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        PIL.Image.fromarray(low).resize((64, 64)).save(tmp_path / f"pictures/{index:02}.png")
    return tmp_path


@pytest.fixture
def run(monkeypatch, capfd):
    def run(command):
        """Status, stdout and stderr of the command line, in this process."""
        monkeypatch.setattr(sys, "argv", ["aliascope", *shlex.split(command)])
        status = 0
        try:
            main()
        except SystemExit as leaving:
            status = leaving.code or 0
        out, err = capfd.readouterr()
        return status, out, err

    return run


def test_layers(run):
    status, out, err = run("layers efficientnet_lite0@blurpool:2")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    header, stem = (" ".join(line.split()) for line in lines[:2])
    assert header == "# layer kind kernel stride input output image stride"
    assert stem == "0 conv_stem conv 3×3 2 3×224×224 32×112×112 2"
    assert [line.split()[2] for line in lines[2:6]] == 4 * ["blur_pool"]
    assert lines[6:] == ["", "5 places downsample, 1 of them through no fixed low-pass: conv (1)."]
    status, out, _ = run("layers cifar_resnet8_blurpool@frame:20")
    assert out.splitlines()[1].split()[2:4] == ["interpolate", "5×5"]
    assert out.splitlines()[-1].endswith("places downsample, all of them through a fixed low-pass.")


def test_layers_as_json_marks_shortcuts(run):
    status, out, _ = run("layers timm:resnet18 --json")
    found = json.loads(out)
    assert status == 0
    assert [one["name"] for one in found if one["shortcut"]] == [
        f"layer{n}.0.downsample.0" for n in (2, 3, 4)
    ]


def test_measure_and_compare(run, folder):
    status, out, err = run("measure toy:net toy:net@blurpool --images pictures --out runs")
    assert status == 0, err
    assert out.count("12 images measured, 0 skipped, complete") == 2
    status, out, _ = run("measure toy:net --images pictures --out runs/toy-net --json")
    (summary,) = json.loads(out)
    assert summary["measured"] == 12
    assert summary["metrics"]["sis"]["mean"] > 0
    status, out, _ = run("compare runs/toy-net runs/toy-net")
    assert status == 0
    assert "12" in out
    status, out, _ = run("compare runs/toy-net runs/toy-net --json --map 0=0")
    assert [row["layer_a"] for row in json.loads(out)["layers"]][:1] == ["0"]
    assert {row["difference"] for row in json.loads(out)["images"]} == {0}


def test_compare_measures_two_models_on_the_same_pictures(run, folder):
    command = "compare toy:net toy:net@blurpool --images pictures --limit 5 --device cpu"
    status, out, err = run(f"{command} --out runs --json")
    assert status == 0, err
    told = json.loads(out)
    runs = [
        aliascope.measure(spec, "pictures", limit=5, device="cpu")
        for spec in ("toy:net", "toy:net@blurpool")
    ]
    assert told == aliascope.compare(*runs).to_dict()
    assert told["n"] == 5
    assert json.loads(run("compare runs/A runs/B --json")[1]) == told


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("before before --images pictures", "before is a run, which is not measured again"),
        ("toy:net before --images pictures", "before is a run, which is not measured again"),
        ("before toy:net", "toy:net is no directory that `aliascope measure --out` wrote"),
        ("before before --limit 3 --shifts crop", "--shifts, --limit: nothing is measured without"),
    ],
)
def test_compare_takes_two_runs_or_two_models(run, folder, arguments, sentence):
    run("measure toy:net --images pictures --limit 1 --device cpu --out before")
    status, out, err = run(f"compare {arguments}")
    assert (status, out) == (1, "")
    assert sentence in err


PIXELS = "--size 32x40 --resize 48 --mean 0.5 --std 0.25,0.5,0.75 --interpolation bicubic"


def test_pictures_are_prepared_as_the_options_say(run, folder):
    command = "measure toy:net --images pictures --limit 1 --device cpu --json"
    (plain,) = json.loads(run(command)[1])
    assert any("--mean" in notice for notice in plain["notices"])
    (told,) = json.loads(run(f"{command} {PIXELS} --shifts crop")[1])
    assert told["config"]["preprocessing"] == {
        "resize": [48], "crop": [32, 40], "interpolation": "bicubic",
        "mean": [0.5] * 3, "std": [0.25, 0.5, 0.75], "margin": 1,
    }  # fmt: skip
    assert told["config"]["border"] == "crop"
    assert not any("--mean" in notice for notice in told["notices"])
    (squashed,) = json.loads(run(f"{command} --preprocess resize224 --size 64")[1])
    assert squashed["config"]["preprocessing"]["resize"] == [64, 64]
    status, _, err = run(f"{command} --size wide")
    assert status == 1
    assert err == "error: --size 'wide' is no size in pixels; write 224, or 288x224\n"


def test_compare_prepares_pictures_likewise(run, folder):
    command = f"compare toy:net toy:net --images pictures --limit 1 --device cpu {PIXELS}"
    status, _, err = run(f"{command} --shifts native --out runs")
    assert status == 0, err
    config = aliascope.Run.open("runs/B").config
    assert config["preprocessing"]["crop"] == [32, 40]
    assert config["border"] == "native"


def test_layers_shows_the_network_pictures_of_the_size_given(run, folder):
    status, out, err = run("layers toy:net")
    assert status == 0
    assert "3×224×224" in out
    assert err == (
        "notice: toy:net does not say what size it takes, so it was run on 224 × 224: give its own "
        "with --size\n"
    )
    status, out, err = run("layers toy:net --size 32x40")
    assert (status, err) == (0, "")
    assert "3×32×40" in out


def test_what_a_spec_converts_is_tried_on_pictures_of_the_size_given(run, folder):
    spec = "toy:small@blurpool:2"
    status, out, err = run(f"layers {spec} --size 32")
    assert (status, err) == (0, "")
    assert "max_blur_pool" in out
    given = "--images pictures --limit 2 --device cpu --size 32"
    for command in (f"measure {spec} {given}", f"compare toy:small {spec} {given}"):
        status, _, err = run(command)
        assert status == 0, err
    status, _, err = run(f"layers {spec}")
    assert status == 1  # on the 224 × 224 pixels that it does not take
    assert f"{spec} failed on an image of shape (1, 3, 224, 224): " in err


def test_layers_does_not_say_of_what_it_cannot_see_that_it_is_not_there(run, folder):
    status, out, err = run("layers toy:flat --size 32")
    assert (status, err) == (0, "")
    assert out == "toy:flat does not downsample\n"
    status, out, err = run("layers toy:hidden --size 32")
    assert status == 0
    assert "does not downsample" not in out
    assert err.startswith("notice: ")
    assert "32×32 to 16×16" in err.splitlines()[-1]


def test_a_model_that_fails_does_not_stop_the_others(run, folder):
    status, out, err = run("measure toy:broken toy:nothing toy:net --images pictures --out runs")
    assert status == 1
    assert "toy:net on pictures, crop shifts: 12 images measured" in out
    assert "error: toy:broken: toy:broken failed on an image of shape (1, 3, 224, 224)" in err
    assert "error: toy:nothing: cannot find toy:nothing" in err
    assert "Traceback" not in err


def test_bench(run, folder):
    command = "bench toy:net toy:net --batch-size 1 --batch-size 2 --seconds 0 --device cpu"
    status, out, err = run(command)
    assert (status, err) == (0, "")
    rows = [line.split()[:3] for line in out.splitlines() if line.startswith("toy:net")]
    assert [row[-2] if row[1] == "#2" else row[0] for row in rows] == ["toy:net", "#2"] * 2
    told = json.loads(run(f"{command} --json")[1])
    assert [(row["model"], row["batch"]) for row in told["table"]] == [
        ("toy:net", 1), ("toy:net #2", 1), ("toy:net", 2), ("toy:net #2", 2),
    ]  # fmt: skip
    assert len(told["times"]) == 44


def test_bench_goes_on_where_a_model_fails(run, folder):
    command = "bench toy:broken toy:x toy:net --batch-size 1 --seconds 0"
    status, out, err = run(command)
    assert status == 1
    assert "toy:net" in out
    assert "error: toy:broken: toy:broken failed on an image of shape (1, 3, 224, 224)" in err
    assert "error: toy:x: cannot find toy:x" in err  # and :x: is no emoji
    assert run("bench toy:broken")[:2] == (1, "")


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("layers toy:broken", "toy:broken failed on an image of shape (1, 3, 224, 224): "),
        ("layers resnet50", "error: unknown model 'resnet50'; did you mean timm:resnet50"),
        ("measure toy:net --images nowhere", "nowhere"),
        ("measure toy:net --images pictures --device cuda:9", "choose cpu"),
        ("measure toy:net --images pictures --out pictures", "pictures"),
        ("compare nowhere nowhere", "nowhere"),
    ],
)
def test_mistakes_become_one_sentence_and_status_1(run, folder, command, sentence):
    status, out, err = run(command)
    assert (status, out) == (1, "")
    assert sentence in err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "command",
    [
        "measure",
        "nonsense",
        "measure toy:net --limit 0",
        "measure toy:net --ops some",
        "measure toy:net --precision fp8",
        "measure toy:net --preprocess none",
        "compare a b --map x",
        "measure toy:net --shifts sideways",
        "study --phases 3-1",
        "study --shifts crop --shifts sideways",
        "study --phases 1-99999999999",
        "study --latency-seconds -1",
        "antialias toy:net --out t.safetensors --padding none",
    ],
)
def test_wrong_usage_has_status_2(run, folder, command):
    status, out, err = run(command)
    assert (status, out) == (2, "")
    assert "Usage" in err


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("study --phases 3-1", "'3-1' runs backwards; write 1-3"),
        ("study --phases 1-x", "'1-x' is no list of phases; write it like 1,3-5"),
        ("study --latency-seconds -1", "Invalid value for '--latency-seconds'"),
    ],
)
def test_wrong_usage_is_said_in_a_sentence(run, folder, command, sentence):
    assert sentence in run(command)[2].splitlines()[-1]
    assert not Path("results").exists()


PARAMETERS = [
    pytest.param(parameter, id=f"{verb} {parameter.name}")
    for verb, command in COMMANDS.items()
    for parameter in command.params
]
DOING = (
    "Begin Compare Continue Convert Count Divide Filter Give Install Join Judge Keep List Load "
    "Measure Move Offer Only Pair Prepare Print Read Recalibrate Resize Run Seed Serve Share Show "
    "Spend Subtract Take Time Train Try Use Write"
)


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_every_help_says_what_is_done(parameter):
    words = parameter.help.split()
    assert words[0] in DOING.split()
    assert len(words) >= 4
    assert words[-1].endswith(".")


def test_every_list_of_choices_is_the_librarys():
    library = {
        "shifts": Border, "precision": Precision, "ops": Ops, "preprocess": PreprocessingName,
        "padding": Padding, "wavelet": Wavelet, "stem": Stem, "engine": Engine,
        "only": Only, "to": To,
    }  # fmt: skip
    seen = set()
    for command in COMMANDS.values():
        for name, hint in typing.get_type_hints(command.callback).items():
            for listed in (hint, *typing.get_args(hint)):
                if typing.get_origin(listed) is typing.Literal:
                    assert listed == library[name], name
                    seen.add(name)
    assert seen == set(library)
    kinds = (Border, Precision, Padding, Wavelet)
    listed = [name for kind in kinds for name in typing.get_args(kind)]
    folder = Path(aliascope.cli.__file__).parent
    for file in folder.glob("*.py"):
        assert not [name for name in listed if f'"{name}"' in file.read_text()], file


@pytest.mark.parametrize(
    ("verb", "function"),
    [
        ("measure", aliascope.measure),
        ("compare", aliascope.measure),
        ("bench", aliascope.bench),
        ("export", aliascope.export),
        ("antialias", aliascope.antialias),
        ("antialias", aliascope.FinetuneSettings),
        ("methods", compare_methods),
        ("repair", aliascope.repair),
    ],
)
def test_defaults_are_the_librarys(verb, function):
    given = inspect.signature(function).parameters
    optional = [p for p in COMMANDS[verb].params if not p.required]
    shared = {p.name: p.default for p in optional if p.name in given}
    assert shared
    for name, default in shared.items():
        if name not in ("images", "only", "batch_size", "holdout", "out", "at", "budget"):
            assert default == given[name].default, name


def test_debug_shows_the_traceback(run):
    with pytest.raises(aliascope.ModelError):
        run("--debug layers resnet50")


def example_of(run, verb):
    """The words behind `aliascope` of the example that its help shows."""
    status, out, _ = run(f"{verb} --help")
    assert status == 0
    return shlex.split(re.search(r"Example: aliascope (.+)", " ".join(out.split()))[1])


@pytest.mark.parametrize("verb", VERBS)
def test_every_help_shows_an_example_that_can_be_read(run, verb):
    found, *arguments = example_of(run, verb)
    assert found == verb
    COMMANDS[verb].make_context(verb, arguments)  # exits at an option that there is not


LONG = ("methods", "repair", "study")
"""Their examples measure for up to a minute; of toy networks they run in tests of their own."""


@pytest.mark.parametrize(
    "verb",
    [
        pytest.param(verb, marks=[pytest.mark.slow] * (verb in LONG))
        for verb in VERBS
        if verb != "explore"  # serves until Ctrl-C: tests/test_explorer_browser.py runs it
    ],
)
def test_every_help_shows_an_example_that_runs(run, folder, verb):
    if verb in ("report", "merge", "verify"):
        out = "results" if verb == "report" else "run"
        assert run(f"measure toy:net --images pictures --limit 1 --out {out}")[0] == 0
    status, out, err = run(shlex.join(example_of(run, verb)))
    assert status == 0, err
    assert out.strip()


def test_methods_measures_each_on_a_network(run, folder):
    command = "methods --measure toy:net --images pictures --only blurpool:2 --only nonsense"
    status, out, err = run(f"{command} --limit 2 --latency-seconds 0 --device cpu --out tried")
    assert status == 0, err
    words = {tuple(line.split()[:2]) for line in out.splitlines()}
    assert words >= {("original",) * 2, ("blurpool:1", "control"), ("blurpool:2", "zero-shot")}
    assert "notice: nonsense: unknown method 'nonsense'" in out
    assert (folder / "tried" / "methods_front.svg").exists()


def test_version(run):
    assert run("--version")[1] == f"aliascope {aliascope.__version__}\n"


def test_models_lists_what_contains_the_pattern(run):
    status, out, _ = run("models resnet18")
    assert status == 0
    assert "timm:resnet18" in out.splitlines()
    assert json.loads(run("models lite0 --json")[1])[0] == "efficientnet_lite0"


def test_antialias_writes_a_model_that_the_other_verbs_take(run, folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    command = "antialias torchvision:resnet18 --weights random --size 2 --no-shortcut"
    status, out, err = run(f"{command} --out small.safetensors")
    assert status == 0, err
    lines = out.splitlines()
    assert "maxpool.1" not in out
    assert any("max at stride 1, then BlurPool after maxpool" in line for line in lines)
    assert lines[-1].startswith("blurpool:2:no-shortcut on 1×3×224×224: ")
    report = json.loads(run(f"{command} --out again.safetensors --json")[1])
    assert report["spec"] == "torchvision:resnet18@blurpool:2:no-shortcut"
    assert [row["outcome"] for row in report["layers"]].count("converted") == 4
    table = run("layers small.safetensors")[1]
    assert "max_blur_pool" in table
    assert "layer2.0.conv2.0" in table


def test_antialias_finetunes_and_goes_on_with_it(run, folder):
    command = "antialias toy:net --out tuned.safetensors --finetune pictures --steps 2"
    status, out, err = run(f"{command} --holdout 4 --device cpu")
    assert status == 0, err
    assert "toy:net@blurpool:3 fine-tuned on pictures: 2 steps of 32 images" in out
    assert (folder / "tuned.finetune" / "finetune.json").exists()
    report = json.loads(run(f"{command} --holdout 4 --device cpu --json")[1])["finetune"]
    assert [row["step"] for row in report["history"]] == [0, 2]
    assert 0 <= report["teacher"]["sis"] <= 1
    tuned, fresh = (
        aliascope.load_model("toy:net@blurpool:3", weights=weights).module.state_dict()
        for weights in ("tuned.safetensors", "pretrained")
    )
    assert tuned.keys() == fresh.keys()
    assert not tuned["0.weight"].equal(fresh["0.weight"])


def test_antialias_refuses_before_it_finetunes(run, folder):
    status, _, err = run("antialias toy:net --out t.txt --finetune pictures")
    assert status == 1
    assert "t.txt must end in .safetensors" in err
    assert not (folder / "t.finetune").exists()
    (folder / "empty").mkdir()
    status, _, err = run("antialias toy:net --out t.safetensors --finetune empty")
    assert status == 1
    assert "empty" in err
    assert sorted(p.name for p in folder.iterdir() if p.name.startswith("t.")) == []


def test_antialias_says_what_it_cannot_do(run, folder):
    status, out, err = run("antialias toy:net --out t.txt --method ideal")
    assert (status, out) == (1, "")
    assert "t.txt must end in .safetensors" in err
    status, _, err = run(
        "antialias torchvision:swin_t --weights random --method aps --out s.safetensors"
    )
    assert status == 1
    assert "cannot anti-alias 3 of 4 operations: features.2.slice (slice)" in err
    assert not Path("s.safetensors").exists()
    status, _, err = run("layers t.safetensors")
    assert "t.safetensors does not exist" in err


def test_methods_lists_what_can_be_chosen(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    lines = run("methods")[1].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines[1:]] == [*METHODS]
    rows = json.loads(run("methods --json")[1])
    assert {row["name"]: row["parameters"] > 0 for row in rows}["lps"]


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_measured_and_the_same_command_goes_on(run, folder):
    told = "measure toy:slow --images pictures --out run --batch-size 1"
    command = [sys.executable, "-m", "aliascope.cli", *told.split()]
    heeded = partial(signal.signal, signal.SIGINT, signal.default_int_handler)  # not so under nohup
    child = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=heeded,  # noqa: PLW1509
    )
    deadline = time.monotonic() + 120
    while not Path("busy").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 1
    assert err == "error: interrupted; the same command goes on from there\n"
    assert "Traceback" not in err
    half = aliascope.Run.open("run")
    assert half.state == "interrupted"
    assert 0 < len(half.images) < 12
    status, out, err = run(told)
    assert status == 0, err
    assert "12 images measured" in out
    assert aliascope.Run.open("run").images.image_id.is_unique


@pytest.mark.parametrize(
    ("command", "column", "values"),
    [
        ("layers toy:net", "kind", ["conv"]),
        ("measure toy:net --images pictures --limit 2 --device cpu", "layer", ["", "", "", ""]),
        (
            "compare toy:net toy:net --images pictures --limit 2 --device cpu",
            "metric",
            ["agreement"],
        ),
        ("bench toy:net --batch-size 1 --seconds 0 --device cpu", "model", ["toy:net"]),
        ("methods", "name", ["blurpool", "ideal"]),
    ],
)
def test_tables_as_csv(run, folder, command, column, values):
    status, out, err = run(f"{command} --csv")
    assert status == 0, err
    rows = list(csv.DictReader(io.StringIO(out, newline="")))
    assert [row[column] for row in rows][: len(values)] == values
    status, out, err = run(f"{command} --csv --json")
    assert (status, out) == (2, "")
    assert "--json and --csv are two forms of one output; give one of them" in err


def test_csv_has_all_digits_and_ends_its_lines_as_rfc_4180_has_it(capfdbinary):
    print_csv(pd.DataFrame({"x": [1 / 3, float("nan")], "name": ['a "b", c', "d"]}))
    assert capfdbinary.readouterr().out == (b'x,name\r\n0.3333333333333333,"a ""b"", c"\r\n,d\r\n')


class Stream(io.StringIO):
    def __init__(self, *, terminal):
        super().__init__()
        self.isatty = lambda: terminal


@pytest.mark.parametrize(
    ("terminal", "environment", "coloured"),
    [
        (True, {"TERM": "xterm"}, True),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {"TERM": "xterm", "FORCE_COLOR": "1"}, False),
    ],
)
def test_colour_only_where_a_terminal_wants_it(monkeypatch, terminal, environment, coloured):
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    streams = Stream(terminal=terminal), Stream(terminal=terminal)
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    say("table\n\nb moves less.\n\nnotice: few", "b moves less.")
    complain("no :x: [bold]here[/]")
    for stream, text in zip(
        streams,
        ("table\n\nb moves less.\n\nnotice: few\n", "error: no :x: [bold]here[/]\n"),
        strict=True,
    ):
        printed = stream.getvalue()
        assert ("\x1b[" in printed) == coloured
        assert re.sub(r"\x1b\[[0-9;]*m", "", printed) == text


@pytest.mark.parametrize(("terminal", "term"), [(True, "xterm"), (True, "dumb"), (False, "xterm")])
def test_a_bar_says_what_it_waits_for_on_a_terminal(monkeypatch, terminal, term):
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("COLUMNS", "120")
    stream = Stream(terminal=terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    with progress("net") as report:
        report(1, 4, "decoding")
        report(2, 4)
        report(3, 4, "forward")
    seen = stream.getvalue()
    assert ("waits for forward" in seen) == (terminal and term != "dumb")
    assert (terminal and term != "dumb") or not seen
