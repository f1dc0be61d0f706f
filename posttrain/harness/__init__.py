"""Tasks of the lm-evaluation-harness, asked of our engines. The only home of `lm_eval`."""
