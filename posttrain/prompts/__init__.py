"""Where rows come from: the micro world, files, hubs; and the order in which prompts are drawn.

May import: weight_sync and below; datasets, pyarrow.
"""
