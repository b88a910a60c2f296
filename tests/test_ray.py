"""A cluster of Ray's: the rows of one process, whatever node or process dies."""

import sys
import threading
import time

import pytest
import torch
from torch import nn

from aliascope import RunError, measure
from test_shards import check_equal, measured, net

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]
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
