"""Scores fused over prompts that are like the one asked: which are, and what comes out."""

import pytest
import torch

from posttrain.errors import InputError
from posttrain.model.known_prompts import (
    FILE,
    KnownPrompts,
    read_known_prompts,
    write_known_prompts,
)
from posttrain.reward.fusion import FusedScores, Fusion

# Around a centre of (0, 0): the second prompt has a cosine of .96 to the first, the third of .6.
KNOWN = {(5,): (1.0, 0.0), (6, 6): (0.96, 0.28), (7,): (0.6, 0.8), (8,): (-2.56, -1.08)}
ASKED = {(4,): (2.0, 0.0), (9,): (0.0, -1.0), **KNOWN}
ANSWER = (3, 1)


class Ensemble:
    """Two members: one says the first token, the other the number of tokens; states by table."""

    context_tokens = 8

    def __init__(self):
        self.read = []

    def mean_states(self, sequences):
        return torch.tensor([ASKED[each] for each in sequences])

    def scores(self, sequences):
        self.read += sequences
        return [[float(each[0]), float(len(each))] for each in sequences]


def plain(answers):
    return Ensemble().scores([(*prompt, *answer) for prompt, answer in answers])


def fused(ensemble, answers, fuse=5):
    known = KnownPrompts(tuple(KNOWN), torch.tensor(list(KNOWN.values())))
    return Fusion(ensemble, known, fuse).scores(answers, plain(answers))


def test_an_answer_is_scored_after_the_prompts_that_are_like_the_one_asked():
    ensemble = Ensemble()
    found = fused(ensemble, [((4,), ANSWER), ((9,), ANSWER)])
    assert ensemble.read == [(5, *ANSWER), (6, 6, *ANSWER)]  # not once more after the own prompt
    # (1 · 4 + 1 · 5 + .96 · 6) / 2.96 and (3 + 3 + .96 · 4) / 2.96; nothing is like the second
    assert found[0] == pytest.approx([14.76 / 2.96, 9.84 / 2.96], rel=1e-5)
    assert found[1] == [9.0, 3.0]


def test_where_nothing_is_like_the_prompt_the_score_is_its_own():
    ensemble = Ensemble()
    assert fused(ensemble, [((9,), ANSWER)]) == [[9.0, 3.0]] and ensemble.read == []


def test_the_nearest_are_taken_and_the_prompt_itself_counts_once():
    assert fused(Ensemble(), [((4,), ANSWER)], fuse=1) == [[4.5, 3.0]]
    found = fused(Ensemble(), [((5,), ANSWER)], fuse=1)
    assert found[0] == pytest.approx([(5 + 0.96 * 6) / 1.96, (3 + 0.96 * 4) / 1.96], rel=1e-5)


def test_a_prompt_that_leaves_the_answer_no_room_is_passed_over():
    long = (3,) * 7
    assert fused(Ensemble(), [((4,), long)]) == [[4.5, 8.0]]  # not after the prompt of two tokens


def test_rewards_find_fused_scores_under_keys_of_their_own(tmp_path):
    write_known_prompts(tmp_path, list(KNOWN), torch.tensor(list(KNOWN.values())))
    answers = [((4,), ANSWER), ((9,), ANSWER)]
    ensembles, folders = {"rm": Ensemble()}, {"rm": str(tmp_path)}
    own = {"rm": plain(answers)}
    found = FusedScores(ensembles, folders, [("rm", 1), ("rm", 5)]).of(answers, own)
    assert list(found) == ["rm, fuse 1", "rm, fuse 5"]
    assert found["rm, fuse 1"][0] == [4.5, 3.0] and found["rm, fuse 5"][0] != [4.5, 3.0]
    assert FusedScores(ensembles, {}, ()).of(answers, own) == {}


def test_known_prompts_come_back_as_they_were_written(tmp_path):
    states = torch.tensor(list(KNOWN.values()))
    write_known_prompts(tmp_path, list(KNOWN), states)
    known = read_known_prompts(tmp_path)
    assert known.prompts == tuple(KNOWN)
    torch.testing.assert_close(known.states_ND, states.bfloat16())
    (tmp_path / FILE).unlink()
    with pytest.raises(InputError, match=r"no prompts\.safetensors"):
        FusedScores({"rm": Ensemble()}, {"rm": str(tmp_path)}, [("rm", 2)])
