"""Adapters that a real vLLM engine takes in place of weights: what comes of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from weight_swaps import VOCABULARY, gap


class AdapterSwaps:
    """`models` are two of one architecture, in `folders`; the engine has loaded the first one's."""

    def __init__(self, engine, models, folders, folder: Path) -> None:
        import torch

        from posttrain.config.lora import Lora
        from posttrain.model.load import load_model
        from posttrain.model.lora import adapted_layers, add_adapters
        from posttrain.weight_sync.shm_publisher import ShmPublisher

        self.engine = engine
        (self.base, self.other), self.folders = models, folders
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
