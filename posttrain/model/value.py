"""Critics: a number before each token, from a model of its own or from the policy's layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.errors import InputError, Problem
from posttrain.model.folders import num_labels, require_model_folder
from posttrain.model.load import from_folder


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
    require_model_folder(path)
    labels = num_labels(path)
    if labels not in (None, 1):
        raise _no_critic(
            path, f"the sequence-classification model has {labels} labels; a critic says one number"
        )
    model, missing = from_folder(
        "AutoModelForSequenceClassification", path, precision, num_labels=1
    )
    own_head = [] if labels else ["score.weight"]  # not yet in a causal language model's folder
    missing = [name for name in missing if name not in own_head]
    if missing:
        raise _no_critic(path, f"the critic's folder lacks {missing[0]}")
    if not isinstance(getattr(model, "score", None), nn.Linear):
        raise _no_critic(path, "the critic's folder has no head named `score`")
    if own_head:
        with torch.no_grad():
            model.score.weight.zero_()
    return ValueModel(getattr(model, model.base_model_prefix), model.score).eval()


def _no_critic(path: str | Path, fact: str) -> InputError:
    help = "a sequence-classification folder with one label, or critic: policy"
    return InputError(Problem("no-critic", fact, file=str(path), help=help))
