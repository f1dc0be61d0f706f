"""What is saved, where, and how a half-written checkpoint is never mistaken for a whole one."""
