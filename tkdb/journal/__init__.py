"""The journal: entries, the chain that links them, the rows that they add up to, and the feed of revocations.

The whole package is pure.

``additions``  The data that the authority adds to a request in order to carry it out
``entry``      The journal's entries, and the chain that links them
``feed``       The feed: the journal's revocations, for clients that follow some root keys
``fold``       The fold: the rows that an entry puts
``rows``       The rows that entries put
``seal``       Sealing: root keys and chain keys are stored encrypted, under a secret that isn't in the database
``state``      The state: the fold in memory, which the hot path reads instead of a database
"""
