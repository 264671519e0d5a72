"""What a worker process has around its engine, so that whoever runs it can tell how it is.

- `probes.py`: whether the worker is alive and ready, with the reasons; read this first;
- `pulse.py`: whether the engine's event loop still turns, seen from another thread;
- `health_server.py`: tells both over HTTP, from a thread and a loop of its own, also while a body blocks the engine's;
- `http.py`: as much of HTTP/1.1 as that takes.

The daemon itself is `flowstone worker` (`cli/worker.py`), which composes engine, signals and this.
"""
