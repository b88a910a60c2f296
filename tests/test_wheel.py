"""The wheel works alone: installed elsewhere, without the source folder or the tools of tests."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = """
import sys
sys.modules.update(dict.fromkeys(["pytest", "hypothesis", "beartype", "statsmodels"]))
import aliascope
assert aliascope.__file__.startswith(sys.argv[1]), aliascope.__file__
run = aliascope.measure("efficientnet_lite0_ideal", "photos", limit=2, device="cpu")
print(len(run.images), len(run.layers))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    subprocess.run([*command, "--directory", str(out)], cwd=ROOT, check=True, capture_output=True)
    return next(out.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_measures_without_the_source_folder(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        names = archive.namelist()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests", "benchmarks"))]
    command = [sys.executable, "-c", CODE, str(tmp_path / "site")]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={
            "PYTHONPATH": str(tmp_path / "site"),
            "PATH": "/usr/bin:/bin",
            "OMP_NUM_THREADS": "1",  # as of a worker
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["2", "10"], done.stderr
