"""One machine of a replicated authority: it runs the protocol, and serves.

This is `tkdb serve` with a bucket.

``driver``         The driver: it gives the state machine its events, and carries out its actions
``incident``       An incident in the log: its beginning, repeated lines while it lasts, and its end
``journal_steps``  The steps on this machine's journal
``node``           The node: one machine of an authority whose machines share a bucket
``replicator``     The replicator: this machine's Litestream
``volume_file``    The facts that a machine must keep, in a small file next to its database
"""
