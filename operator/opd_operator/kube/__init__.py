"""Talking to the API server: caches, server-side apply, Events, the Lease. Decides nothing."""
