"""Sources by themselves: no engine, no store, no server."""
