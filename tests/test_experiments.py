"""The scripts of experiments/ import what exists; what they find out takes hours."""

import json
import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from aliascope import load_model

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
SCRIPTS = sorted(EXPERIMENTS.glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_says_how_it_is_called(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.syspath_prepend(EXPERIMENTS)  # as python does: they import each other
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    assert f"usage: {script.name}" in capsys.readouterr().out


def test_the_readme_names_each_script_and_its_command():
    readme = (EXPERIMENTS / "README.md").read_text()
    for script in SCRIPTS:
        assert f"| `{script.name}` |" in readme
        assert f"python experiments/{script.name} " in readme


@pytest.mark.parametrize("share", [0, 0.25, 1])
def test_weights_lie_on_the_line_between_two_networks(monkeypatch, share):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    from embedded_pair import between

    one, other = (nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)) for _ in range(2))
    with torch.no_grad():
        for net, value in ((one, 1.0), (other, 3.0)):
            for x in net.parameters():
                x.fill_(value)
    other[1].num_batches_tracked += 7
    mixed = between(one, other, share)
    assert {x.item() for x in mixed.parameters()} == {1 + 2 * share}
    assert mixed[1].num_batches_tracked == 7
    assert {x.item() for x in other.parameters()} == {3.0}


@pytest.fixture
def training(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    threads = torch.get_num_threads()
    import train_downsamplers

    yield train_downsamplers
    torch.set_num_threads(threads)


def run(monkeypatch, script, *words):
    monkeypatch.setattr(sys, "argv", [script, *map(str, words)])
    runpy.run_path(str(EXPERIMENTS / script), run_name="__main__")


class TestTheTrainedComparison:
    def test_windows_hold_pixels_of_their_picture_alone(self, training):
        rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
        pictures = torch.stack([rows, columns, torch.zeros_like(rows)]).byte().repeat(200, 1, 1, 1)
        pictures[:, 2] = torch.arange(200).byte()[:, None, None]
        cut = training.windows(pictures, torch.Generator().manual_seed(0)).int()
        assert cut.shape == (200, 3, 24, 24)
        assert torch.equal(cut[:, 2, 0, 0], torch.arange(200).int())
        assert (cut[:, 0].diff(dim=1) == 1).all()
        step = cut[:, 1].diff(dim=2)[:, :1, :1]
        assert (cut[:, 1].diff(dim=2) == step).all()
        assert 60 < (step == -1).sum() < 140  # mirrored
        assert set(cut[:, 0, 0, 0].tolist()) == set(range(9))

    def test_a_seed_gives_all_methods_the_same_weights_and_batches(self, training, tmp_path):
        nets = {
            m: load_model(training.spec_of(m), weights="random", seed=3) for m in ("aps", "strided")
        }
        assert sum(p.numel() for p in nets["strided"].module.parameters()) < 80_000
        for name, weight in nets["strided"].module.state_dict().items():
            assert torch.equal(weight, nets["aps"].module.state_dict()[name])
        seen = {}
        pixels = torch.randint(256, (128, 3, 32, 32), dtype=torch.uint8)
        for method, model in nets.items():
            seen[method] = []
            handle = model.module.conv1.register_forward_pre_hook(
                lambda _, args, kept=seen[method]: kept.append(args[0].clone())
            )
            training.train(model, pixels, torch.arange(128) % 10, epochs=1, seed=3, device="cpu")
            handle.remove()
        assert len(seen["aps"]) == 2
        assert all(map(torch.equal, seen["aps"], seen["strided"]))

    def test_only_strided_kernels_vary(self, training):
        import kernels

        built = load_model(training.spec_of("strided"), weights="random", seed=2)
        for side in kernels.SIDES:
            net = kernels.network(side, 2).module
            assert net(torch.rand(2, 3, 24, 24)).shape == (2, 10)
            for name, weight in built.module.state_dict().items():
                mine = net.state_dict()[name]
                if name in ("layer1.conv1.weight", "layer2.conv1.weight"):
                    assert mine.shape[2:] == (side, side)
                    assert torch.equal(mine, weight) == (side == kernels.BUILT)
                    spread = mine.std() * (weight.shape[1] * side**2) ** 0.5
                    assert spread == pytest.approx(3**-0.5, rel=0.1)  # torch's own
                else:
                    assert torch.equal(mine, weight)

    @pytest.mark.slow
    def test_kernels_are_trained_and_compared(self, training, tiny_cifar, tmp_path, monkeypatch):
        monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
        runs, table = tmp_path / "runs", tmp_path / "kernels.csv"
        words = [tiny_cifar, "--out", runs, "--seeds", 2, "--epochs", 1, "--limit", 20]
        run(monkeypatch, "kernels.py", *words, "--workers", 1, "--table", table)
        rows = pd.read_csv(table).set_index(["stage", "kernel", "figure"])
        assert rows.loc[("trained", 3), "difference"].eq(0).all()  # itself
        assert rows.loc[("trained", 5, "logit_instability"), "groups"] == 2
        assert {stage for stage, _, _ in rows.index} == {"initial", "trained"}
        times = {path: path.stat().st_mtime_ns for path in runs.glob("*.json")}
        run(monkeypatch, "kernels.py", *words, "--workers", 1, "--table", table)
        assert {path: path.stat().st_mtime_ns for path in runs.glob("*.json")} == times

    @pytest.mark.slow
    def test_it_trains_goes_on_and_is_judged(self, training, tiny_cifar, tmp_path, monkeypatch):
        monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
        runs, more, out = (tmp_path / name for name in ("runs", "more", "out"))
        words = [tiny_cifar, "--methods", "strided", "blurpool", "--workers", 1]
        trained = [*words, "--seeds", 2, "--epochs", 1, "--out"]
        run(monkeypatch, "train_downsamplers.py", *trained, runs)
        kept = self.written(runs)
        assert len(kept) == 8
        (runs / "blurpool-1.json").unlink()
        run(monkeypatch, "train_downsamplers.py", *trained, runs)
        assert self.written(runs) == kept
        run(monkeypatch, "train_downsamplers.py", *trained, more, "--start", runs)
        assert json.loads((more / "strided-0.json").read_text())["epochs"] == 2
        assert self.written(more)["strided-0.safetensors"] != kept["strided-0.safetensors"]
        judge = [tiny_cifar, runs, *words[1:], "--limit", 20, "--out", out]
        run(monkeypatch, "spectral_delegation.py", *judge)
        self.check_tables(out)

    def written(self, runs):
        """What lies in a folder of networks, but for times."""
        files = {path.name: path.read_bytes() for path in runs.glob("*-*")}
        for name in [name for name in files if name.endswith(".json")]:
            record = json.loads(files[name])
            files[name] = {key: x for key, x in record.items() if "seconds" not in key}
        return files

    def check_tables(self, out):
        tables = {path.stem: pd.read_csv(path) for path in out.glob("*.csv")}
        places = tables["places"]
        assert len(places) == 2 * 5 * 4
        strided = places[places["method"] == "strided"]
        assert (strided["fed_avr"] == strided["sampled_avr"]).all()
        blurred = places[places["method"] == "blurpool"]
        assert (blurred["fed_avr"] > blurred["sampled_avr"]).all()
        first = places[(places["place"] == "layer1.downsample.0") & (places["stage"] == "initial")]
        fed = first.groupby("seed")["fed_avr"]
        assert (fed.max() - fed.min() < 1e-4).all()  # nothing differs in front of it
        rows = tables["delegation"].set_index(["comparison", "figure", "method", "place"])
        row = rows.loc[("in all", "fed_avr", "blurpool", "layer2.conv1")]
        here = places[(places["place"] == "layer2.conv1") & (places["stage"] == "trained")]
        means = here.groupby("method")["fed_avr"].mean()
        assert row["mean_a"] == pytest.approx(means["strided"], rel=1e-4)
        assert row["difference"] == pytest.approx(means["blurpool"] - means["strided"], rel=1e-2)
        assert row["groups"] == 2
        depths = tables["depths"].set_index(["method", "seed", "stride"])
        trained = here.set_index(["method", "seed"]).index
        assert {*depths.index} == {(*one, stride) for one in trained for stride in (2, 4)}
        assert (depths["equivariance_behind"] > 0).all()
        assert (out / "delegation.png").stat().st_size > 10_000
