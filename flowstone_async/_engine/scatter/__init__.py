"""Runs scatters: docs/adr/0008-scatter.md. Read `scattering.py` first."""
