"""What is kept of a model that answers: its tokenizer, and the data's own answers in its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.stages.dataset import OWN_SAMPLE
from posttrain.types import Prompt, Rollout


def own_answers(model_path: str, prompts: Sequence[Prompt], column: str) -> list[Rollout | None]:
    """The answer in each prompt's row, tokenised as the model would have said it; None without one.

    Nobody sampled it, so its log-probs are 0. Runs in a process of its own.
    """
    from posttrain.model.chat import render_answer
    from posttrain.model.load import load_tokenizer

    tokenizer = load_tokenizer(model_path)
    found: list[Rollout | None] = []
    for prompt in prompts:
        text = _own_text(prompt.row, column)
        if text is None:
            found.append(None)
            continue
        ids = render_answer(prompt.row, text, tokenizer)
        found.append(
            Rollout(
                group_id=prompt.id,
                sample=OWN_SAMPLE,
                prompt_ids=prompt.token_ids,
                token_ids=tuple(ids),
                mask=(1,) * len(ids),
                logprobs=(0.0,) * len(ids),
                versions=(0,) * len(ids),
                text=text,
                finish="stop",
            )
        )
    return found


def keep_tokenizer(model_path: str, target: str) -> None:
    """Write a model's tokenizer into a folder of its own. Runs in a process of its own."""
    from posttrain.model.load import load_tokenizer

    load_tokenizer(model_path).save_pretrained(target)


def _own_text(row: Mapping[str, Any], column: str) -> str | None:
    messages = row.get("messages")
    if messages:
        last = messages[-1]
        return str(last["content"]) if last["role"] == "assistant" else None
    value = row.get(column)
    return value if isinstance(value, str) and value else None
