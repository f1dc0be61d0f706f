"""What a machine can do, and what is wrong with it: facts are read apart from what follows.

May import: weight_sync and below; psutil, packaging. Heavy libraries only in a process apart.
"""
