"""One file per kind of stage: inputs in, artifact out. Processes are reached through ports only.

May import: what stands below; torch. Never ray, vllm, trl or wandb.
"""
