"""Whatever touches a language model: loading, rendering, attention, forward passes."""
