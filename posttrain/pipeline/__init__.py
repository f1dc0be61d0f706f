"""The graph of stages: references, identities, the artifact store, gates, and the runner.

May import: stages and below. Never torch, ray, vllm or trl: processes are behind ports.
"""
