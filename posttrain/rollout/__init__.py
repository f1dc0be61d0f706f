"""Answers to prompts: the vLLM engine, and a fake one for unit tests of what stands around it."""
