"""Replication between regions: it makes several machines one authority.

Machines share one bucket, and never talk to each other.

``bucket``      The object store
``cluster``     The work of `tkdb init`, `tkdb recover` and `tkdb gc`, on the bucket as a whole
``litestream``  Litestream as a supervised child process
``node``        One machine of a replicated authority: it runs the protocol, and serves
``protocol``    How machines share the head: events come in, actions go out
"""
