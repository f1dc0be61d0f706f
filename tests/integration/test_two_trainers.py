"""Two trainer ranks (real gloo, real FSDP2) do what one does; together they save, fail and end."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from posttrain.checkpoint.store import CheckpointStore
from posttrain.model.load import load_model, load_state
from posttrain.model.micro import build_micro
from posttrain.weight_sync.adapter import MergedWeights

RANK = Path(__file__).with_name("trainer_rank.py")
# A large epsilon: AdamW would otherwise make whole steps of gradients that are rounding noise.
ALGORITHM = {"lr": 1e-3, "epsilon": 1e-4, "kl_in_loss": 0.1}
PPO = {"lr": 1e-3, "epsilon": 1e-4, "kl_in_reward": 0.1, "critic_warmup_steps": 1}
COMPARED = {
    "kl-term": {},
    "token-mean": {"algorithm": ALGORITHM | {"kl_in_loss": 0.0, "aggregation": "token-mean"}},
    "recompute-in-two-steps": {
        "optimiser_steps": 2,
        "off_policy": {"proximal": "recompute", "weights": "clamp"},
    },
    "adapters": {"lora": {"rank": 4, "alpha": 8}},
    "critic-of-its-own": {"algorithm": PPO | {"critic": "policy", "critic_lr": 1e-2}},
    "critic-on-the-policy": {"algorithm": PPO | {"critic": "head"}},
    "offloaded-reference": {"reference": "offload"},
    "restrained": {"start_penalty": {"l1": 1e-3, "l2": 0.5}, "ema": {}, "half_fine_tuning": True},
    "interpolate": {"off_policy": {"proximal": "interpolate", "level": "sequence"}},
}


@dataclass
class Groups:
    """Groups of ranks, started one after another; what they left behind."""

    root: Path
    model: str

    def run(self, num, plans):
        """`plans`: (folder's name, changes), carried out in this order by the same processes. All
        come to the end, but for one that a plan lets die.
        """
        plans = [
            {"num": num, "num_steps": 4, "algorithm": ALGORITHM, "folder": str(self.root / name),
             "name": f"{num}"} | changes
            for name, changes in plans
        ]  # fmt: skip
        rendezvous = self.root / f"rendezvous-{len(list(self.root.iterdir()))}"
        group = {"num": num, "plans": plans, "model": self.model, "rendezvous": str(rendezvous)}
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
        processes = [
            subprocess.Popen(
                [sys.executable, str(RANK), json.dumps(group | {"rank": rank})],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(num)
        ]
        try:
            with ThreadPoolExecutor() as pool:  # none waits for somebody to read what it says
                said = list(pool.map(lambda each: each.communicate(timeout=600)[1], processes))
        finally:
            for process in processes:
                process.kill()  # one that hangs
        codes = [process.returncode for process in processes]
        killed = {plan["who"] for plan in plans if "die_at" in plan}
        expected = [-signal.SIGKILL if rank in killed else 0 for rank in range(num)]
        assert codes == expected, "\n".join(text[-3000:] for text in said)

    def left(self, folder, num, name=None):
        """What each of the ranks wrote down; None for one that was killed."""
        files = [self.root / folder / f"{name or num}-rank-{rank}.json" for rank in range(num)]
        return [json.loads(f.read_text()) if f.exists() else None for f in files]

    def weights(self, folder, version):
        return torch.load(self.root / folder / f"{version}.pt")

    def distance(self, one, other, version):
        """Of two published versions, relative to how far training has moved them."""
        versions = self.weights(one, version), self.weights(other, version), self.weights(one, 0)
        return relative_distance(*versions)


def relative_distance(a, b, start):
    a, b, start = ({n: w.float() for n, w in each.items()} for each in (a, b, start))
    norm = torch.nn.utils.get_total_norm
    return float(norm([a[n] - b[n] for n in a]) / norm([a[n] - start[n] for n in a]))


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    """Three groups run everything that the tests look at: two ranks, one, and two again."""
    root = tmp_path_factory.mktemp("trainers")
    build_micro(root / "micro", seed=0)
    groups = Groups(root, str(root / "micro"))
    six = {"num_steps": 6}
    groups.run(2, [
        *((f"two-{name}", changes) for name, changes in COMPARED.items()),
        ("cut", six | {"stop_at": 2, "name": "begun"}),
        ("again", six | {"stop_at": 2, "name": "begun"}),
        ("again", six | {"stop_at": 4, "name": "ended"}),
        ("bf16", {"precision": "bf16", "num_steps": 1}),
        ("refused", {"refuse_at": 1}),
        ("unread-by-0", {"fail_at": 1, "who": 0}),
        ("unread-by-1", {"fail_at": 1, "who": 1}),
        ("killed-1", {"die_at": 1, "who": 1}),
    ])  # fmt: skip
    saved = CheckpointStore(root / "cut" / "checkpoints").latest()
    (root / "saved").mkdir()
    torch.save(
        (saved.step, saved.state, saved.load_model(), saved.load_optimiser()), root / "saved" / "2"
    )
    groups.run(1, [
        *((f"one-{name}", changes) for name, changes in COMPARED.items()),
        ("straight", six),
        ("cut", six | {"stop_at": 4, "name": "between"}),
    ])  # fmt: skip
    groups.run(2, [("cut", six | {"name": "ended"}), ("killed-0", {"die_at": 1, "who": 0})])
    return groups


@pytest.mark.parametrize("name", COMPARED)
def test_two_ranks_train_as_one_does(groups, name):
    [alone] = groups.left(f"one-{name}", 1)
    first, second = groups.left(f"two-{name}", 2)
    assert (alone["outcome"], first["outcome"], second["outcome"]) == ("done",) * 3
    assert second["logged"] == []
    compared = (
        "train/loss",
        "train/grad",
        "train/start",
        "train/trained_share",
        "policy/",
        "reward/",
        "groups/",
        "tokens",
    )
    for mine, both in zip(alone["logged"], first["logged"], strict=True):
        assert sorted(mine) == sorted(both)
        for metric in mine:
            if metric.startswith(compared):
                assert both[metric] == pytest.approx(mine[metric], rel=1e-4, abs=1e-6), metric
    moved = 2 if name.startswith("critic") else 1  # in the first step the critic learns alone
    assert groups.distance(f"one-{name}", f"two-{name}", moved) < 1e-5
    assert groups.distance(f"one-{name}", f"two-{name}", 4) < 1e-4


def test_one_rank_goes_on_where_two_stopped_and_two_where_one_did(groups):
    [alone] = groups.left("straight", 1)
    outcomes = [groups.left("cut", num, name)[0]["outcome"]
                for num, name in ((2, "begun"), (1, "between"), (2, "ended"))]  # fmt: skip
    assert outcomes == ["stopped", "stopped", "done"]
    first, _ = groups.left("cut", 2, "ended")
    assert [row["step"] for row in first["logged"]] == [4, 5]
    for mine, cuts in zip(alone["logged"][4:], first["logged"], strict=True):
        for name in ("train/loss", "train/grad_norm", "policy/entropy_nats", "tokens"):
            assert cuts[name] == pytest.approx(mine[name], rel=1e-4, abs=1e-6)
    assert groups.distance("straight", "cut", 6) < 1e-4


def test_two_ranks_go_on_bit_for_bit(groups):
    first = groups.left("two-kl-term", 2)[0]["logged"]
    resumed = groups.left("again", 2, "ended")[0]["logged"]
    assert [row["train/loss"] for row in resumed] == [row["train/loss"] for row in first[2:]]
    straight, cut = groups.weights("two-kl-term", 4), groups.weights("again", 4)
    for name, value in straight.items():
        assert torch.equal(cut[name], value)


def test_the_model_folder_of_two_ranks_is_an_ordinary_one(groups):
    folder = groups.root / "cut" / "model"
    exported = dict(load_model(folder).named_parameters())
    published = groups.weights("cut", 6)
    assert list(published) == list(exported)  # tied embeddings once
    for name, value in published.items():
        assert torch.equal(exported[name], value)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]


def test_two_ranks_write_the_average_and_leave_a_half_alone(groups):
    alone = load_state(groups.root / "one-restrained" / "model")
    both = load_state(groups.root / "two-restrained" / "model")
    start, last = load_state(groups.model), groups.weights("two-restrained", 4)
    assert both.keys() == alone.keys() == start.keys()
    assert relative_distance(alone, both, start) < 1e-4  # as near as what ranks publish
    same = {name for name in start if torch.equal(both[name], start[name])}
    assert 10 <= len(same) < len(start) - 10
    assert same == {name for name in start if torch.equal(alone[name], start[name])}
    for name in start.keys() - same:  # an average is no last version
        assert not torch.equal(both[name], last[name])
    rows = groups.left("two-restrained", 2)[0]["logged"]
    assert rows[0]["train/start_distance_l2"] == 0 < rows[1]["train/start_distance_l2"]


def test_two_ranks_send_adapters_and_write_a_merged_folder(groups):
    published = groups.weights("two-adapters", 4)
    assert sum(value.numel() for value in published.values()) < 0.1 * sum(
        value.numel() for value in groups.weights("two-kl-term", 4).values()
    )
    merged = MergedWeights(groups.model, published, torch.float32)
    exported = load_state(groups.root / "two-adapters" / "model")
    assert exported.keys() == dict(merged).keys()
    assert all(torch.equal(exported[name], value) for name, value in merged.items())


def test_a_checkpoint_of_two_ranks(groups):
    step, state, weights, optimiser = torch.load(groups.root / "saved" / "2")
    watched = {"running": {}, "reason": None}
    assert (step, state) == (2, {"coordinator": {"next_draw": 7}, "stop_watch": watched})
    for name, value in groups.weights("cut", 2).items():
        assert torch.equal(weights[name], value)
    assert optimiser["random"]["cpu"].shape[0] == 2
    assert not torch.equal(*optimiser["random"]["cpu"])  # each rank's own
    shapes = [tuple(entry["exp_avg"].shape) for entry in optimiser["optimiser"]["state"].values()]
    assert sorted(shapes) == sorted(tuple(value.shape) for value in weights.values())


def test_bf16_ranks_publish_and_export_bf16(groups):
    assert groups.left("bf16", 2)[0]["outcome"] == "done"
    assert {value.dtype for value in groups.weights("bf16", 1).values()} == {torch.bfloat16}
    assert load_model(groups.root / "bf16" / "model", None).dtype == torch.bfloat16


def test_what_the_coordinator_refuses_ends_both_ranks(groups):
    outcomes = [each["outcome"] for each in groups.left("refused", 2)]
    assert outcomes == ["StageFailed: no batch of step 1"] * 2


@pytest.mark.parametrize("who", [0, 1])
def test_a_rank_that_cannot_read_its_batch_ends_both(groups, who):
    outcomes = [each["outcome"] for each in groups.left(f"unread-by-{who}", 2)]
    assert outcomes == ["StageFailed: the journal record at byte 7 is damaged"] * 2


def test_the_death_of_a_rank_is_told_by_the_other(groups):
    first, second = groups.left("killed-1", 2)
    assert second is None
    assert first["outcome"] == (
        "RankLost: rank 0 waited for the other ranks (reading the batch of step 1), whose "
        "process ended"
    )
    first, second = groups.left("killed-0", 2)
    assert first is None
    assert second["outcome"] == (
        "RankLost: rank 1 waited for the other ranks (reading the batch of step 1), whose "
        "process ended"
    )
