"""The shared parts of the middlewares for web frameworks. Nothing here imports a framework.

==============  ==========================================================================================
``header``      the bundle in a request's Authorization header (pure)
``facts``       the facts of a request that clear caveats: method, path, address, source
``rejection``   a rejected request: the reason, and the HTTP response (pure)
``gate``        puts them together: one gate for an app, one visit for a request
==============  ==========================================================================================

The edges are `tkdb_client.asgi` (Starlette, FastAPI), `tkdb_client.django` and `tkdb_client.flask`.
"""
