"""SFT through TRL: the loss by hand, the same for any micro-batch, and bit-equal after a stop."""

import json
import math
import random

import pytest
import torch
from safetensors.torch import load_file

from posttrain.checkpoint.folders import CommittedFolders
from posttrain.config.lora import Lora
from posttrain.config.restraints import EarlyStopping
from posttrain.errors import InputError, StageFailed
from posttrain.model.chat import RenderedRow, render
from posttrain.model.load import load_model, load_state, load_tokenizer
from posttrain.ports import Objective
from posttrain.train.offline import OfflineSettings, hold_out
from posttrain.train.sft import mean_loss, run_sft

OBJECTIVE = Objective({"learning_rate": 3e-3, "lr_scheduler_type": "constant", "weight_decay": 0.0})


class Recorder:
    """A Tracker that keeps what it is told."""

    def __init__(self):
        self.rows, self.events = [], []

    def log(self, metrics, **axes):
        self.rows.append({**axes, **metrics})

    def event(self, name, **details):
        self.events.append((name, details))

    def samples(self, step, rows): ...

    def series(self, name):
        return {row["step"]: row[name] for row in self.rows if name in row}


@pytest.fixture(scope="module")
def rows(micro):
    tokenizer, rng = load_tokenizer(micro), random.Random(0)
    numbers = [(rng.randint(0, 10 ** rng.randint(1, 7)), rng.randint(0, 999)) for _ in range(40)]
    return [
        render({"prompt": f"{a}+{b}=", "completion": str(a + b)}, tokenizer) for a, b in numbers
    ]


def settings(micro, directory, **changes):
    values = {
        "directory": directory,
        "model_path": str(micro),
        "objective": OBJECTIVE,
        "batch_rows": 8,
        "tokens_per_micro_batch": 4096,
        "steps": 6,
        "epochs": None,
        "holdout_rows": 0,
        "seed": 3,
        "precision": "fp32",
    }
    return OfflineSettings(**values | changes)


def train(micro, directory, rows, stop_asked=lambda: False, **changes):
    tracker = Recorder()
    checkpoints = CommittedFolders(directory / "checkpoints")
    outcome = run_sft(settings(micro, directory, **changes), rows, tracker, stop_asked, checkpoints)
    return outcome, tracker


def test_loss_is_the_mean_over_all_trained_tokens(micro, rows, tmp_path):
    """One step over 8 rows: first loss and gradient equal those of a plain computation."""
    batch = rows[:8]
    _, tracker = train(micro, tmp_path, batch, steps=1)
    model = load_model(micro)
    nats = []
    for row in batch:
        ids = torch.tensor(row.token_ids)
        logprobs = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
        chosen = logprobs.gather(-1, ids[1:, None])[:, 0]
        nats.append(-chosen[torch.tensor(row.trained_mask[1:]).bool()])
    loss = torch.cat(nats).mean()
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    assert tracker.series("train/loss")[1] == pytest.approx(loss.item(), abs=1e-6)
    assert tracker.series("train/grad_norm")[1] == pytest.approx(norm.item(), rel=1e-5)
    trained = sum(sum(row.trained_mask) for row in batch)
    total = sum(len(row.token_ids) for row in batch)
    assert tracker.series("sft/trained_token_share")[1] == pytest.approx(trained / total)
    assert tracker.rows[0]["tokens"] == total


def test_micro_batches_change_nothing(micro, rows, tmp_path):
    """One micro-batch of 8 rows, and as many as a budget of 24 tokens makes: the same training."""
    _, whole = train(micro, tmp_path / "whole", rows)
    _, pieces = train(micro, tmp_path / "pieces", rows, tokens_per_micro_batch=24)
    assert whole.series("train/loss").keys() == {1, 2, 3, 4, 5, 6}
    for name in ("train/loss", "train/grad_norm"):
        for step, value in whole.series(name).items():
            assert pieces.series(name)[step] == pytest.approx(value, rel=2e-5), (name, step)
    assert pieces.series("train/loss")[1] == pytest.approx(whole.series("train/loss")[1], abs=1e-6)


def test_stopped_and_resumed_is_bit_equal(micro, rows, tmp_path):
    _, straight = train(micro, tmp_path / "straight", rows)
    polls = iter([False, False, True])
    outcome, before = train(micro, tmp_path / "cut", rows, stop_asked=lambda: next(polls))
    assert outcome == "stopped"
    assert not (tmp_path / "cut" / "model").exists()
    assert ("saved", {"step": 3}) in before.events
    outcome, after = train(micro, tmp_path / "cut", rows)
    assert outcome == "done"
    assert after.events[0] == ("restored", {"step": 3})
    losses = before.series("train/loss") | after.series("train/loss")
    assert losses == straight.series("train/loss")
    assert after.rows[-1]["tokens"] == straight.rows[-1]["tokens"]
    one = load_file(tmp_path / "straight" / "model" / "model.safetensors")
    two = load_file(tmp_path / "cut" / "model" / "model.safetensors")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_trained_again_after_its_end_it_is_the_same_model(micro, rows, tmp_path):
    """A process that is killed after its last step has left all that it goes on from."""
    changes = {"checkpoint_every": 2, "holdout_rows": 8, "early_stopping": EarlyStopping()}
    train(micro, tmp_path, rows, **changes)
    file = tmp_path / "model" / "model.safetensors"
    first, best = file.read_bytes(), (tmp_path / "best.safetensors").read_bytes()
    outcome, again = train(micro, tmp_path, rows, **changes)
    assert outcome == "done"
    assert again.events[0] == ("restored", {"step": 6})
    assert again.series("train/loss") == {}
    assert file.read_bytes() == first
    assert (tmp_path / "best.safetensors").read_bytes() == best


