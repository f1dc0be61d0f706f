"""Critics: a number before each token, from a model of its own or from the policy's layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.errors import InputError, Problem
from posttrain.model.folders import read_json, require_model_folder
from posttrain.model.load import DTYPES, attention_name, quiet

CLASSIFIER = "ForSequenceClassification"  # how such architectures' names end


class ValueModel(nn.Module):
    """A transformer with one number per token; takes packed rows."""

    def __init__(self, backbone: Any, score: nn.Linear) -> None:
        super().__init__()
        self.backbone = backbone
        self.score = score
        self._no_split_modules = getattr(backbone, "_no_split_modules", None)

    def forward(self, wanted_N: Tensor, **packed: Any) -> Tensor:
        """[N] values at the wanted positions of the row."""
        features_ND = self.backbone(**packed).last_hidden_state[0, wanted_N]
        with torch.autocast(features_ND.device.type, enabled=False):  # bf16 is coarse beside 10
            return self.score(features_ND.to(self.score.weight.dtype))[:, 0]


class ValueHead(nn.Module):
    """One number per token from the policy's last layer; begins as 0 everywhere."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.score = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, features_ND: Tensor) -> Tensor:
        """[N]"""
        return self.score(features_ND.to(self.score.weight.dtype))[:, 0]


def load_value_model(path: str | Path, precision: str = "fp32") -> ValueModel:
    """A critic from a folder, on the CPU, in evaluation mode.

    From a sequence-classification model (a reward model) it starts with that model's judgement;
    from a causal language model with its layers and a head that says 0. Raises InputError for
    folders that hold neither, and for classifiers with more than one label.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    require_model_folder(path)
    is_classifier = _is_classifier(path)
    quiet()
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    if is_classifier and config.num_labels != 1:
        raise InputError(
            Problem(
                "no-critic",
                f"the sequence-classification model has {config.num_labels} labels; a critic says "
                "one number",
                file=str(path),
                help="a reward model trained with num_labels: 1, or critic: policy",
            )
        )
    loaded: Any = AutoModelForSequenceClassification.from_pretrained(
        path,
        num_labels=1,
        dtype=DTYPES[precision],
        attn_implementation=attention_name(config, "packed"),
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        output_loading_info=True,
    )
    model, loading = loaded
    missing = sorted(
        set(loading["missing_keys"]) - ({"score.weight"} if not is_classifier else set())
    )
    if missing or not isinstance(getattr(model, "score", None), nn.Linear):
        what = f"lacks {missing[0]}" if missing else "has no head named `score`"
        raise InputError(
            Problem(
                "no-critic",
                f"the critic's folder {what}",
                file=str(path),
                help="a sequence-classification folder with one label, or critic: policy",
            )
        )
    if not is_classifier:
        with torch.no_grad():
            model.score.weight.zero_()
    return ValueModel(getattr(model, model.base_model_prefix), model.score).eval()


def _is_classifier(path: str | Path) -> bool:
    names = read_json(Path(path) / "config.json").get("architectures") or []
    return any(str(name).endswith(CLASSIFIER) for name in names)
