"""Environment variables of a process that runs an engine. Imports nothing heavy.

They act only where they are set before torch and vllm are imported.
"""

from __future__ import annotations

import os
import tempfile

from posttrain.ports import EngineSpec

# Wins over the cache size of the spec, and an empty value kills the engine at its start.
UNWANTED = ("VLLM_CPU_KVCACHE_SPACE",)


def engine_environment(spec: EngineSpec) -> dict[str, str]:
    """What makes vLLM start fast, stay quiet, compute reproducibly and spare the home folder."""
    scratch = os.path.join(tempfile.gettempdir(), f"posttrain-vllm-{os.getuid()}")
    environment = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine runs in our thread: nothing to clean up
        "VLLM_CACHE_ROOT": os.path.join(scratch, "cache"),
        "VLLM_CONFIG_ROOT": os.path.join(scratch, "config"),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    if spec.gpus == 0:
        # One thread per engine makes answers independent of what else is in the batch, to the bit.
        environment["OMP_NUM_THREADS"] = str(spec.cpus)
    if spec.eager:
        environment["TORCHDYNAMO_DISABLE"] = "1"  # 1.4 s of compilation at the first log-probs
    return environment


def apply_engine_environment(spec: EngineSpec) -> None:
    """Set them in this process; what the user has set stays, except what would break the engine."""
    for name in UNWANTED:
        os.environ.pop(name, None)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    for name, value in engine_environment(spec).items():
        os.environ.setdefault(name, value)
