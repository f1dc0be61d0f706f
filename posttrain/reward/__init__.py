"""What a reward is, and how answers are scored in processes that can be killed."""
