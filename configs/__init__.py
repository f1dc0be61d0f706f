"""Shipped presets by stage kind and resource: sft/, online_rl/, cluster/."""
