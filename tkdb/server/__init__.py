"""The authority as an HTTP service: a Starlette app on Hypercorn. ``tkdb.server.run`` starts it."""
