"""Shipped pipelines, smallest first: quickstart.yaml, gsm8k.yaml."""
