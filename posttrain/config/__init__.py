"""Configuration: strict models, YAML with places, presets, overrides, plug-ins, JSON schema.

May import: types, errors; pydantic, yaml. Never torch: `check` has to be quick.
"""
