"""Model folders in Hugging Face form: reading, writing, and bringing foreign ones into a run.

Only safetensors is read, and no code that ships with a model is run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from posttrain.errors import InputError, Problem
from posttrain.files import whole_directory
from posttrain.heavy_imports import lean_imports
from posttrain.model.chat import end_of_turn_ids
from posttrain.model.chat_templates import read_template
from posttrain.model.folders import (
    PICKLED,
    WEIGHTS,
    edit_json,
    read_json,
    require_model_folder,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]


def load_model(
    path: str | Path, precision: str | None = "fp32", attention: str = "packed"
) -> PreTrainedModel:
    """A causal language model from a folder, on the CPU, in evaluation mode.

    `precision` is fp32, bf16 or None for the folder's own. `attention` is `packed` or a name that
    transformers knows. Architectures that packed attention does not cover get sdpa, which is right
    for packed rows as well, only slower. Raises InputError for folders that hold no model.
    """
    model, missing = from_folder("AutoModelForCausalLM", path, precision, attention)
    if missing:  # transformers would fill them with random numbers and go on
        raise InputError(_missing(path, missing))
    return model


def from_folder(
    kind: str, path: str | Path, precision: str | None, attention: str = "packed", **changes: Any
) -> tuple[Any, list[str]]:
    """(model, names of weights that the folder lacks), read by transformers' Auto class `kind`.

    `changes` are of its configuration. Other arguments and errors as of `load_model`.
    """
    with lean_imports():
        import transformers

        auto_class, auto_config = getattr(transformers, kind), transformers.AutoConfig

    require_model_folder(path)
    no_progress_bars()
    config = auto_config.from_pretrained(path, trust_remote_code=False, **changes)
    model, loading = auto_class.from_pretrained(
        path,
        config=config,
        dtype="auto" if precision is None else DTYPES[precision],
        attn_implementation=_attention_name(config, attention),
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        output_loading_info=True,
    )
    return model.eval(), sorted(loading["missing_keys"])


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The folder's tokenizer, with its chat template where it has one."""
    with lean_imports():
        from transformers import AutoTokenizer

    require_model_folder(path, weights=False)
    return AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)


def load_state(path: str | Path) -> dict[str, Tensor]:
    """All weights of a folder by name, on the CPU, mapped from disk; tied ones appear once."""
    from safetensors.torch import load_file

    require_model_folder(path)
    state: dict[str, Tensor] = {}
    for file in sorted(Path(path).glob(f"*{WEIGHTS}")):
        state |= load_file(file)
    return state


def stored_formats(path: str | Path) -> set[str]:
    """Number formats of a folder's tensors (`F32`, `BF16`), from the files' headers."""
    from safetensors import safe_open

    formats: set[str] = set()
    for file in sorted(Path(path).glob(f"*{WEIGHTS}")):
        with safe_open(file, framework="np") as tensors:
            formats |= {str(tensors.get_slice(name).get_dtype()) for name in tensors.keys()}  # noqa: SIM118
    return formats


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    directory: str | Path,
    precision: str | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a model folder whole or not at all; one that is already there is replaced.

    `precision` casts what is written; None keeps the model's own format. `weights` is written in
    place of the model's own where those are sharded: whole, tied ones once, cast already.
    """
    no_progress_bars()
    with whole_directory(Path(directory)) as partial:
        if precision is not None and (weights is not None or model.dtype != DTYPES[precision]):
            state = dict(weights or _cast(model, DTYPES[precision]))
            model.save_pretrained(partial, state_dict=state)
            edit_json(partial / "config.json", {"dtype": str(DTYPES[precision]).split(".")[1]})
        else:
            model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)


def adopt_model(path: str, target: Path, chat_template: str | None = None) -> None:
    """Bring a model from a folder or a hub into `target`, by links; nothing big is copied.

    A chat template given here is written into the new folder, together with its end-of-turn token
    as one that stops generation. Raises InputError.
    """
    source = model_source(path, HUB_FILES)
    require_model_folder(source)
    template = read_template(chat_template) if chat_template is not None else None
    with whole_directory(target) as partial:
        link_files(source, partial, PICKLED)
        if template is not None:
            set_template(partial, template)


def model_source(path: str, patterns: Sequence[str]) -> Path:
    """A folder, or where a hub model's files of these names lie. Raises InputError."""
    return Path(path) if Path(path).is_dir() else _download(path, patterns)


def link_files(source: Path, target: Path, besides: Sequence[str]) -> None:
    """Links to a folder's files, but those whose names match one of `besides`."""
    for file in sorted(source.iterdir()):
        if file.is_file() and not any(file.match(pattern) for pattern in besides):
            os.symlink(file.resolve(), target / file.name)


def context_length(config: Any) -> int:
    """Tokens that a model can attend to, prompt and answer together, from its configuration."""
    return int(config.get_text_config().max_position_embeddings)


def set_template(folder: Path, source: str) -> None:
    """Make `source` the folder's chat template; what it ends turns with stops generation."""
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    (folder / "chat_template.jinja").write_text(source, encoding="utf-8")
    edit_json(folder / "tokenizer_config.json", {"chat_template": None})
    stops = end_of_turn_ids(load_tokenizer(folder))
    known = read_json(folder / "generation_config.json").get("eos_token_id")
    known = known if known is not None else read_json(folder / "config.json").get("eos_token_id")
    known_list = known if isinstance(known, list) else [] if known is None else [known]
    eos = [*stops, *(token for token in known_list if token not in stops)]
    if eos:
        edit_json(folder / "generation_config.json", {"eos_token_id": eos})


# -- inside -------------------------------------------------------------------------------------


def no_progress_bars() -> None:
    """Screens belong to the command line; a worker's bars would only fill its log."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _missing(path: str | Path, names: list[str]) -> Problem:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return Problem(
        "weights-missing",
        f"the model folder lacks {names[0]}{more}, which its config.json asks for",
        file=str(path),
        help="probably a half-copied folder, or one that holds another kind of model",
    )


def _cast(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """The state in another number format; tied weights stay tied, so they are written once."""
    casts: dict[int, Tensor] = {}
    return {
        name: casts.setdefault(tensor.data_ptr(), tensor.to(dtype))
        for name, tensor in model.state_dict().items()
    }


def _attention_name(config: Any, attention: str) -> str:
    if attention != "packed":
        return attention
    if not _covered_by_packed(config):
        return "sdpa"
    if torch.cuda.is_available() and _has_flash_attention():
        return "flash_attention_2"
    from posttrain.model.attention import register_packed_attention

    return register_packed_attention()


def _covered_by_packed(config: Any) -> bool:
    """Full and sliding-window softmax attention; no soft caps, sinks, chunks or recurrence."""
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    if getattr(text, "attn_logit_softcapping", None) or text.model_type in ("gpt_oss",):
        return False
    return kinds <= {"full_attention", "sliding_attention"}


def _has_flash_attention() -> bool:
    from transformers.utils import is_flash_attn_2_available

    return bool(is_flash_attn_2_available())


def _download(name: str, patterns: Sequence[str]) -> Path:
    """A hub model's folder in the local hub cache. Raises InputError where there is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        lines = str(error).strip().splitlines() or [repr(error)]
        reason = lines[0].strip('"')
        raise InputError(
            Problem(
                "no-model",
                f"`{name}` is no folder here, and no hub has it: {reason}",
                help="check the spelling; without internet give a folder",
            )
        ) from error
