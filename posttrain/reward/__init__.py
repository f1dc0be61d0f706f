"""What a reward is, and how answers are scored in processes that can be killed.

May import: weight_sync and below; torch, openai, and what verifies answers.
"""
