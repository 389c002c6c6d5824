"""The HTTP server: a Starlette app on Hypercorn.

`tkdb.server.run` starts it. It limits every request, and drains before it stops.

``app``          The service as one ASGI app: the routes, and the middleware around every request
``arrivals``     The bodies that are still arriving
``asgi``         The ASGI operations that all endpoints share: send a whole response, and read a body within limits
``attested``     The check of callers
``connections``  The open connections: HTTP/1.1 by Hypercorn, in a number that the process has files for
``exchange``     Noise over HTTP: message 1 is the body of a request, and message 2 the body of its response
``health``       The health checks for proxies and alarms
``lifecycle``    The phases of a machine's life: starting, serving, draining
``limits``       The limits of one request, of one connection, and of all requests together
``listen``       The listening socket
``methods``      The methods of ``tkdb.api``, by name
``problems``     Errors of plain HTTP, as RFC 9457 problem details
``replay``       Passing a request on: ``fly-replay`` asks the proxy to send the request, unchanged, to another machine
``run``          The server process: it serves until it is asked to stop, and stops without cutting off a request
``work``         The work for one request, in any form (Noise or plain JSON): its place, its body and its deadline
"""
