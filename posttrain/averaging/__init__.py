"""Averaging of weights: one method per file, each with `Config`, `NEEDS` and `merge()`.

A method sees one tensor at a time (`posttrain.ports.TensorVersions`), so whole models never have to
fit into memory.

May import: ops, ports and below; torch. Nothing that reads files.
"""
