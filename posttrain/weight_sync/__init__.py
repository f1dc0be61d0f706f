"""How the trainer's weights reach the engines, and how both sides know that they are the same.

`transport` is the protocol. `shm`: the trainer writes one flat file into shared memory
(`shm_publisher`, `flat_file`), engines of the same host map it. `nccl`: the trainer broadcasts from
GPU to GPU (`nccl_publisher`, `nccl_receiver`) over vLLM's own transfer engines (`nccl_link`), and
both sides agree through a small store (`nccl_meeting`). `checksum` and `device_checksum` say that
what arrived is what was sent, `held` that the engine's layers compute with it. `worker_extension`
is what vLLM's worker does for an update, `shadow` why it need not stand still meanwhile.

May import: model and below; torch, safetensors, vllm.
"""
