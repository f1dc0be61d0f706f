"""posttrain: from a base language model to a finished one, as one graph of stages."""
