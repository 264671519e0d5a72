"""Approvals as whoever decides them meets them: what is on record of a request, how it is decided, and lists of them.

Read `requests.py` for what is kept, then `deciding.py`. What a body does that asks is in `_engine/replay/approval.py`.
"""
