"""What users write, as frozen values: assets, partitions, policies, markers, and the graph they form.

Nothing here does I/O or knows asyncio. Read `asset.py` (one definition), then `injection.py` (how a body's parameters
are resolved), `collection.py` (what a pipeline collects), `validate.py` (every problem at once) and `graph.py` (the
validated whole). A kind of asset is one frozen class in `kind.py`.
"""
