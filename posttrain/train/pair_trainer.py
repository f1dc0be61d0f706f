"""TRL's trainers on comparisons: micro-batches of like length under a token budget, our metrics.

A mean over a micro-batch counts as much as its share of the batch's comparisons; so do TRL's
metrics, which it would average over calls.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from trl import DPOTrainer, RewardTrainer

from posttrain.ports import Objective, PreferenceInputs
from posttrain.train.pairs import (
    RenderedPair,
    group_by_length,
    longest_answers,
    padded,
    split_pairs,
)
from posttrain.train.stage_trainer import StageTrainer

SHARE = "share"  # key of a part: its share of the batch's comparisons


class PairTrainer(StageTrainer):
    """What both have in common. `num_answers` of each comparison stand in a batch."""

    num_answers = 2
    _metrics: dict[str, Any]  # TRL's, by mode

    def micro_batches(self, inputs: dict[str, Any]) -> Iterator[dict[str, Any]]:
        room = self._budget // self.num_answers
        lengths = longest_answers(inputs, self.num_answers)
        groups = group_by_length(lengths, room, self._longest_of_all)
        for part, share in split_pairs(inputs, groups, self.num_answers):
            yield {**part, SHARE: share}

    def _longest_of_all(self, sizes: list[int]) -> list[int]:
        """TRL gathers metrics of each micro-batch: all ranks need as many, of the same sizes."""
        if self.accelerator.num_processes == 1:
            return sizes
        everyone = self.accelerator.gather(torch.tensor(sizes, device=self.args.device))
        return [int(each) for each in everyone.view(-1, len(sizes)).max(dim=0).values]

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._real = self._computed = 0.0
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._metrics["train"].clear()
        self._metrics["train"].update({name: [value] for name, value in self._sums.items()})
        return loss

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The part's mean loss times its share."""
        share = inputs.pop(SHARE)
        self._real += float(inputs["attention_mask"].sum())
        self._computed += inputs["attention_mask"].numel()
        before = dict(inputs)
        loss = super().compute_loss(model, inputs, False, num_items_in_batch)
        for name, values in self._metrics["train"].items():
            self._sums[name] += share * values[-1]
        for name, value in self.part_metrics(before).items():
            self._sums[name] += share * value
        return share * loss

    def part_metrics(self, inputs: Mapping[str, Any]) -> dict[str, float]:
        """Means over a part's comparisons that TRL does not count."""
        return {}

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset  # is tokenised, with the stage's own template


class MemberTrainer(PairTrainer, RewardTrainer):
    """Trains one member of an ensemble."""

    member = 0

    def own_metrics(self, logs: Mapping[str, float], tokens: float) -> dict[str, float]:
        return {
            "train/real_token_share": self._real / max(self._computed, 1),
            "rm/train_accuracy": logs["accuracy"],
            "rm/train_margin": logs["margin"],
        }


