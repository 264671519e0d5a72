"""One noun at a time: pure code, no loop and no store."""
