"""A program (`FOLDER tied|untied`): one vLLM engine that takes whole weights, and then adapters; it
prints what came of each as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

CONTEXT = 128


async def main(folder: Path, tied: bool) -> dict:
    from posttrain.ports import EngineSpec
    from posttrain.rollout.environment import apply_engine_environment

    folders = [str(folder / str(seed)) for seed in range(2)]
    spec = EngineSpec(folders[0], CONTEXT, "fp32", 64, True, 32, 256)
    apply_engine_environment(spec)
    from adapter_swaps import AdapterSwaps
    from tiny_engine import build_model
    from weight_swaps import WeightSwaps

    from posttrain.rollout.vllm_engine import VllmEngine

    models = [build_model(Path(folders[seed]), seed, tied) for seed in range(2)]
    engine = VllmEngine(spec, "0")
    await engine.start()
    weights = await WeightSwaps(engine, models, folder).run()
    await engine.load_model_folder(folders[0])
    adapters = await AdapterSwaps(engine, models, folders, folder).run()
    await engine.shutdown()
    return {"adapters": adapters, "weights": weights}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(Path(sys.argv[1]), tied=sys.argv[2] == "tied"))))
