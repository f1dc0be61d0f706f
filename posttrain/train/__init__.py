"""Training: packing, the RL step and its loop, SFT through TRL. Knows nothing of processes.

May import: weight_sync and below; torch, transformers, trl, datasets.
"""
