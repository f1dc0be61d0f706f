"""What is saved, where, and how a half-written checkpoint is never mistaken for a whole one.

May import: weight_sync and below; torch, safetensors. Never ray.
"""
