"""The asynchronous loop: admission, buffer, ledger, coordinator. Plain asyncio, no Ray.

May import: ports, types, errors, files; the standard library. What it works with is handed to it.
"""
