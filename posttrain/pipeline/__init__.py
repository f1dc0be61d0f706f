"""The graph of stages: references, identities, the artifact store, gates, and the runner."""
