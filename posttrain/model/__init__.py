"""Everything that touches a language model as a model: loading, rendering, attention, forward passes."""
