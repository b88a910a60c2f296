"""From a network to a repaired one: the plan, the fit of folded kernels, the stages, the proof."""

import importlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torchvision.models.resnet import BasicBlock

from aliascope import AliascopeError, antialias, compare, load_model
from aliascope.repair import Budget, Plan, Repaired, fit_folded, repair
from aliascope.repair.run import SETTINGS
from aliascope.repair.search import Trials, combined, places_of
from aliascope.report import report

UNTRAINED = replace(SETTINGS, steps=0)
QUICK = {"limit": 10, "holdout": 4, "planning": 2, "latency_seconds": 0, "device": "cpu"}
pytestmark = pytest.mark.xdist_group("repair")


@pytest.fixture(scope="module", autouse=True)
def _hardly_fitted():
    """What is fitted costs most of the time of a repair without training."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("search", "run"):
            patch.setattr(importlib.import_module(f"aliascope.repair.{module}"), "_FIT_STEPS", 4)
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Smooth pictures with an edge, each a photograph of its own."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(10):
        waves = rng.normal(size=(6, 6, 3))
        picture = Image.fromarray(np.uint8(np.clip(127 + 60 * waves, 0, 255)))
        picture = picture.resize((48, 44), Image.Resampling.BICUBIC)
        picture.paste((0, 0, 0), (i, 0, i + 12, 20))
        picture.save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def done(pictures, tmp_path_factory):
    """A search, a short training and the proof, as a user gets them."""
    out = tmp_path_factory.mktemp("done") / "repaired"
    options = {**QUICK, "methods": ["folded:3", "ideal"], "budget": "latency=50,top1=-100"}
    settings = replace(SETTINGS, steps=2, batch_size=4)
    return repair("cifar_resnet8", pictures, out=out, settings=settings, **options), out


def test_a_search_tries_every_method_at_every_place(done):
    found, _ = done
    places = [*places_of(load_model("cifar_resnet8"))]
    assert found.tried["place"].tolist() == [x for x in places for _ in range(2)]
    assert found.tried["method"].tolist() == ["folded:3", "ideal"] * len(places)
    assert found.tried[["change", "kl", "latency"]].notna().all(axis=None)
    assert (found.tried["kl"] > 0).all()
    assert set(found.choices) == set(places)
    # What was chosen is one of the combinations that were made, and scores best of those.
    best = found.combined.sort_values("score").iloc[0]
    assert Plan(found.model, found.choices).spec == best["choices"] == found.spec


def test_the_proof_is_that_of_compare(done):
    found, out = done
    apart = compare(out / "judged-crop" / "A", out / "judged-crop" / "B")
    judged = found.judged[found.judged["shifts"] == "crop"].set_index("metric")
    for metric, row in apart.images.set_index("metric").iterrows():
        own = judged.loc[metric]
        assert own["mean_a"] == row["mean_a"]
        assert own["change"] == row["change"]
    assert found.n == 4
    # The pictures of the proof were not those of the plan.
    planned = json.loads((out / "search.json").read_bytes())["config"]["images"]
    judged = set((out / "judged-crop").glob("A/*.json"))
    assert judged
    assert len(planned) == QUICK["planning"]


def test_the_model_is_a_spec_and_answers_as_it_was_judged(done):
    found, out = done
    again = load_model(str(out / "model.safetensors"))
    fresh = load_model(found.spec)
    assert [name for name, _ in again.module.named_modules()] == [
        name for name, _ in fresh.module.named_modules()
    ]
    original = load_model("cifar_resnet8")
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert not torch.equal(again.module(x), fresh.module(x))  # it was trained
        assert not torch.equal(again.module(x), original.module(x))


def test_what_was_saved_is_what_is_opened_and_printed_and_reported(done, tmp_path):
    found, out = done
    again = Repaired.open(out / "repair.json")
    assert str(again) == str(found)
    assert again.met == found.met == {"latency": True, "top1": None}
    assert "top-1 is not known" in found.verdict
    page = report(out, out / "judged-crop", out=tmp_path / "page.html").read_text()
    assert "cifar_resnet8, repaired" in page
    assert found.tried["place"][0].replace(",", ", ") in page


def test_the_same_command_does_nothing_anew(done, pictures, tmp_path):
    found, out = done
    folder = tmp_path / "again"
    shutil.copytree(out, folder)
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name[0] != "."}
    options = {**QUICK, "methods": ["folded:3", "ideal"], "budget": "latency=50,top1=-100"}
    settings = replace(SETTINGS, steps=2, batch_size=4)
    again = repair("cifar_resnet8", pictures, out=folder, settings=settings, **options)
    assert str(again) == str(found)
    for name in ("search.json", "latency.json", "model.safetensors", "fitted.safetensors"):
        assert before.get(name) == ((folder / name).read_bytes() if name in before else None)
    other = options | {"budget": "latency=40"}
    with pytest.raises(AliascopeError, match=r"another configuration \(budget: latency=50"):
        repair("cifar_resnet8", pictures, out=folder, settings=settings, **other)
    with pytest.raises(AliascopeError, match=r"another configuration \(settings: .*'steps': 2"):
        repair("cifar_resnet8", pictures, out=folder, settings=UNTRAINED, **options)


@pytest.mark.slow
def test_a_killed_repair_goes_on(done, pictures, tmp_path):
    """Killed behind each stage in turn; the result is that of the one that was not killed."""
    found, _ = done
    out = tmp_path / "killed"
    code = (
        "import importlib, os, sys\n"
        "from dataclasses import replace\n"
        "from aliascope.repair import repair\n"
        "from aliascope.repair.run import SETTINGS\n"
        "from contextlib import contextmanager\n"
        "for module in ('search', 'run'):  # as the one that was not killed\n"
        "    importlib.import_module(f'aliascope.repair.{module}')._FIT_STEPS = 4\n"
        "@contextmanager\n"
        "def progress(title):\n"
        "    if title == sys.argv[1]: os.kill(os.getpid(), 9)\n"
        "    yield lambda *_: None\n"
        f"repair('cifar_resnet8', {str(pictures)!r}, out={str(out)!r}, progress=progress,\n"
        "       settings=replace(SETTINGS, steps=2, batch_size=4), methods=['folded:3', 'ideal'],\n"
        f"       budget='latency=50,top1=-100', **{QUICK!r})\n"
    )
    titles = ["trying methods", "training", "judging, crop shifts", "judging, native shifts"]
    for title in [*titles, "timing", ""]:
        ended = subprocess.run([sys.executable, "-c", code, title], check=False)
        assert ended.returncode == (-9 if title else 0)
    again = Repaired.open(out / "repair.json")
    if again.choices == found.choices:  # what is fastest is timed, and may come out otherwise
        pd.testing.assert_frame_equal(again.judged, found.judged)


def test_a_plan_is_carried_out_as_it_was_edited_and_exported(pictures, tmp_path):
    file = tmp_path / "plan.json"
    Plan("cifar_resnet8", {"layer1": "folded:3", "layer2": "blurpool:2"}).save(file)
    edited = json.loads(file.read_text())
    edited["choices"]["layer2"] = "none"
    file.write_text(json.dumps(edited))
    options = QUICK | {"plan": file, "settings": UNTRAINED, "export_to": "model.pt2"}
    found = repair("cifar_resnet8", pictures, out=tmp_path / "out", **options)
    assert found.spec == "cifar_resnet8@folded:3:at=layer1"
    exported = torch.export.load(tmp_path / "out" / "model.pt2").module()
    own = load_model(str(tmp_path / "out" / "model.safetensors"))
    x = torch.rand(2, 3, *own.preprocessing.crop, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(exported(x)[0], own.module(x), rtol=1e-4, atol=1e-4)
    assert found.tried.empty
    assert "None" not in str(found)


def test_a_control_that_filters_nothing_changes_nothing(pictures, tmp_path):
    plan = Plan("cifar_resnet8", {"layer1": "blurpool:1", "layer2": "blurpool:1"})
    found = repair("cifar_resnet8", pictures, out=tmp_path, plan=plan, settings=UNTRAINED, **QUICK)
    rows = found.judged.query("metric in ('logit_instability', 'agreement')")
    np.testing.assert_allclose(rows["mean_a"], rows["mean_b"], atol=1e-5)
    assert found.kept["value"] == 1


def test_a_network_of_the_users_own(pictures, tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    )
    plan = Plan("Sequential", {"2": "folded:3"})
    found = repair(net, pictures, out=tmp_path, plan=plan, settings=UNTRAINED, **QUICK)
    assert found.spec == "Sequential@folded:3:at=2"
    assert not (tmp_path / "model.safetensors").exists()
    assert any("model.safetensors" in notice for notice in found.notices)


fitting = importlib.import_module("aliascope.repair.fitting")


def smooth(count, side):
    """Pictures whose neighbours are alike, as in photographs."""
    noise = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    return noise.cumsum(-1).cumsum(-2) / 20


class TestFit:
    def test_the_kernel_that_is_the_filter_is_left_where_it_is_best(self):
        """Without an activation, filter and kernel commute: nothing is left to be fitted."""
        net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, 1))
        folded, dense = antialias(net, "folded"), antialias(net, "blurpool", padding="zeros")
        fitted, errors = fit_folded(folded, dense, smooth(4, 32), steps=10)
        before, after = errors["1"]
        assert [*errors] == ["1"]  # what lies in front yields the same in both
        assert max(before, after) < 0.02  # the border alone
        assert fitted[1].kernel_size == (5, 5)

    def test_what_is_fitted_comes_nearer_and_what_is_given_stays(self):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, 2, 1, groups=4), nn.ReLU())
        folded, dense = antialias(net, "folded"), antialias(net, "ideal")
        kernel = folded[1].weight.detach().clone()
        fitted, errors = fit_folded(folded, dense, smooth(8, 24))
        before, after = errors["2"]
        assert [*errors] == ["2"]
        assert after < 0.95 * before
        assert torch.equal(folded[1].weight, kernel)
        assert torch.equal(fitted[0].weight, folded[0].weight)
        assert fitted[1].weight.requires_grad

    def test_errors_that_change_as_the_picture_moves_weigh_more(self, monkeypatch):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU())
        folded, dense = antialias(net, "folded"), antialias(net, "ideal")
        images, change = smooth(8, 24), {}
        moved = nn.functional.pad(images, (1, 0, 1, 0), mode="replicate")[..., :-1, :-1]
        for weight in (0, 5):
            monkeypatch.setattr(fitting, "_STEADY", weight)
            fitted, _ = fit_folded(folded, dense, images)
            off, on = (fitted(x) - dense(x) for x in (images, moved))
            change[weight] = (on - off).square().sum().item()
        assert change[5] < 0.9 * change[0]

    def test_a_network_that_is_the_other_one_already_is_left_as_it_is(self):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU())
        images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        control = antialias(net, "folded", size=1)
        fitted, errors = fit_folded(control, net, images, steps=20)
        assert errors == {}
        assert torch.equal(fitted(images), net(images))

    def test_kernels_that_have_not_grown_can_be_fitted(self):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU())
        images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        control, dense = antialias(net, "folded", size=1), antialias(net, "ideal")
        fitted, errors = fit_folded(control, dense, images, steps=60)
        before, after = errors["2"]
        assert after < before
        assert fitted[1].kernel_size == (3, 3)

    def test_blocks_are_fitted_whole_and_what_is_behind_them_too(self):
        torch.manual_seed(0)
        narrow = nn.Sequential(nn.Conv2d(4, 8, 1, 2), nn.BatchNorm2d(8))
        blocks = BasicBlock(4, 4), BasicBlock(4, 8, 2, narrow), BasicBlock(8, 8)
        net = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), *blocks, nn.Flatten()).eval()
        folded, dense = antialias(net, "folded"), antialias(net, "ideal")
        fitted, errors = fit_folded(folded, dense, smooth(16, 24), batch_size=8)
        assert [*errors] == ["2", "3"]
        before, after = errors["2"]
        assert after < before
        assert not torch.equal(fitted[2].conv2.weight, folded[2].conv2.weight)
        assert torch.equal(fitted[1].conv1.weight, folded[1].conv1.weight)
        alone, first = fit_folded(folded, dense, smooth(16, 24), behind=False, batch_size=8)
        assert first == {"2": errors["2"]}
        assert torch.equal(alone[3].conv1.weight, folded[3].conv1.weight)

    def test_for_a_pool_the_next_part_is_fitted(self):
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU()
        net = nn.Sequential(*layers, nn.Conv2d(4, 4, 3), nn.ReLU()).eval()
        control, dense = antialias(net, "folded", size=1), antialias(net, "ideal")
        assert torch.equal(control(smooth(4, 24)), net(smooth(4, 24)))
        fitted, errors = fit_folded(control, dense, smooth(8, 24), behind=False)
        assert [*errors] == ["3"]
        changed = [i for i in (0, 3, 5) if not torch.equal(fitted[i].weight, net[i].weight)]
        assert changed == [3]

    def test_blocks_are_found_within_a_network_of_any_kind(self):
        class Own(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = timm.create_model("mobilenetv3_small_050", num_classes=5)

            def forward(self, x):
                return {"logits": self.body(x)}

        net = Own().eval()
        folded, dense = (antialias(net, x, at=["body.blocks.2"]) for x in ("folded", "ideal"))
        images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        _, errors = fit_folded(folded, dense, images, steps=1, batch_size=2)
        ends = [f"body.blocks.{x}" for x in ("2.0", "2.1", "2.2", "3.0", "3.1")]
        assert [*errors][:5] == ends

    def test_a_part_that_is_no_nearer_on_other_pictures_stays_as_it_was(self):
        """Fitted on pictures of noise, judged by one that has none."""
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU())
        folded, dense = antialias(net, "folded"), antialias(net, "ideal")
        images = torch.full((4, 3, 16, 16), 0.5)
        images[:3] = 30 * torch.randn(3, 3, 16, 16)
        fitted, errors = fit_folded(folded, dense, images, steps=30, batch_size=2)
        before, after = errors["2"]
        assert after == before
        assert torch.equal(fitted[1].weight, folded[1].weight)

    def test_norms_behind_it_are_fitted_too(self):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU6()
        )
        fitted, _ = fit_folded(
            antialias(net, "folded"), antialias(net, "ideal"), torch.rand(4, 3, 16, 16), steps=5
        )
        assert not torch.equal(fitted[2].bias, net[2].bias)
        assert torch.equal(fitted[2].running_mean, net[2].running_mean)


def test_methods_that_can_be_tried_nowhere_are_refused_with_the_reason(pictures, tmp_path):
    with pytest.raises(AliascopeError, match=r"no method can be tried on cifar_resnet8: .*folded"):
        repair("cifar_resnet8", pictures, out=tmp_path, methods=["folded:0"], **QUICK)


def test_a_network_that_hands_on_no_map_is_refused(pictures, tmp_path, monkeypatch):
    (tmp_path / "sums.py").write_text(SUMS)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AliascopeError, match=r"no method can .*: nothing in sums:build@folded"):
        repair("sums:build", pictures, out=tmp_path / "out", methods=["folded:1"], **QUICK)


SUMS = """
from torch import nn

