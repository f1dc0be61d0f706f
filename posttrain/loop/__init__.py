"""The asynchronous loop: admission, buffer, ledger, coordinator. Plain asyncio, no Ray."""
