"""Configuration: strict models, YAML with places, presets, overrides, plug-ins, JSON schema."""
