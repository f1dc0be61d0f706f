"""Whole weights that a real vLLM engine takes while it generates: what comes of each swap."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

from tiny_engine import VOCABULARY, HalfWay


def gap(model, rollout, start=0, end=None) -> float:
    """Largest distance to the model's own log-probs over some of the answer's tokens."""
    import torch

    ids = torch.tensor([rollout.prompt_ids + rollout.token_ids])
    with torch.no_grad():
        logits = model(ids).logits[0, len(rollout.prompt_ids) - 1 : -1]
    truth = torch.log_softmax(logits, -1).gather(1, torch.tensor(rollout.token_ids)[:, None])[:, 0]
    return float((truth - torch.tensor(rollout.logprobs))[start:end].abs().max())


class WeightSwaps:
    """`models` are two of one architecture; the engine has the first one's weights."""

    def __init__(self, engine, models, folder: Path) -> None:
        from posttrain.weight_sync.shm_publisher import ShmPublisher

        self.engine, self.models = engine, models
        self.publisher = ShmPublisher("swaps", folder)

    def weights(self, version: int):
        return dict(self.models[version % 2].named_parameters())

    def publish(self, version: int):
        return self.publisher.prepare(self.weights(version), version, 0)

    async def ask(self, number: int = 0, tokens: int = 16):
        from posttrain.types import Prompt, Sampling

        asked = tuple(2 + (7 * number + 3 * i) % (VOCABULARY - 2) for i in range(30))
        sampling = Sampling(tokens, 1.0, seed=21 + number)
        version, (rollout,) = await self.engine.generate(
            str(number), Prompt(str(number), "", asked, "", {}), 1, sampling
        )
        return version, rollout

    async def run(self) -> dict:
        findings: dict = {}
        await self.engine.update_weights(self.publish(1))
        version, rollout = await self.ask()
        findings["after"] = {
            "version": version,
            "gap": gap(self.models[1], rollout),
            "gap_to_old": gap(self.models[0], rollout),
        }
        findings["flight"] = await self.in_flight()
        findings["refused"] = await self.refusals()
        await self.engine.update_weights(self.publish(4))
        version, rollout = await self.ask()
        findings["last"] = {"version": version, "gap": gap(self.models[0], rollout)}
        findings["kept"] = await self.kept()
        self.publisher.close()
        return findings

    async def kept(self) -> dict:
        """(before, after) five swaps: packed matrices, and layers that vLLM has notes on; and the
        smallest share of a swap in which the engine stood.
        """
        import gc

        from vllm._custom_ops import CPUDNNLGEMMHandler
        from vllm.model_executor.model_loader.reload.layerwise import LAYERWISE_INFO

        def count() -> tuple[int, int]:
            matrices = sum(isinstance(each, CPUDNNLGEMMHandler) for each in gc.get_objects())
            return matrices, len(LAYERWISE_INFO)

        gc.collect()
        gc.disable()
        before = count()
        reports = [await self.engine.update_weights(self.publish(each)) for each in range(5, 10)]
        after = count()
        gc.enable()
        return {
            "matrices": (before[0], after[0]),
            "notes": (before[1], after[1]),
            "stall": min(report.stall_ms / report.sync_ms for report in reports),
        }

    async def in_flight(self) -> dict:
        with HalfWay(self.engine, 64) as half_way:
            answers = [asyncio.create_task(self.ask(i, tokens=90)) for i in range(64)]
            await half_way.there()
            await self.engine.update_weights(self.publish(2))
        rollouts = [(await answer)[1] for answer in answers]
        changed = [r for r in rollouts if set(r.versions) == {1, 2}]
        firsts = [rollout.versions.index(2) for rollout in changed]
        both = list(zip(changed, firsts, strict=True))
        return {
            "answers": len(rollouts),
            "changed": len(changed),
            "sorted": all(list(r.versions) == sorted(r.versions) for r in rollouts),
            "old_gap": max(gap(self.models[1], r, 0, first) for r, first in both),
            "new_gap": max(gap(self.models[0], r, first) for r, first in both),
        }

    async def refusals(self) -> dict:
        findings = {}
        for why, spoil in SPOILED.items():
            _, before = await self.ask()
            version = spoil(self)
            error = None
            try:
                await self.engine.update_weights(version)
            except Exception as caught:  # its kind is what is asked about
                error = caught
            asked, after = await self.ask()
            findings[why] = {
                "error": type(error).__name__,
                "message": str(error),
                "unchanged": after == before,
                "version": asked,
            }
        return findings


def truncated(program):
    version = program.publish(3)
    os.truncate(version.location, version.num_bytes - 64)
    return version


def without_a_tensor(program):
    weights = program.weights(3)
    del weights["model.layers.1.self_attn.k_proj.weight"]
    return program.publisher.prepare(weights, 3, 0)


def another_shape(program):
    weights = program.weights(3)
    return program.publisher.prepare(
        weights | {"model.norm.weight": weights["model.norm.weight"][:32]}, 3, 0
    )


def gone(program):
    version = program.publish(3)
    os.remove(version.location)  # as when two newer versions have come out
    return version


SPOILED = {
    "truncated": truncated,
    "checksum": lambda program: replace(program.publish(3), checksum="0" * 32),
    "other version": lambda program: replace(program.publish(3), version=7),
    "other attempt": lambda program: replace(program.publish(3), attempt=1),
    "missing tensor": without_a_tensor,
    "another shape": another_shape,
    "gone": gone,
}
