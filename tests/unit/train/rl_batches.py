"""A batch for tests of the trainer, random but for ever the same."""

import random

from posttrain.types import Prompt, Rollout, RolloutGroup, Score, ScoredGroup, TrainBatch


def make_batch(num_groups=4, samples=4):
    rng = random.Random(0)

    def ids(count):
        return tuple(rng.randint(3, 60) for _ in range(count))

    groups = []
    for draw in range(num_groups):
        prompt = Prompt(str(draw), "source", ids(5), "?", {})
        rollouts = []
        for sample in range(samples):
            tokens = ids(rng.choice([0, 1, 3, 8, 20]))
            logprobs = tuple(-4.2 + 0.1 * rng.random() for _ in tokens)
            mask = tuple(int(rng.random() < 0.9) for _ in tokens)
            versions = tuple(0 for _ in tokens)
            rollouts.append(
                Rollout(
                    str(draw),
                    sample,
                    prompt.token_ids,
                    tokens,
                    mask,
                    logprobs,
                    versions,
                    "",
                    "stop",
                )
            )
        scores = tuple(Score(float(rng.random() < 0.5)) for _ in rollouts)
        groups.append(
            ScoredGroup(RolloutGroup(str(draw), draw, prompt, tuple(rollouts), 0), scores)
        )
    return TrainBatch(0, tuple(groups))
