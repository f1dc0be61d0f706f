"""A few small random layers of another model's architecture, with that model's own tokenizer.

For runs that test everything but the weights: the same code builds, trains, serves and averages
it, the same tokens go in, and it takes seconds where the model would take a cluster. Shapes are
those of the micro model; vocabulary, context length and what else config.json says stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain.errors import InputError, Problem
from posttrain.files import whole_directory
from posttrain.model.chat_templates import read_template
from posttrain.model.folders import PICKLED, WEIGHTS, require_model_folder
from posttrain.model.load import (
    HUB_FILES,
    link_files,
    model_source,
    no_progress_bars,
    set_template,
)

CONFIG = "config.json"
LAYERS, HIDDEN, HEADS, HEAD_SIZE, INTERMEDIATE = 4, 128, 4, 32, 256
EXPERTS, EXPERTS_PER_TOKEN = 4, 2

SMALL: Mapping[str, int] = {
    "num_hidden_layers": LAYERS,
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "moe_intermediate_size": INTERMEDIATE,
    "shared_expert_intermediate_size": INTERMEDIATE,
    "num_attention_heads": HEADS,
    "head_dim": HEAD_SIZE,
    "num_experts": EXPERTS,
    "num_local_experts": EXPERTS,
    "n_routed_experts": EXPERTS,
    "num_experts_per_tok": EXPERTS_PER_TOKEN,
    "max_window_layers": LAYERS,
}
"""Sizes in a configuration, by the names that transformers gives them; those that it has."""


def tiny_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """What changes in a configuration, given as plain values.

    Example: of Qwen2.5 0.5B (24 layers of 14 heads, 2 of them for keys) hidden_size 896 → 128,
    num_hidden_layers 24 → 4, num_attention_heads 14 → 4, num_key_value_heads stays 2.
    """
    # Not what it is set to, but whether there is such a size: an expert model's lists stay lists.
    sizes: dict[str, Any] = {
        key: small if key in ("hidden_size", "head_dim", "num_attention_heads") else min(now, small)
        for key, small in SMALL.items()
        if isinstance(now := config.get(key), int)
    }
    keys = config.get("num_key_value_heads")
    if isinstance(keys, int):
        whole = keys >= config.get("num_attention_heads", keys)
        sizes["num_key_value_heads"] = HEADS if whole else min(keys, HEADS // 2)
    kinds = config.get("layer_types")
    if isinstance(kinds, list):
        sizes["layer_types"] = kinds[: sizes.get("num_hidden_layers", len(kinds))]
    return sizes


def adopt_tiny(path: str, target: Path, chat_template: str | None, seed: int) -> None:
    """Write the tiny model of a folder or a hub name to `target`; weights are not fetched.

    Raises InputError where there is no such model, or where its architecture cannot be made small.
    """
    source = model_source(path, [each for each in HUB_FILES if WEIGHTS not in each])
    require_model_folder(source, weights=False)
    template = read_template(chat_template) if chat_template is not None else None
    with whole_directory(target) as partial:
        try:
            _random_model(source, seed).save_pretrained(partial)
        except Exception as error:  # boundary: whatever an architecture makes of other sizes
            raise InputError(_cannot(path, error)) from error
        (partial / "generation_config.json").unlink(missing_ok=True)  # the model's own is linked
        link_files(source, partial, (*PICKLED, f"*{WEIGHTS}", f"*{WEIGHTS}.index.json", CONFIG))
        if template is not None:
            set_template(partial, template)


def _random_model(source: Path, seed: int) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    no_progress_bars()
    config = AutoConfig.from_pretrained(source, trust_remote_code=False, local_files_only=True)
    text = config.get_text_config()
    for key, value in tiny_sizes(text.to_dict()).items():
        setattr(text, key, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(text, dtype=torch.float32)


def _cannot(path: str, error: Exception) -> Problem:
    first_line = str(error).strip().partition("\n")[0]
    return Problem(
        "no-tiny-model",
        f"no tiny model can be made in the image of `{path}`: {type(error).__name__}: {first_line}",
        help="stages.NAME.tiny=false takes its own weights; stages.NAME.path=FOLDER another model",
    )
