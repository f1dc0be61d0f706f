"""The end of a real Ray session: its workers are dead, and what they held is given back."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from posttrain.cluster.session import ClusterSession
from posttrain.config.pipeline import Cluster


def test_shared_memory_of_workers_that_the_end_kills_is_given_back(tmp_path):
    import ray

    class Trainer:
        """Dies with its folder open, as a trainer does that is in the middle of a step."""

        def hold(self) -> tuple[int, str]:
            from posttrain.weight_sync.shared_directory import SharedDirectory

            self.folder = SharedDirectory("cluster-session-test").__enter__()
            return os.getpid(), str(self.folder.path)

    ended = subprocess.Popen(["true"])
    ended.wait()
    late = Path(tempfile.gettempdir()) / f"posttrain-{ended.pid}-ray"
    with ClusterSession(Cluster(), None, tmp_path):
        trainer = ray.remote(Trainer).remote()
        pid, folder = ray.get(trainer.hold.remote())
        assert Path(folder).is_dir()
        (late / "logs").mkdir(parents=True)  # an agent of a killed driver still wrote there
    assert not Path(folder).exists()
    assert not Path(f"/proc/{pid}").exists()
    assert not late.exists()
