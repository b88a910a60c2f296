"""Export networks to every target, prove the files, and time them against the original's.

    python benchmarks/bench_export.py [--targets onnx,openvino] [--models SPEC,SPEC]
        [--methods ideal,aps] [--limit 53] [--seconds 10] [--out docs/studies/export/export.json]

A row a target and network, ratios to the first network's export: of each target all files run in
turn. Of each method, on a small network: which operators it adds to the ONNX file, which of them
TensorRT lacks by its list, and whether coremltools converts it (neither is run). Rows that are
there already are replaced, others kept, so that targets can be done one by one. --seconds 0 times
nothing, --methods none leaves the second table as it is.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch

import aliascope
from aliascope.errors import AliascopeError
from aliascope.export import TARGETS, running
from aliascope.export.targets import quiet
from aliascope.layers import LAYERS
from aliascope.runtime import environment, keep_memory

MODELS = (
    "efficientnet_lite0", "efficientnet_lite0_ideal", "efficientnet_lite0@blurpool:3",
    "efficientnet_lite0@folded:3", "efficientnet_lite0@ideal", "efficientnet_lite0@aps:3",
    "efficientnet_lite0@folded:1",
)  # fmt: skip
SMALL = "cifar_resnet8"
LACKING = {
    "AffineGrid", "Bernoulli", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor",
    "CenterCropPad", "Col2Im", "Compress", "ConvInteger", "DFT", "Det", "DynamicQuantizeLinear",
    "MatMulInteger", "MaxRoiPool", "MaxUnpool", "Multinomial", "QLinearConv", "QLinearMatMul",
    "Unique",
}  # fmt: skip
"""Operators that the list of onnx-tensorrt for TensorRT 10.15 (docs/operators.md) marks with N."""


def main():
    reader = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    reader.add_argument("--targets", default=",".join(TARGETS))
    reader.add_argument("--models", default=",".join(MODELS))
    reader.add_argument("--methods", default=",".join(LAYERS))
    reader.add_argument("--limit", type=int, default=53)
    reader.add_argument("--seconds", type=float, default=10)
    reader.add_argument("--out", type=Path, default=Path("docs/studies/export/export.json"))
    given = reader.parse_args()
    keep_memory()
    for target in given.targets.split(","):
        of_target(target, given.models.split(","), given)
    for method in given.methods.split(","):
        if method in LAYERS:
            keep(given.out, "methods", ("method",), of_method(method))


def of_target(target, models, given):
    """Each network's file, proven, and all of them timed in turn."""
    try:
        TARGETS[target].check()
    except AliascopeError as error:
        print(f"{target}: {error}")
        return
    files, done = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number, spec in enumerate(models):
            loaded = aliascope.load_model(spec)
            path = Path(folder) / f"{number}{TARGETS[target].suffix}"
            made = aliascope.export(loaded, path, target, limit=given.limit)
            done.append(made)
            keep(given.out, "rows", ("target", "model"), row_of(made))
            with quiet():
                run = TARGETS[target].load(path)
            files.append(running(loaded, loaded.preprocessing, run))
        if not given.seconds:
            return
        timed = aliascope.bench(files, batch_sizes=[1], seconds=given.seconds, device="cpu")
    for notice in timed.notices:
        print(f"{target}: {notice}")
    of = timed.table.set_index("model")
    for made in done:
        names = ["ms_image", "ratio", "ratio_low", "ratio_high", "rounds", "spread"]
        values = {name: float(of.loc[made.model, name]) for name in names}
        keep(given.out, "rows", ("target", "model"), row_of(made) | values)


def row_of(made):
    """The figures of one file."""
    exact = made.table[made.table["precision"] == "f32"]
    usual = made.table[made.table["precision"] == "default"]
    return {
        "target": made.target,
        "model": made.model,
        "opset": made.info.get("opset"),
        "megabytes": made.size / 1e6,
        "pictures": int(exact["pictures"].max()),
        "error": float(exact["error"].max()),
        "agreement": float(exact["agreement"].min()),
        "error_by_default": float(usual["error"].max()) if len(usual) else None,
        "versions": made.info["versions"],
        "operators": made.info["operators"],
    }


def of_method(method):
    """What a filter adds to a small network's ONNX file, and whether others would take it."""
    with tempfile.TemporaryDirectory() as folder:
        plain, filtered = (
            aliascope.export(spec, Path(folder) / "net.onnx", limit=1).info["operators"]
            for spec in (SMALL, f"{SMALL}@{method}")
        )
    return {
        "method": method,
        "added": sorted(set(filtered) - set(plain)),
        "tensorrt_lacks": sorted(LACKING & set(filtered)),
        "coreml": coreml(f"{SMALL}@{method}"),
    }


def coreml(spec):
    """Whether coremltools converts it; None where that is not installed."""
    try:
        with quiet():
            import coremltools
    except ModuleNotFoundError:
        return None
    loaded = aliascope.load_model(spec)
    x = torch.rand(2, *loaded.example().shape[1:])
    batch = torch.export.Dim("batch", max=8)
    try:
        with quiet():
            program = torch.export.export(
                loaded.module, (x,), dynamic_shapes=({0: batch},), strict=False
            )
            coremltools.convert(program.run_decompositions({}), convert_to="mlprogram")
    except Exception as error:  # noqa: BLE001 - converters raise anything
        print(f"{spec} to Core ML: {error}")
        return f"no ({type(error).__name__})"
    return f"yes (coremltools {coremltools.__version__})"


def keep(out, table, keys, row):
    """Put a row in its place of the file."""
    record = json.loads(out.read_text()) if out.exists() else {}
    record["environment"] = environment(torch.device("cpu"))
    del record["environment"]["command"]
    rows = {tuple(each[key] for key in keys): each for each in record.get(table, [])}
    rows[tuple(row[key] for key in keys)] = row
    record[table] = [*rows.values()]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print(*(f"{row[key]}" for key in keys), row.get("error", row.get("added")), flush=True)


if __name__ == "__main__":
    main()
