"""One thread: the models here are small, and threads that wait for a busy core cost more."""

import pytest
import torch

from posttrain.types import Prompt, Rollout, RolloutGroup, Score, ScoredGroup, TrainBatch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def hand_made_batch():
    """Step 3, three groups of three answers, 16 tokens.

    draw 4: two equal right answers of three tokens, a wrong one cut at one token
    draw 5: two empty answers, one of four tokens, cut; all wrong
    draw 6: three right answers of 1, 2 and 2 tokens; an environment put in one of them
    """

    def answer(draw, sample, tokens, versions, mask=None, finish="stop"):
        return Rollout(
            str(draw), sample, (1, draw), tokens, mask or (1,) * len(tokens),
            tuple(-0.1 * token for token in tokens), versions, f"answer {sample}", finish,
        )  # fmt: skip

    def group(draw, start_version, rollouts, scores):
        prompt = Prompt(f"rows/{draw}", "rows", (1, draw), f"question {draw}", {})
        return ScoredGroup(
            RolloutGroup(str(draw), draw, prompt, tuple(rollouts), start_version), tuple(scores)
        )

    right, wrong = Score(1.0, True, {"format": 1.0}), Score(0.0, False)
    return TrainBatch(
        step=3,
        groups=(
            group(4, 2, [
                answer(4, 0, (5, 6, 2), (2, 2, 3)),
                answer(4, 1, (5, 6, 2), (2, 2, 2)),
                answer(4, 2, (7,), (3,), finish="length"),
            ], [right, right, wrong]),
            group(5, 1, [
                answer(5, 0, (), ()),
                answer(5, 1, (), ()),
                answer(5, 2, (8, 8, 8, 8), (1, 1, 1, 1), finish="length"),
            ], [wrong, wrong, wrong]),
            group(6, 3, [
                answer(6, 0, (9,), (3,)),
                answer(6, 1, (9, 2), (3, 3), mask=(0, 1)),
                answer(6, 2, (9, 3), (3, 3)),
            ], [Score(1.0), Score(1.0), Score(1.0)]),
        ),
        waited_s=0.5,
    )  # fmt: skip
