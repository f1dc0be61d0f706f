"""A pipeline handed to a Ray cluster of several nodes through the Jobs API, and nodes that die."""

import json
import signal

import pytest
from conftest import PATIENCE_S
from online_run import OnlineRun
from ray_nodes import RayNodes

from posttrain.prompts.microworld import generate

pytestmark = pytest.mark.slow

STEPS = 60


class SubmittedRun(OnlineRun):
    """The same run, started by `posttrain submit`, with rows of its own."""

    def submit(self, cluster: RayNodes) -> str:
        """Send it; the submission id. Its files here are gone afterwards."""
        self.address = cluster.address
        here = self.place.path
        rows = [
            {"prompt": row["prompt"]} for row in generate("microworld/arithmetic", "train", 0, 200)
        ]
        (here / "my_rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        file = here / self._file
        file.write_text(file.read_text().replace("microworld/arithmetic", "./my_rows.jsonl"))
        (here / "unrelated.bin").write_bytes(bytes(1000))
        words = ("--address", self.address, "--wait-for-cluster", "10m")
        done = self.place.posttrain("submit", self._file, *words)
        assert done.returncode == 0, done.stderr
        for each in (file, here / "short_reward.py", here / "my_rows.jsonl"):
            each.unlink()
        return done.stdout.strip()

    def follow(self, job: str):
        return self.place.start("submit", "--follow", job, "--address", self.address)


@pytest.fixture(scope="module")
def survivor(workplace):
    """A run on four nodes of one CPU, which come late: the engine's dies, then the trainer's."""
    run = SubmittedRun(workplace, steps=STEPS, tokens=32)
    seen = {}
    with RayNodes(workplace) as cluster:
        job = run.submit(cluster)
        onlooker = run.follow(job)
        seen["early"] = ""
        while "waiting for the cluster" not in seen["early"]:
            line = onlooker.stdout.readline()
            assert line, onlooker.communicate()[1]
            seen["early"] += line
        cluster.add(4)
        onlooker.send_signal(signal.SIGINT)
        seen["detached"] = (onlooker.communicate(timeout=PATIENCE_S)[1], onlooker.returncode, job)
        run.process = run.follow(job)
        run.wait_for_step(3)
        with workplace.slow("ray::EngineActor"):  # or the run might end before its nodes are found
            kinds = ("engine", "trainer", "trainer groups")
            nodes = [cluster.of(run.newest(kind)) for kind in kinds]
            seen["nodes"] = [node.pid for node in nodes]
            seen["head"] = cluster.head.pid
            cluster.kill(nodes[0])
        run.wait_for_event("engine-replaced")
        run.wait_for_step(run.steps_done() + 2)
        cluster.kill(cluster.of(run.newest("trainer")))
        run.wait_for_event("trainer-restarted")
        out, err = run.process.communicate(timeout=PATIENCE_S)
        assert run.process.returncode == 0, (out + err)[-3000:]
        seen["log"] = out
        seen["again"] = run.follow(job).communicate(timeout=PATIENCE_S)[0]
    seen["left"] = workplace.leftovers()
    return run, seen


def test_nodes_that_are_missing_are_waited_for(survivor):
    told = "wants 2 CPU slots (1 engine, 1 trainer), the cluster has 0 (1 node)"
    assert f"waiting for the cluster: {told}" in survivor[1]["early"]


def test_engines_and_trainers_are_on_different_nodes_and_what_runs_them_beside_the_driver(survivor):
    _, seen = survivor
    engine, trainer, groups = seen["nodes"]
    assert engine != trainer
    assert groups == seen["head"]


def test_each_death_of_a_node_is_told_and_made_good(survivor):
    run, _ = survivor
    assert len(run.events("engine-replaced")) >= 1
    assert len(run.events("trainer-restarted")) == 1
    manifest = json.loads((run.folder / "manifest.json").read_text())
    assert manifest["state"] == "done"


def test_every_draw_is_trained_exactly_once_and_none_too_late(survivor):
    survivor[0].check_records()


def test_the_run_folder_holds_just_the_files_that_the_pipeline_names(survivor):
    run, _ = survivor
    (sent,) = (run.place.path / "runs" / run.name / "submitted").iterdir()
    files = sorted(str(path.relative_to(sent)) for path in sent.rglob("*") if path.is_file())
    assert files == ["files/my_rows.jsonl", "files/short_reward.py", "online.yaml"]


def test_the_log_is_shown_to_whoever_follows_and_ctrl_c_leaves_the_run_alone(survivor):
    _, seen = survivor
    said, returncode, job = seen["detached"]
    assert returncode == 0
    assert f"{job} goes on without you" in said
    assert "checking rows, templates and rewards of all stages" in seen["log"]
    assert seen["again"].splitlines()[-1] == seen["log"].splitlines()[-1]


def test_nothing_is_left_of_the_nodes_or_in_memory(survivor):
    assert survivor[1]["left"] == []
