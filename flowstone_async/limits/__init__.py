"""Limits by key: rates, which permit so many starts in a time, and slots, which so many hold at once.

Read `history.py` first: when a permit may be granted, and why no window ever sees more. `rate.py` is what users write.
`book.py` is the port to whatever remembers grants and holders; `local.py` is the one for a single process, the others
are in the stores. `line.py` has those who wait, `desk.py` serves them, `limits.py` is what users call. Why it is so:
docs/adr/0009-limits.md.
"""
