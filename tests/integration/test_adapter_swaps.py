"""Adapters sent to a real vLLM engine in place of weights, in a process of its own; the trainer's
model, with its adapters beside the matrices, is the truth. Models with tied and untied embeddings.

Run as a program (`FOLDER tied|untied`), this file prints its findings as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import findings_of

pytest.importorskip("vllm")

CONTEXT = 128
VOCABULARY = 64


@pytest.fixture(scope="module", params=["tied", "untied"])
def found(request, tmp_path_factory):
    """What the program found out."""
    return findings_of(__file__, tmp_path_factory.mktemp(request.param), request.param)


def test_log_probs_are_those_of_the_trainer(found):
    assert found["adapter"]["version"] == 1
    assert found["adapter"]["gap"] <= 1e-4
    assert found["adapter"]["gap_to_base"] > 0.1


def test_a_fresh_adapter_is_the_base(found):
    assert found["fresh"]["gap_to_base"] <= 1e-4


def test_the_next_adapter_is_merged_into_the_base_not_into_the_one_before(found):
    assert found["next"]["gap"] <= 1e-4
    assert found["next"]["gap_to_before"] > 0.1


def test_only_the_adapter_travels(found):
    assert found["bytes"]["adapter"] < 0.1 * found["bytes"]["whole"]


def test_whole_weights_and_adapters_may_follow_one_another(found):
    assert found["whole"]["gap"] <= 1e-4
    assert found["again"]["gap"] <= 1e-4


REFUSED = {
    "wrong scaling": "the trainer published",
    "wrong base": "was sent an adapter for the model",
    "half a pair": "has no counterpart",
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_refused_leaves_the_old_weights_in_use(found, why):
    assert found["refused"][why]["error"] == "WeightsDiffer"
    assert REFUSED[why] in found["refused"][why]["message"]
    assert found["refused"][why]["unchanged"]


def test_a_scaling_that_trainer_and_file_disagree_on_shows_in_the_log_probs(found):
    """Half of what it should be, published in good order: a bug that only the comparison sees."""
    assert found["half scaling"]["gap"] > 1e-2


# -- the program ----------------------------------------------------------------------------------


class Program:
    def __init__(self, folder: Path, tied: bool) -> None:
        from posttrain.ports import EngineSpec
        from posttrain.rollout.environment import apply_engine_environment

        spec = EngineSpec(str(folder / "0"), CONTEXT, "fp32", 64, True, 32, 256)
        apply_engine_environment(spec)
        import torch
        from tiny_engine import build_model

        from posttrain.config.lora import Lora
        from posttrain.model.load import load_model
        from posttrain.model.lora import adapted_layers, add_adapters
        from posttrain.rollout.vllm_engine import VllmEngine
        from posttrain.weight_sync.shm_publisher import ShmPublisher

        self.base, self.other = (build_model(folder / str(s), s, tied) for s in range(2))
        self.folders = [str(folder / str(seed)) for seed in range(2)]
        self.policies = []
        for seed in range(3):
            policy = load_model(self.folders[0])
            add_adapters(policy, Lora(rank=2, alpha=4), seed)
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for layer in adapted_layers(policy).values():
                    noise = torch.randn(layer.up.shape, generator=generator)
                    layer.up.copy_(0.3 * noise if seed else torch.zeros_like(noise))
            self.policies.append(policy)
        self.engine = VllmEngine(spec, "0")
        self.publisher = ShmPublisher("adapters", folder)

    def adapter(self, policy: int, scaling: float = 2.0):
        from posttrain.model.lora import adapter_matrices, base_folder
        from posttrain.weight_sync.adapter import adapter_tensors, base_checksum

        model = self.policies[policy]
        return adapter_tensors(
            dict(adapter_matrices(model)), scaling, base_checksum(base_folder(model))
        )

    def publish(self, tensors, version: int):
        return self.publisher.prepare(tensors, version, 0)

    async def ask(self):
        from posttrain.types import Prompt, Sampling

        asked = tuple(2 + (3 * i) % (VOCABULARY - 2) for i in range(30))
        prompt = Prompt("0", "", asked, "", {})
        version, (rollout,) = await self.engine.generate("0", prompt, 1, Sampling(16, 1.0, seed=21))
        return version, rollout

    async def take(self, tensors, version: int):
        published = self.publish(tensors, version)
        await self.engine.update_weights(published)
        return published, *await self.ask()

    async def run(self) -> dict:
        from test_weight_swaps import gap

        await self.engine.start()
        found: dict = {}
        first, version, rollout = await self.take(self.adapter(1), 1)
        found["adapter"] = {
            "version": version,
            "gap": gap(self.policies[1], rollout),
            "gap_to_base": gap(self.base, rollout),
        }
        _, _, rollout = await self.take(self.adapter(0), 2)
        found["fresh"] = {"gap_to_base": gap(self.base, rollout)}
        _, _, rollout = await self.take(self.adapter(2), 3)
        before = gap(self.policies[1], rollout)
        found["next"] = {"gap": gap(self.policies[2], rollout), "gap_to_before": before}
        whole, _, rollout = await self.take(dict(self.other.named_parameters()), 4)
        found["whole"] = {"gap": gap(self.other, rollout)}
        found["bytes"] = {"adapter": first.num_bytes, "whole": whole.num_bytes}
        _, _, rollout = await self.take(self.adapter(1), 5)
        found["again"] = {"gap": gap(self.policies[1], rollout)}
        _, _, rollout = await self.take(self.adapter(1, scaling=1.0), 6)
        found["half scaling"] = {"gap": gap(self.policies[1], rollout)}
        found["refused"] = await self.refusals()
        await self.engine.shutdown()
        self.publisher.close()
        return found

    async def refusals(self) -> dict:
        half = self.adapter(1)
        del half["model.layers.1.self_attn.k_proj.lora_B.weight"]
        right = self.publish(self.adapter(1), 7)
        wrong = replace(self.publish(self.adapter(1, 2.5), 7), checksum=right.checksum)
        found = {"wrong scaling": await self.refused(wrong)}
        found["half a pair"] = await self.refused(self.publish(half, 8))
        await self.engine.load_model_folder(self.folders[1])
        found["wrong base"] = await self.refused(self.publish(self.adapter(1), 9))
        return found

    async def refused(self, version) -> dict:
        _, before = await self.ask()
        error = None
        try:
            await self.engine.update_weights(version)
        except Exception as caught:  # its kind is what is asked about
            error = caught
        _, after = await self.ask()
        kind, unchanged = type(error).__name__, after == before
        return {"error": kind, "message": str(error), "unchanged": unchanged}


if __name__ == "__main__":
    program = Program(Path(sys.argv[1]), tied=sys.argv[2] == "tied")
    print(json.dumps(asyncio.run(program.run())))
