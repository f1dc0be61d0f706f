"""Model folders as files: whether one may be read, and what its small files say."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from posttrain.errors import InputError, Problem

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
WEIGHTS = ".safetensors"
ENSEMBLE = "reward_models.json"  # of an ensemble's folder: its members, and their statistics
CLASSIFIER = "ForSequenceClassification"  # how such architectures' names end
UNNAMED_LABELS = ("LABEL_0", "LABEL_1")  # what transformers takes where config.json names none


def require_model_folder(path: str | Path, *, weights: bool = True) -> None:
    """Raise InputError where a folder holds no model that may be read."""
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise InputError(
            Problem(
                "no-model",
                "no model folder: it has no config.json" if folder.is_dir() else "no such folder",
                file=str(path),
                help="give a folder in Hugging Face form, or a hub name on a `model` stage",
            )
        )
    if not weights or any(folder.glob(f"*{WEIGHTS}")):
        return
    pickled = sorted(file.name for pattern in PICKLED for file in folder.glob(pattern))
    found = f", only {pickled[0]}, and pickled files can run code" if pickled else ""
    raise InputError(
        Problem(
            "no-weights",
            f"the model folder has no .safetensors file{found}",
            file=str(path),
            help="where you trust it, write it anew with `model.save_pretrained(folder)`",
        )
    )


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def num_labels(path: str | Path) -> int | None:
    """Labels of a sequence-classification model's folder; None for any other model.

    Raises ValueError where its config.json cannot be read.
    """
    config = read_json(Path(path) / "config.json")
    if not any(str(name).endswith(CLASSIFIER) for name in config.get("architectures") or []):
        return None
    return len(config.get("id2label") or UNNAMED_LABELS)


def member_folders(path: str | Path) -> list[Path]:
    """The members of an ensemble of reward models, in order.

    Raises InputError where one is missing.
    """
    folder = Path(path)
    summary = read_json(folder / ENSEMBLE)
    if not summary:
        raise InputError(
            Problem(
                "no-reward-model",
                f"no ensemble of reward models: it has no {ENSEMBLE}",
                file=str(path),
                help="the folder `reward_models` of a reward_model stage",
            )
        )
    members = [folder / each["folder"] for each in summary["members"]]
    for member in members:
        require_model_folder(member)
    return members


def vocabulary_fingerprint(path: str | Path) -> str:
    """Hash of which token is which, from tokenizer.json; empty where a folder has none."""
    tokenizer = read_json(Path(path) / "tokenizer.json")
    if not tokenizer:
        return ""
    added = {each["content"]: each["id"] for each in tokenizer.get("added_tokens", [])}
    vocabulary = tokenizer.get("model", {}).get("vocab")
    pairs = vocabulary.items() if isinstance(vocabulary, dict) else enumerate(vocabulary or [])
    text = json.dumps(sorted(map(str, [*pairs, *added.items()])))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def edit_json(path: Path, changes: dict[str, Any]) -> None:
    """Set keys of a JSON file (None removes one); a link is replaced, never written through."""
    content = read_json(path) | changes
    path.unlink(missing_ok=True)
    kept = {key: value for key, value in content.items() if value is not None or key not in changes}
    path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
