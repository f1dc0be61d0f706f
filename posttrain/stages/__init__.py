"""One file per kind of stage: inputs in, artifact out. Processes are reached through ports only."""
