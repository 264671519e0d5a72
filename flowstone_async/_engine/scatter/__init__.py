"""Runs scatters: docs/adr/0008-scatter.md. Read `scattering.py` first.

Of a scatter in batches, `composing.py` decides which items are together, `batching.py` makes pages of that,
`batches.py` what bodies are called with, and `parting.py` what becomes of a batch of which only some items failed.
"""
