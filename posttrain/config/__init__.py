"""Configuration: strict models, YAML with places, presets, overrides, plug-ins, JSON schema.

May import: types, errors, files; pydantic, yaml. Never torch: `check` has to be quick.
"""
