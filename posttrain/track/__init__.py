"""What people look at: metrics, events and samples as files, W&B, the terminal and the report.

Everything shown is read back from the run folder; nothing here talks to a running process.

May import: weight_sync and below; wandb, rich, jinja2.
"""
