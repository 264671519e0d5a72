"""Bodies that wait for what only the database knows the end of: parked, evicted, suspended and woken."""
