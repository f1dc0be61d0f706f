"""Training: packing, the RL step and its loop, SFT through TRL. Knows nothing of processes."""
