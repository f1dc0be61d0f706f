"""What one step of an `online_rl` stage needs of its data and of its micro-batches.

Asked twice: by `check` with what is known without a tokenizer, and before the first stage starts
with every prompt counted and its length known.
"""

from __future__ import annotations

from posttrain.config.document import Places
from posttrain.config.pipeline import OnlineRlStage
from posttrain.errors import Problem


def check_step(
    name: str,
    stage: OnlineRlStage,
    num_prompts: int | None,
    longest_prompt_tokens: int | None,
    places: Places,
) -> list[Problem]:
    """`num_prompts` counts different ones; both numbers are None where they are not known."""
    found = [
        _prompts(name, stage, num_prompts),
        _micro_batch(name, stage, longest_prompt_tokens),
    ]
    return [placed(problem, places) for problem in found if problem is not None]


def placed(problem: Problem, places: Places) -> Problem:
    """With file and line of its key."""
    file, line = places.of(problem.path)
    return Problem(problem.code, problem.message, problem.path, file, line, problem.help)


def _prompts(name: str, stage: OnlineRlStage, num_prompts: int | None) -> Problem | None:
    """The groups of one step are compared with one another: each needs a prompt of its own."""
    asked = stage.batch.prompts
    held_out = stage.heldout.prompts if stage.heldout else 0
    if num_prompts is None or asked <= num_prompts - held_out:
        return None
    left = max(0, num_prompts - held_out)
    beside = f", {held_out} of them held out" if held_out else ""
    return Problem(
        "too-few-prompts",
        f"{asked} prompts per step, but the data holds {num_prompts} different ones{beside}",
        f"stages.{name}.batch.prompts",
        help=f"prompts: {left}, or more rows" if left else "more rows, or fewer held out",
    )


def _micro_batch(name: str, stage: OnlineRlStage, longest: int | None) -> Problem | None:
    """A prompt and the longest answer to it have to fit into one forward pass."""
    budget, answer = stage.batch.tokens_per_micro_batch, stage.sampling.max_new_tokens
    needed = (1 if longest is None else longest) + answer
    if needed <= budget:
        return None
    prompt = "a prompt" if longest is None else f"the longest prompt ({longest} tokens)"
    return Problem(
        "micro-batch-too-small",
        f"a micro-batch holds {budget} tokens, {prompt} and an answer of {answer} do not fit",
        f"stages.{name}.batch.tokens_per_micro_batch",
        help=f"tokens_per_micro_batch: {needed} or more, or a lower sampling.max_new_tokens",
    )
