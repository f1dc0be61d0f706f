"""Rows' own answers, scored by reward models as if the policy had given them."""

import pytest

from posttrain.errors import RewardBroken
from posttrain.model.micro import micro_tokenizer
from posttrain.reward.reward_models import BaselineScores
from posttrain.types import Prompt


class Ensemble:
    """Two members that say how many tokens a sequence has, and which is its last."""

    def __init__(self):
        self.asked = []

    def scores(self, sequences):
        self.asked += sequences
        return [[float(len(each)), float(each[-1])] for each in sequences]


def prompt(number, row):
    tokens = tuple(micro_tokenizer()(row["prompt"], add_special_tokens=False)["input_ids"])
    return Prompt(f"rows/{number}", "rows", tokens, row["prompt"], row)


def test_prompt_and_answer_with_its_end_of_turn_are_scored_once():
    ensemble, tokenizer = Ensemble(), micro_tokenizer()
    scores = BaselineScores({"rm": ensemble}, ["completion"], tokenizer)
    one = prompt(1, {"prompt": "7+5=", "completion": "12"})
    two = prompt(2, {"prompt": "1+1=", "completion": "2"})
    end = float(tokenizer.eos_token_id)
    # 4 tokens, an answer of 2 and of 1, an end
    found = [{"completion": {"rm": [7.0, end]}}, {"completion": {"rm": [6.0, end]}}]
    assert scores.of([one, one, two, one]) == [found[0], found[0], found[1], found[0]]
    assert scores.of([two]) == [found[1]]
    assert len(ensemble.asked) == 2
    assert ensemble.asked[0][:4] == one.token_ids
    assert tokenizer.decode(ensemble.asked[0]) == "7+5=12<eos>"


def test_every_column_and_every_ensemble():
    ensembles = {"rm": Ensemble(), "other": Ensemble()}
    scores = BaselineScores(ensembles, ["completion", "draft"], micro_tokenizer())
    rows = [
        {"prompt": "1+1=", "completion": "2", "draft": "22"},
        {"prompt": "1+1=", "draft": "3"},
        {"prompt": "1+1=", "completion": " ", "draft": 3},
    ]
    both, one, none = scores.of([prompt(number, row) for number, row in enumerate(rows)])
    assert set(both) == {"completion", "draft"} and set(both["draft"]) == {"rm", "other"}
    assert (both["completion"]["rm"][0], both["draft"]["rm"][0]) == (6.0, 7.0)
    assert set(one) == {"draft"} and none == {}
    assert len(ensembles["rm"].asked) == len(ensembles["other"].asked) == 3


def test_an_answer_that_no_template_can_write_down_breaks_with_its_row():
    tokenizer = micro_tokenizer()
    asked = prompt(3, {"prompt": "1+1=", "completion": "2"})
    # a template that counts messages renders earlier turns anew once an answer follows
    tokenizer.chat_template = "{{ messages | length }}{{ messages[0]['content'] }}"
    with pytest.raises(RewardBroken, match="the `completion` of rows/3 cannot be scored"):
        BaselineScores({"rm": Ensemble()}, ["completion"], tokenizer).of([asked])
