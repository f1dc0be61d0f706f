"""The files that start clusters, as far as that can be said without one."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from posttrain.cluster.environment import SETTINGS

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "docs" / "cluster"
OF_NODES = {  # what has to be set before `ray start`; posttrain sets the rest in its own process
    "RAY_worker_niceness", "RAY_task_events_report_interval_ms", "RAY_USAGE_STATS_ENABLED",
    "VLLM_NO_USAGE_STATS",
}  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> dict:
    documents = yaml.safe_load_all((FOLDER / "kuberay.yaml").read_text())
    return next(each for each in documents if each["kind"] == "RayCluster")


@pytest.fixture(scope="module")
def pods(cluster: dict) -> list[dict]:
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_every_pod_mounts_the_run_folder_and_shared_memory(pods: list[dict]) -> None:
    assert len(pods) == 2
    for pod in pods:
        (container,) = pod["containers"]
        mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
        volumes = {each["name"]: each for each in pod["volumes"]}
        claim = volumes[mounts["/runs"]]["persistentVolumeClaim"]
        assert claim == {"claimName": "posttrain-runs"}
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"


def test_every_node_gets_the_settings_that_a_local_ray_has(pods: list[dict]) -> None:
    for pod in pods:
        given = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
        assert given == {name: SETTINGS[name] for name in OF_NODES}
    for name in OF_NODES:
        wanted = f"{name}={SETTINGS[name]}"
        assert wanted in (FOLDER / "slurm.sh").read_text()
        assert wanted in (ROOT / "docs" / "cluster.md").read_text()


def test_ray_is_the_one_that_posttrain_pins(cluster: dict) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (pin,) = [each for each in project["dependencies"] if each.startswith("ray[")]
    assert pin.partition("==")[2] == cluster["spec"]["rayVersion"]


def test_the_slurm_script_is_bash() -> None:
    done = subprocess.run(["bash", "-n", FOLDER / "slurm.sh"], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
