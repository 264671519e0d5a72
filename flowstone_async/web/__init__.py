"""The web side of an engine: REST, server-sent events and webhooks as one ASGI app (extra `ui`).

`engine.asgi(auth=...)` makes it, through `app.py`. An *operation* (`operation.py`) declares one method of one path:
what it takes and answers as pydantic models, who may, and the function that does it. `endpoint.py` routes and validates
by these declarations and `openapi.py` describes them, so that the two cannot differ. Read `operation.py` first, then
`endpoint.py`; the operations themselves are in files named by what they are about.

Nothing outside of this package imports a web framework, and nothing here names a store.
"""