def test_torn_checkpoint_is_not_gone_on_from(micro, rows, tmp_path):
    polls = iter([False, True])
    train(micro, tmp_path, rows, stop_asked=lambda: next(polls))
    with (tmp_path / "checkpoints" / "step-000002" / "optimizer.pt").open("r+b") as file:
        file.truncate(10)
    with pytest.raises(InputError, match=r"optimizer\.pt of the last checkpoint is missing or cut"):
        train(micro, tmp_path, rows)


def test_heldout_loss_at_start_between_and_end(micro, rows, tmp_path):
    _, tracker = train(micro, tmp_path, rows, steps=10, holdout_rows=8)
    heldout = tracker.series("sft/heldout_loss")
    assert list(heldout) == [0, 2, 4, 6, 8, 10]
    assert heldout[0] == pytest.approx(math.log(64), abs=0.4)  # random weights: 64 tokens alike
    assert heldout[10] < heldout[0]
    perplexity = tracker.series("sft/heldout_perplexity")
    assert perplexity[10] == pytest.approx(math.exp(heldout[10]))
    _, kept = hold_out(rows, 8, seed=3)
    assert heldout[10] == pytest.approx(mean_loss(load_model(tmp_path / "model"), kept, 4096))


def test_model_folder_is_as_the_model_was(micro, rows, tmp_path):
    train(micro, tmp_path, rows, steps=1)
    for name in ("config.json", "generation_config.json"):
        before = json.loads((micro / name).read_text())
        after = json.loads((tmp_path / "model" / name).read_text())
        assert after == before
    assert load_tokenizer(tmp_path / "model").chat_template == load_tokenizer(micro).chat_template


def test_bf16_writes_bf16(micro, rows, tmp_path):
    _, tracker = train(micro, tmp_path, rows, steps=2, precision="bf16")
    assert load_model(tmp_path / "model", None).dtype == torch.bfloat16
    assert tracker.series("train/loss")[1] == pytest.approx(math.log(64), abs=0.4)


def test_epochs_become_steps(micro, rows, tmp_path):
    _, tracker = train(micro, tmp_path, rows, steps=None, epochs=2.0)  # 40 rows, 8 a step
    assert max(tracker.series("train/loss")) == 10


def test_loss_that_is_not_finite_stops_before_the_step(micro, rows, tmp_path):
    broken = tmp_path / "broken"
    model = load_model(micro)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    model.save_pretrained(broken)
    load_tokenizer(micro).save_pretrained(broken)
    with pytest.raises(StageFailed, match="step 1: the loss is nan; the weights were not changed"):
        train(broken, tmp_path, rows)
    assert not (tmp_path / "model").exists()


def test_row_longer_than_a_micro_batch_is_refused_first(micro, rows, tmp_path):
    with pytest.raises(InputError, match="tokens, a micro-batch holds 5"):
        train(micro, tmp_path, rows, tokens_per_micro_batch=5)


def test_hold_out_is_seeded_and_bounded():
    rows = [RenderedRow((number,), (1,), "") for number in range(20)]
    training, heldout = hold_out(rows, 64, seed=1)  # a fifth of 20 at most
    assert len(heldout) == 4 and len(training) == 16
    assert hold_out(rows, 64, seed=1) == (training, heldout)
    assert hold_out(rows, 64, seed=2)[1] != heldout
    assert hold_out(rows, 0, seed=1) == (rows, [])


LORA = Lora(rank=4, alpha=16)


def test_adapters_are_trained_and_the_model_folder_is_merged(micro, rows, tmp_path):
    _, tracker = train(micro, tmp_path, rows, lora=LORA, holdout_rows=8, steps=10)
    heldout = tracker.series("sft/heldout_loss")
    assert heldout[10] < heldout[0] - 0.05
    _, kept = hold_out(rows, 8, seed=3)
    merged = load_model(tmp_path / "model")
    assert mean_loss(merged, kept, 4096) == pytest.approx(heldout[10], abs=1e-5)
    before, after = load_state(micro), load_state(tmp_path / "model")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith("_proj.weight")}
    for name in ("config.json", "generation_config.json"):
        written = json.loads((tmp_path / "model" / name).read_text())
        assert written == json.loads((micro / name).read_text())


def test_the_adapter_beside_the_model_folder_gives_the_same_model(micro, rows, tmp_path):
    from peft import PeftModel

    train(micro, tmp_path, rows, lora=LORA, steps=2)
    theirs = PeftModel.from_pretrained(load_model(micro), tmp_path / "adapter").merge_and_unload()
    ours = load_model(tmp_path / "model")
    assert all(
        torch.allclose(a, b, atol=1e-6)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)
    )


def test_adapters_stopped_and_resumed_are_bit_equal(micro, rows, tmp_path):
    _, straight = train(micro, tmp_path / "straight", rows, lora=LORA)
    polls = iter([False, False, True])
    outcome, before = train(
        micro, tmp_path / "cut", rows, stop_asked=lambda: next(polls), lora=LORA
    )
    assert outcome == "stopped"
    folder = tmp_path / "cut" / "checkpoints" / "step-000003"
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    assert size < 0.1 * (micro / "model.safetensors").stat().st_size
    _, after = train(micro, tmp_path / "cut", rows, lora=LORA)
    losses = before.series("train/loss") | after.series("train/loss")
    assert losses == straight.series("train/loss")
    one, two = load_state(tmp_path / "straight" / "model"), load_state(tmp_path / "cut" / "model")
    assert all(torch.equal(one[name], two[name]) for name in one)
