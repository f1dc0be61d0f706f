"""Whether every node of a joined cluster can take part: it has to see the run folder.

Checkpoints and rollouts are files there; without this look a node that does not see them would
fail minutes later, far from the reason.
"""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from posttrain.cluster import calls
from posttrain.errors import DeadlineExceeded, InputError, Problem

ANSWER_S = 120.0  # a process has to start there, perhaps from an image
LOOK_AGAIN_S = 5.0  # file systems over the network show new files late


def require_shared_folder(folder: Path) -> None:
    """Look for a fresh file of `folder` from every node. Nothing is asked where there is one node.

    Raises InputError `run-folder-unseen` with the nodes that do not see it, or that cannot run
    posttrain, and DeadlineExceeded.
    """
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if len(nodes) < 2:
        return
    sign = folder / f".seen-{uuid.uuid4().hex[:8]}"
    sign.touch()
    try:
        answers = _ask(nodes, sign)
    finally:
        sign.unlink(missing_ok=True)
    if problem := unseen(answers, folder):
        raise InputError(problem)


def _ask(nodes: Mapping[str, str], sign: Path) -> dict[str, bool | str]:
    """Node's address -> whether it sees the file, or why it cannot say."""
    asked = {
        node: ray.remote(sees)
        .options(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )
        .remote(str(sign))
        for node in nodes
    }
    until = time.monotonic() + ANSWER_S
    answers: dict[str, bool | str] = {}
    for node, reference in asked.items():
        who = f"node {nodes[node]} to look for the run folder"
        answers[f"{nodes[node]} ({node[:6]})"] = _answer(reference, until - time.monotonic(), who)
    return answers


def _answer(reference: Any, left_s: float, who: str) -> bool | str:
    try:
        return bool(ray.get(reference, timeout=max(0.1, left_s)))
    except ray.exceptions.GetTimeoutError as error:
        raise DeadlineExceeded(
            f"posttrain waited {ANSWER_S:.0f} s for {who}",
            help="`ray status` says whether that node is alive",
        ) from error
    except RayError as error:
        return calls.ours(error, who).message


def sees(sign: str) -> bool:
    """Runs on a node: whether the file is there, soon."""
    until = time.monotonic() + LOOK_AGAIN_S
    while not Path(sign).exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def unseen(answers: Mapping[str, bool | str], folder: Path) -> Problem | None:
    """The mistake, where not all nodes see the folder."""
    blind = [node for node, answer in answers.items() if answer is not True]
    if not blind:
        return None
    why = next((answers[node] for node in blind if isinstance(answers[node], str)), "")
    return Problem(
        "run-folder-unseen",
        f"{len(blind)} of {len(answers)} nodes cannot work with {folder}: {', '.join(blind)}"
        + (f" ({why})" if why else f"; {socket.gethostname()} wrote a file that they do not see"),
        path="--runs-dir",
        help="posttrain installed on every node, and a folder on a file system that all of them "
        "mount at the same path",
    )
