"""The authority: what each method of `tkdb.api` does.

One writer changes the journal, and many readers answer from memory. Other packages use `service` and `methods`.

``clock``          The wall clock, trusted only while it agrees with the monotonic clock
``decisions``      Decisions on writes
``genesis``        The first entry of a journal, and the check of an existing journal
``keyring``        Root keys, unsealed while they are in use
``methods``        The methods that neither write nor wait, answered from the state in memory
``minting``        Minting: the decision on a new token's caveats, key and nonce
``point_in_time``  A point in time: the rows after an entry of the journal, and the changes that a restore to it makes
``publisher``      The publisher: it acknowledges committed entries
``quota``          The quota of revocations: the largest number that every machine must remember for one organization
``service``        The authority on one machine: it passes each call to the part that answers it
``verification``   Verification: the authority's verdict on each bundle
``view``           The view: the data that this machine serves
``writer``         The only writer: it decides, appends to the journal, and answers when the write is acknowledged
"""
