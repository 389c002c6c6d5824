"""The store: an append-only, hash-chained journal, and the rows that its entries make when they are applied in order.

==============  ==============================================================  =====
module          content                                                         pure
==============  ==============================================================  =====
``seal``        the sealing secrets, and records sealed under them              yes
``journal``     an entry, and the chain that links the entries                  yes
``made``        the data that the authority adds to a request                   yes
``rows``        the rows that entries put                                       yes
``fold``        the changes that an entry makes                                 yes
``state``       the rows in memory, for the hot path                            yes
``migrations``  the tables, version by version                                  yes
``tables``      a change, and a row, as SQL                                     yes
``faults``      SQLite's errors as errors of tkdb                               yes
``file``        the file: the check that it is tkdb's, and the writer's lock    no
``database``    the journal and its fold in SQLite                              no
``feed``        the journal's revocations, for their followers                  no
``audit``       the proof that nobody altered the journal or the tables         no
==============  ==============================================================  =====
"""
