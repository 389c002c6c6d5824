"""The store: an append-only, hash-chained journal, and what applying it in order gives.

==============  ==============================================================  =====
module          its noun                                                        pure
==============  ==============================================================  =====
``seal``        the sealing secrets, and records sealed under them              yes
``journal``     an entry, and the chain that holds entries together             yes
``made``        what the authority adds to a request to carry it out            yes
``rows``        the rows that entries put                                       yes
``fold``        the changes that an entry makes                                 yes
``state``       the rows in memory, for the hot path                            yes
``migrations``  the tables, version by version                                  yes
``tables``      a change, and a row, as SQL                                     yes
``faults``      SQLite's errors as ours                                         yes
``file``        the file: whose it is, and its one writer                       no
``database``    the journal and its fold in SQLite                              no
``feed``        the journal's revocations, for those who follow them            no
``audit``       the proof that journal and tables are what was written          no
==============  ==============================================================  =====
"""
