"""A cluster of Ray's: the rows of one process, whatever node or process dies."""

import signal
import sys
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch import nn

import faults
from aliascope import Run, RunError, measure
from test_shards import check_equal, measured, net

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(1800)]
OPTIONS = {"limit": 12, "device": "cpu", "batch_size": 2, "engine": "ray"}


@pytest.fixture
def cluster(monkeypatch):
    """Three nodes that are joined by address, of two CPUs each."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))  # what nodes unpickle lies in tests/
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    made.nodes = [made.add_node(num_cpus=1), made.add_node(num_cpus=1)]
    yield made
    ray.shutdown()
    made.shutdown()


class Slow(nn.Module):
    """Takes its time, so that a node dies in the middle."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        time.sleep(0.3)
        return self.net(x)


def renamed(run):
    names = run.layers["layer"].astype(str).str.removeprefix("net.")
    run.__dict__["layers"] = run.layers.assign(layer=names)
    return run


def test_three_nodes_of_which_one_dies(tmp_path, cluster):
    alone = measured(None, limit=12)
    killer = threading.Timer(
        20, lambda: cluster.remove_node(cluster.nodes[0], allow_graceful=False)
    )
    killer.start()
    run = measure(Slow(), "photos", out=tmp_path, address=cluster.address, **OPTIONS)
    killer.join()
    assert cluster.nodes[0] not in cluster.list_all_nodes()
    check_equal(renamed(run), alone)
    assert not list(tmp_path.glob("shard-*"))


def drive(out, address):
    measure(Slow(), "photos", out=out, address=address, **OPTIONS)


def test_the_driver_is_killed_and_started_again(tmp_path, cluster):
    with faults.served(), faults.process(drive, tmp_path, cluster.address) as child:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("images/part-*")) and time.monotonic() < deadline:
            time.sleep(0.1)
    assert child.exitcode == -signal.SIGKILL
    with suppress(RunError):  # not all of its shards have begun
        assert 0 < len(Run.open(tmp_path).images) < 12
    drive(tmp_path, cluster.address)
    check_equal(renamed(Run.open(tmp_path)), measured(None, limit=12))


def test_what_a_shard_cannot_do_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    (tmp_path / "photos").mkdir()
    for name in "abcdefghijkl":
        (tmp_path / "photos" / f"{name}.png").write_bytes(b"no picture")
    with pytest.raises(Exception, match=r"no image of .* could be measured"):
        measure(net(), tmp_path / "photos", out=tmp_path / "run", device="cpu", engine="ray")


def test_no_cluster_there(tmp_path):
    with pytest.raises(RunError, match="no Ray cluster at auto"):
        measure(net(), "photos", out=tmp_path, address="auto", **OPTIONS)


def test_a_directory_is_needed():
    torch.manual_seed(0)
    with pytest.raises(RunError, match="a run on Ray needs a directory that all nodes see"):
        measure(net(), "photos", **OPTIONS)


def test_workers_killed_at_random_moments(tmp_path, cluster, capsys):
    """Four runs, of which each loses five of its processes."""
    import psutil

    chance, killed, start = np.random.default_rng(0), 0, time.monotonic()
    alone = measured(None, limit=12)
    for number in range(4):
        ended = threading.Event()

        def hunt(ended=ended):
            nonlocal killed
            left = 5
            while left and not ended.wait(chance.uniform(0.5, 2)):
                tasks = [p for p in psutil.process_iter() if "_measure_shard" in p.name()]
                for task in tasks[:1]:
                    with suppress(psutil.NoSuchProcess):
                        task.kill()
                        left, killed = left - 1, killed + 1

        hunter = threading.Thread(target=hunt)
        hunter.start()
        out = tmp_path / str(number)
        run = measure(Slow(), "photos", out=out, address=cluster.address, **OPTIONS)
        ended.set()
        hunter.join()
        check_equal(renamed(run), alone)
    with capsys.disabled():
        sys.stdout.write(f"\n| Ray | {killed} kills | 4 directories | equal | "
                         f"{time.monotonic() - start:.0f} s |\n")  # fmt: skip
    assert killed >= 20
