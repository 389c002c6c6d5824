"""The authority: what each method of ``tkdb.api`` means.

=================  ==========================================================================================
``service``        ``Authority``: takes each call to the part that answers it; the only thing that others use
``clock``          the wall clock, refused when it jumps
``keyring``        root keys, unsealed while they are in use
``judge``          whether tokens are valid
``minting``        new tokens
``decisions``      may this write be, and what does the authority add to it? (pure)
``writer``         one writer: decide, append to the journal, apply, tell who waits
``rate``           how often one lineage may be revoked by possession (pure)
=================  ==========================================================================================
"""