class PreferenceTrainer(PairTrainer, DPOTrainer):
    """Trains a policy on comparisons: with TRL's loss, or with the objective's own.

    Reference log-probs come with the rows.
    """

    objective: Objective
    names: Sequence[str]  # of the answers in a batch, chosen and rejected first
    detached: Sequence[str] = ()  # answers wanted of the whole batch, without gradient
    has_reference = True
    _whole: Mapping[str, Tensor] = {}

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        aside = {name: inputs.pop(name) for name in list(inputs) if name.startswith(COLLATED_ASIDE)}
        if self.detached:
            self._whole = self._ratios_of_whole(model, aside)
        return super().training_step(model, inputs, num_items_in_batch)

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Tensor:
        reference_BS = inputs.pop("reference")
        if self.objective.loss is None:
            inputs |= {"ref_chosen_logps": reference_BS[:, 0]}
            inputs |= {"ref_rejected_logps": reference_BS[:, 1]}
            return super()._compute_loss(model, inputs, return_outputs)
        logprobs_SB = self._logprobs(model, inputs).view(len(self.names), -1)
        lengths_SB = inputs["completion_mask"].sum(dim=1).view(len(self.names), -1)
        given = PreferenceInputs(
            dict(zip(self.names, logprobs_SB, strict=True)),
            dict(zip(self.names, reference_BS.T, strict=True)),
            dict(zip(self.names, lengths_SB, strict=True)),
            self._whole,
        )
        measured = given.ratio if self.has_reference else given.mean_logprob
        margin_B = (measured("chosen") - measured("rejected")).detach()
        self._note("rewards/margins", self.beta * margin_B)
        self._note("rewards/accuracies", (margin_B > 0).float())
        for name in ("chosen", "rejected"):
            self._note(f"logps/{name}", given.logprobs[name].detach())
        return self.objective.loss(given).mean()

    def part_metrics(self, inputs: Mapping[str, Any]) -> dict[str, float]:
        lengths_SB = inputs["completion_mask"].sum(dim=1).view(len(self.names), -1).float()
        return {
            f"length/{name}": float(self.accelerator.gather(lengths_SB[row]).mean())
            for row, name in enumerate(("chosen", "rejected"))
        }

    def own_metrics(self, logs: Mapping[str, float], tokens: float) -> dict[str, float]:
        lengths = {name: max(logs[f"length/{name}"], 1.0) for name in ("chosen", "rejected")}
        return {
            "train/real_token_share": self._real / max(self._computed, 1),
            "pref/accuracy": logs["rewards/accuracies"],
            "pref/margin": logs["rewards/margins"] / self.beta,
            "pref/chosen_logprob_per_token": logs["logps/chosen"] / lengths["chosen"],
            "pref/rejected_logprob_per_token": logs["logps/rejected"] / lengths["rejected"],
            "pref/length_gap_tokens": logs["length/chosen"] - logs["length/rejected"],
        }

    def _precompute_ref_logps(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset  # has them

    def _logprobs(self, model: Any, inputs: Mapping[str, Any]) -> Tensor:
        """[N] log-prob of each answer, summed over its tokens."""
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
        output = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            use_cache=False,
            labels=labels,
            fused_lm_head=True,
        )
        return output.log_probs.sum(dim=1)

    def _ratios_of_whole(self, model: Any, aside: Mapping[str, Any]) -> dict[str, Tensor]:
        """name -> [N] log-ratios of the detached answers, over the batch of all ranks."""
        block = {name.removeprefix(COLLATED_ASIDE): tensor for name, tensor in aside.items()}
        reference_BS = block.pop("reference")
        number = len(self.detached)
        ratios_BS = torch.zeros_like(reference_BS)
        # Not through `model`: ranks may need different numbers of passes here.
        plain = self.accelerator.unwrap_model(model)
        with torch.no_grad(), self.compute_loss_context_manager():
            index = {"row": torch.arange(len(reference_BS))}
            lengths = longest_answers(block, number)
            groups = group_by_length(lengths, self._budget // number)
            for part, _ in split_pairs({**block, **index}, groups, number):
                rows = part.pop("row")
                part = self._prepare_inputs(part)
                logprobs_SB = self._logprobs(plain, part).view(number, -1)
                ratios_BS[rows] = logprobs_SB.T.float() - reference_BS[rows]
        everyone = self.accelerator.gather(ratios_BS.to(self.args.device))
        return dict(zip(self.detached, everyone.T, strict=True))

    def _note(self, name: str, values_B: Tensor) -> None:
        self._metrics["train"][name].append(self.accelerator.gather(values_B).mean().item())


COLLATED_ASIDE = "aside_"  # before the names of what belongs to detached answers


def pair_collator(
    names: Sequence[str],
    pad_id: int,
    detached: Sequence[str] = (),
    score_only: bool = False,
    numbers: Sequence[str] = (),
) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Tensor]]:
    """Rows of `pair_dataset` as one padded batch: [S·B, T], answer after answer of `names`.

    `score_only` leaves out what reward models do not read. `numbers` are the dataset's, [B] each.
    """

    def block(rows: Sequence[Mapping[str, Any]], chosen: Sequence[str]) -> dict[str, Tensor]:
        pieces = [
            (tuple(row[f"{n}_context"]), tuple(row[f"{n}_answer"])) for n in chosen for row in rows
        ]
        whole = padded(pieces, pad_id)
        if score_only:
            del whole["completion_mask"]
            return whole
        reference_BS = torch.tensor([[row[f"{n}_reference"] for n in chosen] for row in rows])
        return {**whole, "reference": reference_BS}

    def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        batch = block(rows, names)
        if detached:
            aside = block(rows, detached)
            batch |= {f"{COLLATED_ASIDE}{name}": tensor for name, tensor in aside.items()}
        return batch | {each: torch.tensor([row[each] for row in rows]) for each in numbers}

    return collate


def pair_dataset(
    pairs: Sequence[RenderedPair],
    names: Sequence[str],
    reference_NS: Tensor | None = None,
    numbers: Mapping[str, Sequence[float]] = MappingProxyType({}),
) -> Any:
    """A `datasets.Dataset` of the pairs' answers; `reference_NS` [N, S] by pair and name, `numbers`
    by name, one of each pair.
    """
    from datasets import Dataset

    columns: dict[str, list[Any]] = {name: list(values) for name, values in numbers.items()}
    for place, name in enumerate(names):
        columns[f"{name}_context"] = [list(pair.answers[name][0]) for pair in pairs]
        columns[f"{name}_answer"] = [list(pair.answers[name][1]) for pair in pairs]
        if reference_NS is not None:
            columns[f"{name}_reference"] = reference_NS[:, place].tolist()
    return Dataset.from_dict(columns)
