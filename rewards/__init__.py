"""Rewards that ship with posttrain: one file each, with `Config`, `score()`, `gold()`, `bad()`."""
