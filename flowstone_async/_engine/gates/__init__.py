"""Gates as whoever answers them meets them: tokens and addresses, payloads and their types, signals and lists.

Read `payloads.py` for what is kept of a signal, then `signalling.py` for how one is delivered.
"""
