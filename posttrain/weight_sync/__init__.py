"""How the trainer's weights reach the engines, and how both sides know that they are the same.

The trainer writes one flat file into shared memory (`flat_file`), engines on the same host map it
and load it between two steps (`shm_engine`). `checksum` says that what arrived is what was sent,
`held` that the engine's layers compute with it.
"""
