"""Rewards that ship with posttrain: one file each, with `Config`, `score()`, `gold()`, `bad()`.

May import: config, reward, microworld, types, errors of posttrain; what verifies answers.
"""
