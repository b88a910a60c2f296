"""The study: its tables against the runs, and what happens when something is missing."""

import json
import re
import shutil
import sys
from itertools import chain

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats

from aliascope.cli import main
from aliascope.dependence import STATISTICS, distance_correlation, explains
from aliascope.errors import ImageError, ModelError, RunError
from aliascope.figures import FIGURES, _style
from aliascope.measure.batch import LAYER_COLUMNS
from aliascope.measure.store import Run
from aliascope.report import report
from aliascope.results.files import lock, unsealed
from aliascope.spectra import SAMPLED_VARIANTS
from aliascope.study import run_study
from aliascope.study.published import CLASS_MAPS, PUBLISHED
from aliascope.study.settings import PRESETS, ROLES, StudySettings, settings_of
from aliascope.study.study import Study, accuracy, read_csv
from aliascope.study.summary import explained, published

pytestmark = pytest.mark.xdist_group("study")  # one worker makes what all share

COARSE = 60
"""Dots an inch: a figure of 300 takes five times as long."""
TABLES = {
    1: ["phase1_layerwise_avr"],
    2: ["phase2a_frequency_sweep", "phase2b_architecture_comparison"],
    3: ["phase3_layerwise_avr_stats"],
    4: ["phase4_correlation", "phase4_dependence"],
    5: ["phase5_tradeoff"],
}
NETWORKS = """
import torch
from torch import nn

def _stage(channels, out):
    conv = nn.Conv2d(channels, out, 3, 2, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU())

def plain():
    torch.manual_seed(0)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    return nn.Sequential(_stage(3, 6), _stage(6, 8), _stage(8, 8), *head)

def small():
    net = plain()
    net.pretrained_cfg = {"input_size": (3, 64, 64), "crop_pct": 0.5, "mean": (0.5,) * 3}
    return net

def headless():
    return plain()[:-1]

def features():
    return plain()[:-3]
"""


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A folder of labelled pictures, three to a photograph's worth of texture, and two networks."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "studied_networks.py").write_text(NETWORKS)
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    rows = ["file,label"]
    for i in range(12):
        coarse = rng.integers(0, 256, (8 + 4 * i, 8 + 4 * i, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((224, 224), Image.Resampling.BICUBIC)
        picture.save(folder / "pictures" / f"{i:02}.png")
        rows.append(f"{i:02}.png,{i % 3}")
    (folder / "pictures.csv").write_text("\n".join(rows))
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def options(material, **changed):
    return {
        "baseline": "studied_networks:plain",
        "antialiased": "studied_networks:plain@blurpool:3",
        "control": "studied_networks:plain@blurpool:1",
        "images": str(material / "pictures"),
        "preprocess": "resize224",
        "latency_seconds": 0.0,
        "device": "cpu",
    } | changed


@pytest.fixture(scope="module")
def results(material):
    out = material / "results"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_style, "_DPI", COARSE)  # tests/test_figures.py looks at fine ones
        summary = run_study(out=out, **options(material))
    assert summary.failed == {}
    return out


@pytest.fixture
def undrawn(monkeypatch):
    """Names of the figures that would be saved: that takes most of a study's time."""
    names = []
    monkeypatch.setattr("aliascope.study.runner.save", lambda *saved: names.append(saved[-1]))
    return names


def table(results, name):
    return read_csv(results / "tables" / f"{name}.csv")


def images_of(results, role):
    return Run.open(results / "runs" / role).images.set_index("image_id")


def avr_of(results, role, layer, variant="avr"):
    rows = Run.open(results / "runs" / role).layers
    return rows[rows["layer"] == layer].set_index("image_id")[variant].astype(float)


def test_seven_tables_and_fifteen_figures(results):
    assert {file.stem for file in (results / "tables").iterdir()} == {*chain(*TABLES.values())}
    for suffix in ("png", "svg"):
        assert {file.stem for file in (results / "figures").glob(f"*.{suffix}")} == set(FIGURES)
    assert len(FIGURES) == 15
    for file in (results / "figures").glob("*.png"):
        with Image.open(file) as picture:
            assert picture.info["dpi"] == pytest.approx((COARSE, COARSE), abs=0.1)
            assert np.asarray(picture.convert("L")).std() > 5  # something is drawn


def test_known_pictures_alias_fully_or_not_at_all(results):
    first = table(results, "phase1_layerwise_avr").iloc[0]
    known = first[["checkerboard_avr", "constant_avr"]].astype(float).tolist()
    assert known == pytest.approx([1, 0], abs=1e-9)
    assert 0 < first["natural_avr"] < 1


def test_spectra_and_profiles_hold_the_energy_that_the_ratios_share_out(results):
    profiles = read_csv(results / "data" / "phase1_radial_profiles.csv")
    powers = np.load(results / "data" / "phase1_power.npz")
    ratios = table(results, "phase1_layerwise_avr").set_index("layer_name")
    assert set(profiles["input"]) == {"natural", "checkerboard", "constant"}
    for (name, layer), rows in profiles.groupby(["input", "layer_name"]):
        assert rows["energy"].sum() == pytest.approx(1)
        power = powers[f"{name}/{layer}"].astype(float)
        f = np.fft.fftshift(np.fft.fftfreq(len(power))) * 2
        beyond = np.hypot(f[:, None], f) > rows["cutoff"].iloc[0] + 1e-9
        assert power[beyond].sum() / power.sum() == pytest.approx(
            ratios.loc[layer, f"{name}_avr"], abs=1e-5
        )


def test_the_published_sweep(results):
    sweep = table(results, "phase2a_frequency_sweep")
    assert sweep["frequency"].tolist() == pytest.approx(np.linspace(0.1, 0.9, 10))
    expected = [
        "0.0019",
        "0.0026",
        "0.0036",
        "0.0056",
        "0.0135",
        "0.9931",
        "0.9987",
        "0.9992",
        "0.9992",
        "0.9989",
    ]
    assert [f"{x:.4f}" for x in sweep["avr"]] == expected


def test_a_tone_above_the_cutoff_folds(results):
    rows = read_csv(results / "data" / "phase2_folding.csv")
    tone = rows.query("signal == 'tone' and role == 'baseline' and frequency > 0")
    before, after = (tone[tone["where"] == where] for where in ("before", "after"))
    assert before.loc[before["power"].idxmax(), "frequency"] == pytest.approx(0.7, abs=0.01)
    assert after.loc[after["power"].idxmax(), "frequency"] == pytest.approx(0.3, abs=0.01)
    assert after["frequency"].max() == pytest.approx(0.5)
    for _, part in rows.groupby(["role", "signal", "where"]):
        assert part["power"].sum() == pytest.approx(1)


def test_layer_statistics_are_those_of_the_runs(results):
    rows = table(results, "phase3_layerwise_avr_stats")
    assert rows["variant"].tolist()[:6] == ["sampled_avr"] * 3 + ["sampled_avr_box"] * 3
    assert set(rows["variant"]) == {*LAYER_COLUMNS}
    for row in rows.itertuples():
        a = avr_of(results, "baseline", row.layer_name, row.variant)
        b = avr_of(results, "antialiased", row.antialiased_layer, row.variant)
        assert row.baseline_mean == pytest.approx(a.mean())
        assert row.baseline_std == pytest.approx(a.std())
        assert row.antialiased_mean == pytest.approx(b.mean(), abs=1e-5)
        assert row.difference == pytest.approx((b - a).mean(), abs=1e-5)
        assert row.baseline_low <= row.baseline_mean <= row.baseline_high
        assert row.n == row.photographs == 12
        if np.allclose(a, b, atol=1e-5):
            assert (row.t_statistic, row.p_value) == (0, 1)
            continue
        # As published: two samples, baseline − antialiased; the paired one is of B − A.
        assert row.t_statistic == pytest.approx(stats.ttest_ind(a, b).statistic)
        assert row.p_value == pytest.approx(stats.ttest_ind(a, b).pvalue)
        if row.variant.startswith("avr"):  # maps at different places
            assert np.isnan([row.t_paired, row.p_holm, row.difference_low]).all()
        else:
            assert row.t_paired == pytest.approx(stats.ttest_rel(b, a).statistic)


def test_the_control_shows_nothing_where_nothing_was_done(results):
    rows = table(results, "phase3_layerwise_avr_stats").set_index("layer_name")
    sampled = rows[rows["variant"].isin(SAMPLED_VARIANTS)]
    np.testing.assert_allclose(sampled["control_mean"], sampled["baseline_mean"], atol=1e-5)
    assert (sampled["control_difference"] == 0).all()
    assert (sampled["control_p_holm"] == 1).all()
    # What is read moves with the tap although the network is the same.
    read = rows[rows["variant"] == "avr"].drop(index="0.0")
    assert ((read["control_mean"] - read["baseline_mean"]).abs() > 0.01).all()
    assert read["control_p_holm"].isna().all()
    boards = table(results, "phase2b_architecture_comparison").query("variant == 'sampled_avr'")
    np.testing.assert_allclose(boards["control_avr"], boards["baseline_avr"], atol=1e-5)


def test_each_table_and_figure_says_where_it_is_from(results):
    manifest = json.loads((results / "manifest.json").read_text())
    assert set(manifest["tables"]) == {*chain(*TABLES.values())}
    assert set(manifest["figures"]) == set(FIGURES)
    roles = ["runs/baseline", "runs/control", "runs/antialiased"]
    assert manifest["tables"]["phase3_layerwise_avr_stats"]["runs"] == roles
    assert manifest["tables"]["phase2a_frequency_sweep"]["runs"] == []
    for kind in (manifest["tables"], manifest["figures"]):
        for name, entry in kind.items():
            files = [*entry.get("files", [entry.get("file")]), *entry.get("sources", [])]
            for file in (*files, *entry["runs"]):
                assert (results / file).exists(), (name, file)
            assert entry["caption"].endswith(".")
    figures = manifest["figures"]
    assert figures["fig7_layerwise_mean_avr"]["sources"] == [
        "tables/phase3_layerwise_avr_stats.csv"
    ]
    assert figures["fig7_layerwise_mean_avr"]["runs"] == roles
    assert set(figures["fig8_avr_distributions"]["runs"]) == {*roles}
    assert figures["fig14_tradeoff"]["sources"] == [
        "tables/phase5_tradeoff.csv",
        "data/latency.json",
        "data/effects.csv",
    ]
    assert "12 images of pictures" in figures["fig7_layerwise_mean_avr"]["caption"]
    assert "what is decimated" in figures["fig7_layerwise_mean_avr"]["caption"]


def test_the_published_reading_says_what_it_is(material, tmp_path, undrawn):
    chosen = options(material, reading="read", limit=4)
    run_study(out=tmp_path / "out", phases=[2, 3], **chosen)
    for name in ("phase3_layerwise_avr_stats", "phase2b_architecture_comparison"):
        assert table(tmp_path / "out", name)["variant"].tolist()[:3] == ["avr"] * 3
    figures = json.loads((tmp_path / "out" / "manifest.json").read_text())["figures"]
    for name in ("fig5_layerwise_avr_comparison", "fig7_layerwise_mean_avr"):
        said = "what each operation reads, as published: at different places of the two models in 2"
        assert said in figures[name]["caption"]


def test_native_shifts_of_small_pictures_are_not_measured_twice(material, tmp_path):
    study = Study(settings_of("embedded", **options(material, preprocess="model")), tmp_path)
    assert study.shifts == ("crop", "circular")
    assert any("native shifts are crop shifts" in text for text in study.notices)


def test_crop_shifts_lead_and_others_stand_beside(material, tmp_path, undrawn, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    (tmp_path / "large").mkdir()
    for path in sorted((material / "pictures").iterdir())[:4]:
        Image.open(path).resize((300, 300)).save(tmp_path / "large" / path.name)
    chosen = options(material, preprocess="model", images=str(tmp_path / "large"))
    summary = run_study(out=tmp_path / "out", phases=[5], **chosen)
    assert summary.failed == {}
    runs = {path.name: Run.open(path) for path in (tmp_path / "out" / "runs").iterdir()}
    pair = {f"{role}{end}" for role in ROLES for end in ("", "-native", "-circular")}
    assert set(runs) == {*pair, "control"}
    assert {name: run.config["border"] for name, run in runs.items()} == {
        name: name.partition("-")[2] or "crop" for name in runs
    }
    rows = table(tmp_path / "out", "phase5_tradeoff").set_index("role")
    effects = read_csv(tmp_path / "out" / "data" / "effects.csv").set_index("metric")
    for end, shifts in (("", "crop"), ("-native", "native"), ("-circular", "circular")):
        means = {}
        for role in ROLES:
            images = runs[role + end].images
            means[role] = images["logit_instability"].mean()
            suffix = end.replace("-", "_")
            assert rows.loc[role, f"agreement{suffix}"] == pytest.approx(images["agreement"].mean())
            assert rows.loc[role, f"logit_instability{suffix}"] == pytest.approx(means[role])
        change = means["antialiased"] / means["baseline"] - 1
        found = effects.loc[f"logit instability, {shifts}", "change"]
        assert found == pytest.approx(change, abs=1e-5)
    printed = [line for line in str(summary).splitlines() if ", c" in line or ", n" in line]
    titles = [line.split("  ")[0] for line in printed[:8]]
    assert titles == [
        *("logit instability, crop", "agreement, crop", "SIS at confidence ½, crop"),
        "mean SIS, crop",
        *("logit instability, native", "agreement, native"),
        *("logit instability, circular", "agreement, circular"),
    ]
    assert "Paired t-tests under crop shifts: logit instability p = " in " ".join(
        str(summary).split()
    )


def test_without_room_for_crop_shifts_circular_ones_are_named(results):
    record = json.loads((results / "summary.json").read_text())
    assert record["headline"]["shifts"] == ["circular"]
    assert any("no shifts but circular ones" in text for text in record["notices"])


def test_correlations_are_scipys(results):
    for row in table(results, "phase4_correlation").itertuples():
        assert row.variant == "sampled_avr"
        for role, layer in zip(ROLES, (row.layer_name, row.antialiased_layer), strict=True):
            avr = avr_of(results, role, layer, "sampled_avr")
            images = images_of(results, role).loc[avr.index]
            for end, metric in (("", "sis"), ("_logit_instability", "logit_instability")):
                r = stats.pearsonr(avr, images[metric])
                assert getattr(row, f"{role}_r{end}") == pytest.approx(r.statistic)
                low, high = (getattr(row, f"{role}_r{end}_{x}") for x in ("low", "high"))
                assert low < r.statistic < high
                rho = stats.spearmanr(avr, images[metric]).statistic
                assert getattr(row, f"{role}_rho{end}") == pytest.approx(rho)
                # A photograph is one image here.
                assert getattr(row, f"{role}_pearson{end}") == pytest.approx(r.statistic)
                assert getattr(row, f"{role}_spearman{end}") == pytest.approx(rho)
                distance = distance_correlation(avr, images[metric])
                assert getattr(row, f"{role}_dcor{end}") == pytest.approx(distance)
                for name in STATISTICS:
                    p, *corrected = (
                        getattr(row, f"{role}_{name}{end}_p{of}") for of in ("", "_bh", "_holm")
                    )
                    assert 1 / 500 <= p <= corrected[0] <= corrected[1] <= 1
            r = stats.pearsonr(avr, images["sis"])
            assert getattr(row, f"{role}_p") == pytest.approx(r.pvalue)
            assert getattr(row, f"{role}_p_holm") >= r.pvalue


def test_twelve_photographs_say_nothing_of_all_layers_together(results):
    rows = table(results, "phase4_dependence")
    assert rows[["role", "target", "model"]].drop_duplicates().shape == (8, 3)
    assert rows["columns"].tolist() == [15] * 8
    assert rows["photographs"].tolist() == [12] * 8
    assert rows.filter(like="r2").isna().all(axis=None)
    assert explained(rows.to_dict("records")) == ""


def test_all_layers_together_are_those_of_the_runs(
    results, material, tmp_path, undrawn, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr("aliascope.dependence.FEWEST_TOGETHER", 12)
    monkeypatch.setattr("aliascope.dependence.REFITS", 1)
    shutil.copytree(results, tmp_path / "out")
    summary = run_study(out=tmp_path / "out", phases=[4], **options(material))
    rows = table(tmp_path / "out", "phase4_dependence")
    layers = table(results, "phase4_correlation")
    for role, column in zip(ROLES, ("layer_name", "antialiased_layer"), strict=True):
        images = images_of(results, role)
        values = pd.DataFrame(
            {
                (name, layer): avr_of(results, role, layer, name)
                for name in SAMPLED_VARIANTS
                for layer in layers[column]
            }
        ).loc[images.index]
        target = np.log(images["logit_instability"])
        expected = explains(values, target, images["group"], given=images["confidence"])
        found = rows[(rows["role"] == role) & (rows["target"] == "log logit_instability")]
        assert found["model"].tolist() == list(expected.index) == ["ridge", "boosting"]
        # Of twelve photographs rounding decides where trees split: of these, ridge alone is exact.
        for name in ("r2", "r2_beyond"):
            ridge, boosting = found[name]
            assert ridge == pytest.approx(expected[name]["ridge"], abs=1e-5)
            assert np.isfinite(boosting)
        assert found["r2_confidence"].tolist() == pytest.approx(expected["r2_given"].tolist())
        said = f"{role} R² {expected.loc['ridge', 'r2']:.3f} (permutation p "
        assert said in str(summary)
        page = report(tmp_path / "out", out=tmp_path / "report.html").read_text()
        assert said in page


def test_the_tradeoff_is_that_of_the_runs(results):
    rows = table(results, "phase5_tradeoff").set_index("role")
    effects = read_csv(results / "data" / "effects.csv").set_index("metric")
    images = {role: images_of(results, role) for role in ROLES}
    for role, frame in images.items():
        assert rows.loc[role, "mean_sis"] == pytest.approx(frame["sis"].mean())
        assert rows.loc[role, "agreement"] == pytest.approx(frame["agreement"].mean())
        # The folder has three classes, as the networks have: their indices fit.
        right = (frame["prediction"] == frame["label"]).mean()
        assert rows.loc[role, "accuracy"] == pytest.approx(right)
        assert rows.loc[role, "latency_low_ms"] <= rows.loc[role, "latency_ms"]
        assert rows.loc[role, "parameters"] == 162 + 12 + 432 + 16 + 576 + 16 + 24 + 3
    a, b = (images[role].sort_index() for role in ROLES)
    kept = (a["prediction"] == b["prediction"]).mean()
    assert rows["predictions_kept"].tolist() == pytest.approx([1, kept])
    change = b["sis"].mean() / a["sis"].mean() - 1
    assert effects.loc["mean SIS, circular", "change"] == pytest.approx(change)
    assert {"latency, batch 1", "latency, batch 32", "error rate"} <= set(effects.index)


def test_the_report_draws_accuracy_against_stability(results, tmp_path):
    html = report(results, out=tmp_path / "report.html").read_text()
    title = "<title>top-1 against logit instability</title>"
    chart = html.partition(title)[2].partition("</svg>")[0]
    rows = table(results, "phase5_tradeoff").set_index("role")
    control = images_of(results, "control")
    wanted = {role: (row["logit_instability"], row["accuracy"]) for role, row in rows.iterrows()}
    right = (control["prediction"] == control["label"]).mean()
    wanted["control"] = (control["logit_instability"].mean(), right)
    for role, (x, y) in wanted.items():
        said = re.search(rf"<title>{role}: (\S+), \S+ to \S+; (\S+), ", chart)
        assert [float(number) for number in said.groups()] == pytest.approx([x, y], rel=1e-3)


def test_the_summary_says_what_the_tables_say(results):
    record = json.loads((results / "summary.json").read_text())
    assert set(record["seconds"]) == set("12345")
    rows = table(results, "phase5_tradeoff").set_index("role")
    assert record["headline"]["mean_sis"] == pytest.approx(rows["mean_sis"].to_dict())
    assert record["headline"]["n"] == record["images"]["baseline"] == 12
    assert record["study"] == unsealed((results / "study.json").read_bytes())
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert record["published"] == []  # another pair of models
    assert record["phases"] == dict.fromkeys("12345", "complete")


@pytest.fixture(scope="module")
def again(results, material):
    """The tables before, and the summary of the same study where nothing can be measured."""
    before = {file: file.read_bytes() for file in (results / "tables").iterdir()}

    def never(*args, **kwargs):
        raise AssertionError("measured again")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("aliascope.study.runner.save", lambda *_: None)
        patched.setattr(sys.modules["aliascope.measure"], "rows_of", never)
        patched.setattr("aliascope.study.phase5_intervention.bench", never)
        return before, run_study(out=results, **options(material))


def test_nothing_is_measured_twice(again):
    before, summary = again
    assert summary.failed == {}
    assert {file: file.read_bytes() for file in before} == before


def test_the_closing_table(again, results, material, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    printed = str(again[1])
    effects = read_csv(results / "data" / "effects.csv").set_index("metric")
    sis = table(results, "phase5_tradeoff")["mean_sis"]
    line = next(line for line in printed.splitlines() if line.startswith("mean SIS"))
    assert line.split()[3:5] == [f"{x:.4f}" for x in sis]
    assert f"{effects.loc['mean SIS, circular', 'change']:+.1%}" in line
    assert "12 images of pictures" not in printed  # the full source is named
    assert str(material / "pictures") in printed
    assert str(results) in printed


@pytest.mark.slow
def test_a_killed_study_goes_on(results, material, tmp_path, monkeypatch, undrawn):
    out, module = tmp_path / "results", sys.modules["aliascope.measure"]
    rows_of, calls = module.rows_of, []

    def dies(*args, **options):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return rows_of(*args, **options)

    monkeypatch.setattr(module, "rows_of", dies)
    with pytest.raises(KeyboardInterrupt):
        run_study(out=out, phases=[3], **options(material))
    assert 0 < len(Run.open(out / "runs" / "baseline").images) < 12
    run_study(out=out, phases=[3], **options(material))
    pd.testing.assert_frame_equal(
        table(out, "phase3_layerwise_avr_stats"), table(results, "phase3_layerwise_avr_stats"),
        rtol=1e-3,
    )  # fmt: skip


@pytest.mark.slow
def test_figures_only_needs_no_model(results, monkeypatch):
    figures = {file: file.read_bytes() for file in (results / "figures").glob("*.png")}
    savefig = Figure.savefig
    tables = {file: file.read_bytes() for file in (results / "tables").iterdir()}

    def never(*args, **kwargs):
        raise AssertionError("loaded a model")

    def only_png(figure, file, **options):
        if file.suffix == ".png":  # to draw the same again as svg takes as long
            savefig(figure, file, **options)

    monkeypatch.setattr(_style, "_DPI", COARSE)
    monkeypatch.setattr("aliascope.study.study.load_model", never)
    monkeypatch.setattr(Figure, "savefig", only_png)
    for file in figures:
        file.unlink()
    assert run_study(out=results, figures_only=True).failed == {}
    assert {file: file.read_bytes() for file in figures} == figures
    assert {file: file.read_bytes() for file in tables} == tables


def test_figures_only_says_what_is_missing(tmp_path, material, undrawn):
    with pytest.raises(RunError, match="holds no study: run `aliascope study"):
        run_study(out=tmp_path / "nothing", figures_only=True)
    out = tmp_path / "results"
    run_study(out=out, phases=[2], **options(material))
    failed = run_study(out=out, figures_only=True).failed
    assert set(failed) == {"1", "3", "4", "5"}
    # Phases that are run one at a time are all on record in the end.
    run_study(out=out, phases=[1], **options(material))
    record = json.loads((out / "summary.json").read_text())
    assert record["phases"] == {"1": "complete", "2": "complete"}
    assert "results/data/phase1" in failed["1"]
    assert "is missing" in failed["1"]


@pytest.mark.parametrize("phase", TABLES)
def test_each_phase_stands_alone(phase, material, tmp_path, undrawn):
    chosen = options(material, limit=4, control=None)
    summary = run_study(out=tmp_path / "out", phases=[phase], **chosen)
    assert summary.failed == {}
    written = {file.stem for file in (tmp_path / "out" / "tables").iterdir()}
    extra = TABLES[3] if phase == 5 else []  # its figures show what phase 3 found
    assert written == {*TABLES[phase], *extra}
    assert len(undrawn) == 3
    assert "mean SIS" in str(summary) if phase == 5 else "mean SIS" not in str(summary)


def test_another_study_is_refused(results, material):
    with pytest.raises(RunError, match=r"another configuration \(limit: None → 5; sweep: 10 → 3\)"):
        run_study(out=results, **options(material, limit=5, sweep=3))


def test_a_network_without_classes_still_shows_its_aliasing(material, tmp_path, undrawn):
    spec = "studied_networks:features"
    pair = {"baseline": spec, "antialiased": f"{spec}@blurpool:3", "limit": 4}
    pair["control"] = f"{spec}@blurpool:1"
    summary = run_study(out=tmp_path / "out", **options(material, **pair))
    assert set(summary.failed) == {"4", "5"}
    assert "is no classifier" in summary.failed["4"]
    assert "fig8_avr_distributions" in undrawn


def test_mistakes_become_one_sentence(material, tmp_path, undrawn):
    with pytest.raises(RunError, match="unknown phase 7: choose from 1 to 5"):
        run_study(out=tmp_path, phases=[1, 7], **options(material))
    with pytest.raises(RunError, match="unknown preset 'papper'; choose from embedded"):
        run_study("papper", out=tmp_path)
    with pytest.raises(RunError, match="unknown class map 'stl'; choose from stl10"):
        run_study(out=tmp_path, **options(material, class_map="stl"))
    with pytest.raises(RunError, match="no shifts measure no stability"):
        run_study(out=tmp_path, **options(material, shifts=()))
    with pytest.raises(ModelError, match="unknown model"):
        run_study(out=tmp_path / "typo", **options(material, baseline="timm:resnet5"))
    # A mistake leaves nothing behind that its correction would be held against.
    run_study(out=tmp_path / "typo", phases=[2], **options(material, sweep=2))
    with pytest.raises(RunError, match=r"holds other files \(typo\) and no study\.json"):
        run_study(out=tmp_path, **options(material))
    held = lock(tmp_path / "typo", "study.json")
    with pytest.raises(RunError, match="is being written by another process"):
        run_study(out=tmp_path / "typo", **options(material, sweep=2))
    held.release()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "study.json").write_text("{")
    with pytest.raises(RunError, match=r"study\.json cannot be read"):
        run_study(out=tmp_path / "bad", figures_only=True)


def test_both_models_see_the_same_pixels(material, tmp_path):
    chosen = options(material, preprocess="model", antialiased="studied_networks:small@blurpool:3")
    study = Study(settings_of("embedded", **chosen), tmp_path)
    assert study.models["antialiased"].preprocessing.crop == (64, 64)
    assert study.preprocessing == study.models["baseline"].preprocessing
    assert {instrument.preprocessing for instrument in study.instruments.values()} == {
        study.preprocessing
    }


def test_presets():
    assert PRESETS["embedded"].control == "efficientnet_lite0@blurpool:1"
    assert settings_of("embedded", baseline="timm:resnet18").control is None
    assert {name: settings.reading for name, settings in PRESETS.items()} == {
        "embedded": "sampled",
        "paper": "read",
        "matched": "sampled",
    }
    assert PRESETS["paper"].shifts == ("circular",)
    assert StudySettings("a", "b").shifts[0] == "crop"
    assert PRESETS["paper"].antialiased == "antialiased:resnet50"
    assert settings_of("paper").class_map == "stl10"
    assert settings_of("paper", images="photos").class_map is None
    assert settings_of("paper").limit == 1000
    assert settings_of("embedded", limit=3, weights=None) == settings_of("embedded", limit=3)


def test_the_class_map_names_what_it_means():
    torchvision = pytest.importorskip("torchvision")
    names = torchvision.models.ResNet50_Weights.DEFAULT.meta["categories"]
    stl10 = CLASS_MAPS["stl10"]
    assert list(stl10) == [
        "airplane",
        "bird",
        "car",
        "cat",
        "deer",
        "dog",
        "horse",
        "monkey",
        "ship",
        "truck",
    ]
    assert len(set().union(*stl10.values())) == sum(map(len, stl10.values()))  # no class twice
    for label, some in {
        "airplane": ["airliner", "warplane"],
        "bird": ["robin", "flamingo", "king penguin", "albatross", "cock", "great grey owl"],
        "car": ["sports car", "convertible", "minivan", "Model T"],
        "cat": ["tabby", "Egyptian cat"],
        "deer": ["impala", "gazelle", "hartebeest"],
        "dog": ["Chihuahua", "Mexican hairless", "beagle"],
        "horse": ["sorrel"],
        "monkey": ["guenon", "squirrel monkey", "baboon"],
        "ship": ["liner", "container ship", "yawl", "speedboat"],
        "truck": ["fire engine", "garbage truck", "trailer truck", "tow truck", "moving van"],
    }.items():
        assert {names.index(name) for name in some} <= stl10[label], label
    assert not {
        names.index(name) for name in ("timber wolf", "zebra", "cougar", "gorilla", "kite")
    } & (stl10["dog"] | stl10["horse"] | stl10["cat"] | stl10["monkey"])


def test_accuracy_through_the_class_map():
    images = pd.DataFrame({"label": [0, 0, 9, None, 3], "prediction": [404, 281, 569, 1, None]})
    found = accuracy(images.astype("Int64"), "stl10")
    assert found.tolist() == pytest.approx([1, 0, 1, np.nan, np.nan], nan_ok=True)
    with pytest.raises(ImageError, match="labels 0 to 9, but an image has 10"):
        accuracy(pd.DataFrame({"label": [10], "prediction": [1]}), "stl10")
    assert accuracy(pd.DataFrame({"label": [10]}), None).isna().all()


def test_the_published_figures_stand_beside_ours(tmp_path):
    study = Study(settings_of("paper"), tmp_path)
    assert published(study) == []  # nothing is measured yet
    layers = list(PUBLISHED["layers"])
    study.write_table(
        "phase3_layerwise_avr_stats",
        pd.DataFrame({"layer_name": layers, "variant": "avr", "t_statistic": 1.0}).assign(
            baseline_mean=0.5, baseline_std=0.1, antialiased_mean=0.25, antialiased_std=0.1
        ),
        caption="",
        runs=[],
    )
    rows = {row["figure"]: row for row in published(study)}
    assert len(rows) == 7 * 5
    assert rows["conv1 AVR mean baseline"] == {
        "figure": "conv1 AVR mean baseline",
        "published": 0.0036,
        "here": 0.5,
        "difference": pytest.approx(0.4964),
    }
    assert rows["layer4.0.downsample.0 t"]["published"] == -229.48


def test_the_published_headline_adds_up():
    sis, latency = PUBLISHED["mean_sis"], PUBLISHED["latency_ms"]
    change = sis["antialiased"] / sis["baseline"] - 1
    assert PUBLISHED["change_of_sis"] == pytest.approx(change, abs=1e-3)
    change = latency["antialiased"] / latency["baseline"] - 1
    assert PUBLISHED["change_of_latency"] == pytest.approx(change, abs=1e-3)


def run_cli(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["aliascope", *map(str, arguments)])
    with pytest.raises(SystemExit) as leaving:
        main()
    return leaving.value.code


def test_the_command_line(material, tmp_path, monkeypatch, capsys, undrawn):
    spec, out = "studied_networks:features", tmp_path / "out"
    arguments = ["study", "--baseline", spec, "--antialiased", f"{spec}@blurpool", "--limit", 3]
    arguments += ["--images", material / "pictures", "--device", "cpu", "--out", out]
    assert run_cli(monkeypatch, *arguments, "--phases", "2,4", "--json") == 1  # no classifier
    printed = capsys.readouterr()
    record = json.loads(printed.out)
    assert record["phases"]["2"] == "complete"
    told = "phase 4: studied_networks:features is no classifier: shift stability needs"
    assert told in " ".join(printed.err.split())
    assert run_cli(monkeypatch, *arguments, "--phases", "1,three") == 2
    assert run_cli(monkeypatch, *arguments, "--phases", "9") == 1
    assert "unknown phase 9" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_a_time_below_nothing_leaves_no_study_behind(tmp_path, seconds):
    """Nor a study.json that would refuse the same command, put right."""
    with pytest.raises(RunError, match=rf"latency_seconds must be at least 0, got {seconds:g}"):
        run_study(out=tmp_path / "out", latency_seconds=seconds)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_published_protocol_runs_through(tmp_path, published):
    pytest.importorskip("antialiased_cnns")
    summary = run_study(
        "paper",
        out=tmp_path / "paper",
        weights="random",
        images=str(published / "stl10_test_first1000"),
        limit=50,
        class_map="stl10",
        latency_seconds=0.0,
    )
    assert summary.failed == {}
    assert not any("left open" in text for text in summary.record["notices"])  # it has a class map
    stats_of = table(tmp_path / "paper", "phase3_layerwise_avr_stats").query("variant == 'avr'")
    assert stats_of["layer_name"].tolist() == list(PUBLISHED["layers"])
    conv1 = stats_of.iloc[0]
    assert conv1["baseline_mean"] == conv1["antialiased_mean"]
    assert (conv1["t_statistic"], conv1["p_value"]) == (0, 1)
    assert len(summary.record["published"]) == 7 + 7 * 6
