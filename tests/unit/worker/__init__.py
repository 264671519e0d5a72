"""What tells of a worker: probes, and as much of HTTP as they need."""
