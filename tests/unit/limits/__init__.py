"""Limits within one process."""
