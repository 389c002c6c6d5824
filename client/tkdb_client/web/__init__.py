"""The shared parts of the middlewares for web frameworks. Nothing here imports a framework.

==============  ==========================================================================================
``header``      the bundle in a request's Authorization header (pure)
``facts``       what a request says of itself that clears caveats: method, path, address, source
``rejection``   why a request isn't let in, and the HTTP answer that says so (pure)
``gate``        puts them together: one gate for an app, one visit for a request
==============  ==========================================================================================

The edges are `tkdb_client.asgi` (Starlette, FastAPI), `tkdb_client.django` and `tkdb_client.flask`.
"""
