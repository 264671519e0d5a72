"""Scatters: what is decided without a store."""
