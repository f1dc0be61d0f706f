"""Whatever touches a language model: loading, rendering, attention, forward passes.

May import: algorithms and below; torch, transformers, peft.
"""
