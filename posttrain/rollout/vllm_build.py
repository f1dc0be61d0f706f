"""How a vLLM engine is started. The home of its arguments; runs in the engine's own thread."""

from __future__ import annotations

import logging
import math
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

from posttrain.heavy_imports import lean_imports
from posttrain.ports import EngineSpec
from posttrain.weight_sync.model_folder import folder_shapes, read_config

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
BYTES = {"fp32": 4, "bf16": 2}
MIN_BATCHED_TOKENS = 8192
LEAST_SHARE = 0.1  # with less vLLM would only say so later


def build_engine(spec: EngineSpec) -> Any:
    """A started vllm.LLMEngine. Raises whatever vLLM raises."""
    with lean_imports(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("vllm").setLevel(
            logging.ERROR
        )  # vLLM speaks before it reads its settings
        import torch

        if spec.gpus == 0:
            torch.set_num_threads(spec.cpus)
            # vLLM's bf16 attention uses AMX without asking the kernel's leave: an illegal
            # instruction ends the process, unless another library happened to ask before.
            torch.cpu._init_amx()
        from vllm import LLMEngine

        if spec.gpus == 0:
            from posttrain.rollout.vllm_small_heads import support_small_heads

            _register_model(read_config(spec.model_path).get("architectures") or [])
            support_small_heads()
        engine = LLMEngine.from_engine_args(engine_arguments(spec))
        _speak_once(engine)
        if spec.gpus == 0:
            _remove_meeting_point()
        return engine


def engine_arguments(spec: EngineSpec) -> Any:
    """vllm.EngineArgs for a spec."""
    from vllm.config import WeightTransferConfig
    from vllm.engine.arg_utils import EngineArgs

    from posttrain.weight_sync.worker_extension import EXTENSION

    arguments: dict[str, Any] = {
        "model": spec.model_path,
        "dtype": DTYPES[spec.precision],
        "max_model_len": spec.max_model_len,
        "max_num_seqs": spec.max_running,
        "enforce_eager": spec.eager,
        # Log-probs of the distribution that was sampled from: after the temperature.
        "logprobs_mode": "processed_logprobs",
        "weight_transfer_config": WeightTransferConfig(backend=spec.weight_sync),
        "worker_extension_cls": EXTENSION,
        # Weights are swapped between two steps; a step that is already under way would see both.
        "async_scheduling": False,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "seed": 0,
    }
    if spec.gpus == 0:
        arguments |= {
            "kv_cache_memory_bytes": spec.kv_cache_mb << 20,
            "block_size": spec.block_size,
            # A seeded request whose prompt is split over two steps ends the CPU engine.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(MIN_BATCHED_TOKENS, spec.max_model_len),
        }
    else:
        arguments["tensor_parallel_size"] = spec.gpus
        if spec.weight_sync == "nccl":
            arguments["gpu_memory_utilization"] = _share_beside_received(spec)
    return EngineArgs(**arguments)


def _share_beside_received(spec: EngineSpec) -> float:
    """Share of a GPU's memory that vLLM may fill. Weights that arrive by nccl are held whole beside
    the model, in every worker, until they are compared.
    """
    from vllm.config import CacheConfig
    from vllm.platforms import current_platform

    numbers = sum(math.prod(shape) for shape in folder_shapes(spec.model_path).values())
    received = numbers * BYTES[spec.precision] / current_platform.get_device_total_memory()
    return max(LEAST_SHARE, CacheConfig.gpu_memory_utilization - received)


def _speak_once(engine: Any) -> None:
    """Generate one token: shapes that a kernel does not know are found here, not in a rollout."""
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input

    parameters = SamplingParams(max_tokens=1, temperature=1.0, seed=0, logprobs=0, detokenize=False)
    engine.add_request("start", tokens_input([0]), parameters)
    while engine.has_unfinished_requests():
        engine.step()


def _remove_meeting_point() -> None:
    """Remove the file in which the processes of an engine find one another: here there is one.

    torch removes it at an orderly end; an engine that is killed would leave it.
    """
    name = os.environ.get("VLLM_DIST_IDENT", "")  # set by vLLM's CPU worker
    if name.startswith("vllm_dist_"):
        (Path(tempfile.gettempdir()) / name).unlink(missing_ok=True)


def _register_model(architectures: list[str]) -> None:
    """Import the model's class here; vLLM starts another interpreter to look at it (6 s)."""
    from vllm.model_executor.models.registry import ModelRegistry

    for architecture in architectures:
        known = ModelRegistry.models.get(architecture)
        if known is not None:
            ModelRegistry.register_model(architecture, known.load_model_cls())
