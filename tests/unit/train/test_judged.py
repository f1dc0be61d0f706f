"""KTO on single answers: read, weighted, the loss by hand, learnt from, bit-equal after a stop."""

import json
import random

import pytest
import torch
from pair_rows import Recorder
from safetensors.torch import load_file

from posttrain.algorithms import kto, needs_of
from posttrain.checkpoint.folders import CommittedFolders
from posttrain.errors import InputError
from posttrain.model.load import load_model
from posttrain.ports import ANSWER
from posttrain.stages.judged_rows import render_judged
from posttrain.train import heldout
from posttrain.train.offline import OfflineSettings
from posttrain.train.pairs import with_mismatched
from posttrain.train.preference import answer_logprobs, run_preference


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"path": str(path)}


def sorted_is_good(count, good_share=0.5, seed=0):
    """Rows whose answer has the prompt's letters, in order where it is good."""
    rng = random.Random(seed)
    rows = []
    while len(rows) < count:
        text = "".join(rng.sample("abcdefgh", rng.randint(3, 7)))
        ordered = "".join(sorted(text))
        if text != ordered:
            good = rng.random() < good_share
            answer = ordered if good else text
            rows.append({"prompt": f"sort {text}=", "completion": answer, "label": good})
    return rows


def rendered(micro, tmp_path, rows):
    return render_judged(str(micro), write(tmp_path / "rows.jsonl", rows), None, 3).pairs


def train(micro, directory, rows, *, stop_asked=lambda: False, own=(), **changes):
    config = kto.Config(
        rows="judged",
        **({"lr": 1e-3, "schedule": "constant", "warmup_share": 0.0} | dict(own)),
    )
    values = {
        "directory": directory,
        "model_path": str(micro),
        "objective": kto.objective(config),
        "batch_rows": 8,
        "tokens_per_micro_batch": 4096,
        "steps": 4,
        "epochs": None,
        "holdout_rows": 0,
        "seed": 3,
        "precision": "fp32",
    }
    directory.mkdir(exist_ok=True)
    tracker = Recorder()
    outcome = run_preference(
        OfflineSettings(**values | changes),
        rows,
        tracker,
        stop_asked,
        CommittedFolders(directory / "checkpoints"),
        has_reference=needs_of(kto, config).reference,
    )
    return outcome, tracker


def weights(directory):
    return load_file(directory / "model" / "model.safetensors")


def test_rows_are_read_with_their_labels(micro, tmp_path):
    messages = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "ba"}]
    rows = [
        {"prompt": "sort ba=", "completion": "ab", "label": True},
        {"prompt": "sort ba=", "completion": "", "label": 0},
        {"messages": messages, "label": "false"},
    ]
    found = rendered(micro, tmp_path, rows)
    assert [row.good for row in found] == [True, False, False]
    assert found[0].prompt == found[1].prompt != found[2].prompt
    assert [len(row.answers[ANSWER][1]) for row in found] == [3, 1, 3]  # with the end of turn


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "completion": "b"}, "needs prompt, completion, label"),
        ({"prompt": "a", "completion": "b", "label": 2}, "the number 2, has to be true or false"),
        ({"prompt": "a", "completion": "b", "label": None}, "empty, has to be true or false"),
        ({"messages": [{"role": "user", "content": "a"}], "label": True}, "is not the assistant's"),
        ({"messages": [{"role": "user", "content": "a"}]}, "needs prompt, completion, label"),
    ],
)
def test_what_is_no_judged_answer_is_refused(micro, tmp_path, row, message):
    with pytest.raises(InputError, match=message):
        rendered(micro, tmp_path, [row])


def test_answers_of_one_kind_teach_nothing(micro, tmp_path):
    rows = [row | {"label": True} for row in sorted_is_good(16)]
    with pytest.raises(InputError, match="all 16 answers to train on are good"):
        train(micro, tmp_path / "run", rendered(micro, tmp_path, rows))


def test_it_learns_which_answers_are_good(micro, tmp_path):
    rows = rendered(micro, tmp_path, sorted_is_good(96))
    outcome, tracker = train(micro, tmp_path / "run", rows, steps=30, holdout_rows=16)
    assert outcome == "done"
    accuracy = tracker.series("pref/heldout_accuracy")
    assert accuracy[0] == 0.5 and accuracy[-1] >= 0.9
    assert tracker.series("pref/heldout_margin")[0] == 0.0
    assert tracker.series("pref/heldout_margin")[-1] > 0
    assert tracker.series("pref/margin")[-1] > 0
    assert 0 < tracker.series("pref/good_share")[0] < 1


