"""What an ensemble keeps of the prompts that it was trained on, for scores fused over prompts that
are like the one asked (`ops.fusion`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.model.known_prompts import write_known_prompts
from posttrain.model.states import mean_states
from posttrain.train.offline import OfflineSettings
from posttrain.train.pairs import Ids, RenderedPair

MOST_PROMPTS = 20_000
"""With 4,096 numbers each they are a file of 164 MB beside members of gigabytes, and one matrix
product per look-up. Which ones are kept of more, the seed decides."""


def distinct_prompts(
    pairs: Sequence[RenderedPair], seed: int, most: int = MOST_PROMPTS
) -> list[Ids]:
    """Each prompt once, in order; `most` of them where there are more."""
    prompts = list(dict.fromkeys(pair.prompt for pair in pairs))
    if len(prompts) <= most:
        return prompts
    places = random.Random(f"{seed}/known-prompts").sample(range(len(prompts)), most)
    return [prompts[place] for place in sorted(places)]


def keep_prompts(
    model: Any, prompts: Sequence[Ids], folder: Path, settings: OfflineSettings
) -> None:
    """Write the prompts with the model's states of them."""
    states_ND = mean_states(model, prompts, settings.tokens_per_micro_batch, settings.autocast)
    write_known_prompts(folder, prompts, states_ND)
