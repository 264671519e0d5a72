"""Codecs and I/O managers."""