def test_the_first_loss_is_half_of_the_weights_however_many_are_good(micro, tmp_path):
    """Ratios and baseline are 0: λ/2 of each row. A row in four is good: λ of those is 3."""
    rows = sorted_is_good(64)
    good = [row for row in rows if row["label"]][:2]
    bad = [row for row in rows if not row["label"]][:6]
    found = rendered(micro, tmp_path, [*good, *bad])
    _, tracker = train(micro, tmp_path / "even", found, steps=1)
    assert tracker.series("train/loss") == [pytest.approx((2 * 3 + 6 * 1) / 8 / 2, abs=1e-5)]
    _, tracker = train(micro, tmp_path / "own", found, steps=1, own={"weight_chosen": 4 / 3})
    assert tracker.series("train/loss") == [pytest.approx((2 * 4 + 6 * 1) / 8 / 2, abs=1e-5)]


def test_the_second_loss_is_the_formula_on_log_probs(micro, tmp_path):
    rows = rendered(micro, tmp_path, sorted_is_good(8))  # a step sees all of them
    _, tracker = train(micro, tmp_path / "two", rows, steps=2)
    train(micro, tmp_path / "one", rows, steps=1)
    both = with_mismatched(rows, {"other": ANSWER})
    before, after = (
        answer_logprobs(load_model(folder), both, (ANSWER, "other"), 4096)
        for folder in (micro, tmp_path / "one" / "model")
    )
    own_N, other_N = (after - before).T
    baseline = float(other_N.mean().clamp(min=0))
    good_N = torch.tensor([row.good for row in rows])
    num_good = int(good_N.sum())
    total = 0.0
    for ratio, good in zip(own_N.tolist(), good_N.tolist(), strict=True):
        sign, count = (1, num_good) if good else (-1, 8 - num_good)
        weight = max(1.0, (8 - count) / count)
        total += weight * (1 - torch.sigmoid(torch.tensor(0.1 * sign * (ratio - baseline))))
    assert tracker.series("train/loss")[1] == pytest.approx(float(total / 8), rel=1e-4)


def test_the_number_of_micro_batches_changes_nothing(micro, tmp_path):
    rows = rendered(micro, tmp_path, sorted_is_good(40))
    _, whole = train(micro, tmp_path / "whole", rows)
    _, small = train(micro, tmp_path / "small", rows, tokens_per_micro_batch=50)
    for metric in ("train/loss", "train/grad_norm", "pref/margin", "pref/good_ratio"):
        assert small.series(metric) == pytest.approx(whole.series(metric), rel=1e-3, abs=1e-5)


def test_stopped_and_gone_on_is_the_same_as_never_stopped(micro, tmp_path):
    rows = rendered(micro, tmp_path, sorted_is_good(40))
    train(micro, tmp_path / "whole", rows)
    asked = iter([False, True])
    outcome, _ = train(micro, tmp_path / "parts", rows, stop_asked=lambda: next(asked))
    assert outcome == "stopped"
    outcome, _ = train(micro, tmp_path / "parts", rows)
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert outcome == "done" and all(torch.equal(one[name], two[name]) for name in one)


def test_held_out_numbers_by_hand():
    rewards, means = torch.tensor([0.5, -0.1, 0.5, -0.3]), torch.tensor([-1.0, -2.0, -3.0, -5.0])
    good = torch.tensor([True, True, False, False])
    # (.5, .5) tie, (.5, -.3) right, (-.1, .5) wrong, (-.1, -.3) right
    assert heldout.of_judged(rewards, means, good) == {
        "pref/heldout_accuracy": 2.5 / 4,
        "pref/heldout_margin": pytest.approx(0.2 - 0.1),
        "pref/heldout_good_logprob_per_token": -1.5,
        "pref/heldout_bad_logprob_per_token": -4.0,
    }
    alone = heldout.of_judged(rewards[:2], means[:2], good[:2])
    assert alone == {"pref/heldout_accuracy": 0.5, "pref/heldout_good_logprob_per_token": -1.5}


def test_what_is_not_asked_for_is_not_told():
    """Identities count all settings: those of stages on pairs stay what they were."""
    assert "rows" not in kto.Config().model_dump(mode="json")
    assert kto.Config(rows="judged").model_dump(mode="json")["rows"] == "judged"
    assert (
        needs_of(kto, kto.Config(rows="judged")).judged and not needs_of(kto, kto.Config()).judged
    )
