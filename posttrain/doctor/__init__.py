"""What a machine can do, and what is wrong with it: facts are read apart from what follows."""
