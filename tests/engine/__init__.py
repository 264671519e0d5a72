"""Runs through the engine on the memory store and a virtual clock."""
