"""The authority as plain JSON, for `tkdb dev`.

A local signer may do anything here, so `tkdb serve` never loads this package.

``openapi``  The methods of ``tkdb.api``, as ``tkdb dev`` serves them, described in OpenAPI 3.1
``page``     The page of ``tkdb dev``: the methods, each with a curl line
``plain``    Messages as plain JSON, for ``tkdb dev``
``routes``   The methods as plain JSON, for ``tkdb dev``: for curl and for learning, on loopback and nowhere else
"""
