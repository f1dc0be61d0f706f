"""Answers to prompts: the vLLM engine, and a fake one for unit tests of what stands around it.

May import: weight_sync and below; vllm, torch.
"""
