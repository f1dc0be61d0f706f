"""Tasks of the lm-evaluation-harness, asked of our engines. The only home of `lm_eval`.

May import: weight_sync and below; lm_eval, transformers.
"""