class Sums(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU()
        self.head = nn.Linear(8, 10)
    def forward(self, x):
        return self.head(self.act(self.conv(x)).mean((2, 3)) + x.mean())

def build():
    return Sums()
"""


class TestCombined:
    TABLE = pd.DataFrame(
        {
            "place": ["a", "a", "b", "b"],
            "method": ["ideal", "folded:3", "ideal", "folded:3"],
            "change": [-0.2, -0.1, -0.1, np.nan],
            "kl": [0.1, 0.3, 0.0, 0.1],
            "latency": [1.1, 0.99, 1.04, 1.0],
        }
    )

    def test_all_combinations_within_the_budget(self):
        found = combined(self.TABLE, Budget(latency=1.05))
        assert sorted(map(tuple, found[["a", "b"]].to_numpy())) == [
            ("folded:3", "ideal"), ("folded:3", "none"), ("none", "ideal"), ("none", "none"),
        ]  # fmt: skip
        # ln 0.9, ln 0.81 + 0.15, 0, ln 0.9 + 0.15
        assert found["b"].tolist() == ["ideal", "ideal", "none", "none"]
        row = found.query("a == 'folded:3' and b == 'ideal'").iloc[0]
        assert row["latency"] == pytest.approx(1.04)  # 0.99 counts as 1
        assert row["change"] == pytest.approx(0.9 * 0.9 - 1)
        assert row["score"] == pytest.approx(np.log(0.81) + 0.5 * 0.3)

    def test_what_is_far_from_the_original_is_left_out(self):
        """The dearer a nat, the fewer places: none where it weighs more than is won."""
        chosen = [
            tuple(combined(self.TABLE, Budget(latency=2), worth=worth).loc[0, ["a", "b"]])
            for worth in (0, 1, 3)
        ]
        assert chosen == [("ideal", "ideal"), ("ideal", "ideal"), ("none", "ideal")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("latency=fast", "cannot read 'latency=fast'"),
        ("speed=2", "cannot read 'speed=2'"),
        ("latency=1.1,latency=1.2", "each once"),
        ("latency=0.9", "at least 1, the original's own, got 0.9"),
        ("latency=nan", "at least 1"),
        ("top1=1", "a change in points, −100 to 0, got 1"),
    ],
)
def test_a_budget_that_makes_no_sense(text, told):
    with pytest.raises(AliascopeError, match=told):
        Budget.parse(text)


def test_a_budget_reads_what_it_writes():
    assert Budget.parse(str(Budget(1.03, -0.5))) == Budget(1.03, -0.5)
    assert Budget.parse("") == Budget()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read"),
        ("{}", "holds no plan"),
        ("[1]", "holds no plan"),
        ('{"model": "m", "choices": {"a": "nonsense"}}', "unknown method 'nonsense'"),
        ('{"model": "m", "choices": {"a": 3}}', "unknown method '3'"),
        ('{"model": "m", "choices": ["a"]}', "holds no plan"),
        ('{"model": "m", "choices": {"a b": "ideal"}}', "names as .aliascope layers. lists them"),
    ],
)
def test_what_is_no_plan(content, told, tmp_path):
    file = tmp_path / "plan.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(AliascopeError, match=told):
        Plan.open(file)


def test_what_cannot_be_repaired_is_said_in_a_sentence(pictures, tmp_path):
    quick = QUICK | {"settings": UNTRAINED, "out": tmp_path / "out"}
    nowhere = Plan("cifar_resnet8", {"layer9": "ideal"})
    with pytest.raises(AliascopeError, match="no operation is at 'layer9'"):
        repair("cifar_resnet8", pictures, plan=nowhere, **quick)
    nothing = Plan("cifar_resnet8", {"layer1": "none"})
    with pytest.raises(AliascopeError, match="leaves every place as it is"):
        repair("cifar_resnet8", pictures, plan=nothing, **quick | {"out": tmp_path / "b"})
    with pytest.raises(AliascopeError, match="leaves none to train on"):
        repair("cifar_resnet8", pictures, **quick | {"out": tmp_path / "c", "holdout": 99})
    with pytest.raises(AliascopeError, match="holdout must be at least 1"):
        repair("cifar_resnet8", pictures, **quick | {"out": tmp_path / "d", "holdout": 0})
    with pytest.raises(AliascopeError, match="pictures of their own"):
        repair("cifar_resnet8", pictures, **quick | {"out": tmp_path / "e", "holdout": pictures})
    flat = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(AliascopeError, match="no operation that could be repaired"):
        repair(flat, pictures, **quick | {"out": tmp_path / "f"})


def test_a_smaller_frame_pays_for_filters(pictures, tmp_path, monkeypatch):
    """The limit counts the whole: filters may cost what the frame saves."""
    asked = []
    monkeypatch.setattr(Trials, "takes", lambda _, version: asked.append(version.spec) or 0.025)
    ratios = dict.fromkeys(("latency", "latency_low", "latency_high"), 2.0)  # not a clock's
    monkeypatch.setattr(Trials, "_latency", lambda _, made: dict.fromkeys(made, ratios))
    options = {**QUICK, "methods": ["ideal"], "frame": 20, "settings": UNTRAINED}
    out, limit = tmp_path / "smaller", "latency=1,top1=-100"
    with pytest.raises(AliascopeError):
        repair("cifar_resnet8", pictures, out=tmp_path / "x", budget=limit, methods=["ideal"],
               settings=UNTRAINED, **QUICK)  # fmt: skip
    found = repair("cifar_resnet8", pictures, out=out, budget=limit, **options)
    assert asked == ["cifar_resnet8@frame:20"]
    assert (found.combined["latency"] <= 40).all()
    assert any("filters were given 40.00 times" in text for text in found.notices)
    assert found.spec.endswith("@frame:20")
    assert any("model.safetensors@frame:20" in text for text in found.notices)
    judged = compare(out / "judged-crop" / "A", out / "judged-crop" / "B")
    spec = f"{out / 'model.safetensors'}@frame:20"
    held = tmp_path / "held"
    held.mkdir()
    for name in json.loads((out / "search.json").read_bytes())["config"]["holdout"]:
        shutil.copy(pictures / name, held)
    again = compare("cifar_resnet8", spec, images=held, shifts="crop", device="cpu")
    rows = [x.images.set_index("metric").loc["logit_instability"] for x in (judged, again)]
    assert rows[0]["mean_b"] == pytest.approx(rows[1]["mean_b"], rel=1e-4)
    with pytest.raises(AliascopeError, match="frame"):
        repair("cifar_resnet8", pictures, out=out, budget=limit, **{**options, "frame": 16})
    with pytest.raises(AliascopeError, match="below 24"):
        repair("cifar_resnet8", pictures, out=tmp_path / "large", **{**options, "frame": 24})


def test_a_repair_within_a_smaller_frame_is_trained_on_the_originals_pictures(pictures, tmp_path):
    plan = Plan("cifar_resnet8", {"layer1": "ideal"})
    settings = replace(SETTINGS, steps=2, batch_size=4)
    options = {**QUICK, "plan": plan, "frame": 20, "settings": settings}
    found = repair("cifar_resnet8", pictures, out=tmp_path / "out", **options)
    before = load_model("cifar_resnet8").module.state_dict()
    after = load_model(str(tmp_path / "out" / "model.safetensors")).module.state_dict()
    assert not torch.equal(before["conv1.weight"], after["conv1.weight"])
    assert found.training["steps"] == 2
