"""Running a body again: what is on record of its durable calls, and in which order it is handed out."""
