"""The database: the journal and its fold in SQLite, and the audit that compares them.

One file has one writer. Only this package knows SQLite.

``audit``             The audit
``connection``        A connection to a database file: opened, set up and migrated
``database``          The journal and its fold in SQLite: one file, one writer, and one transaction for each write
``file``              The database file
``file_replacement``  The place of a database
``migrations``        The tables, version by version
``proof``             The proof that a database matches its journal, and that the authority wrote the journal
``reader``            The reads of a database
``refold``            Refolding: the fold of a journal's entries in memory, with the data for every row of the tables
``sqlite_errors``     SQLite's errors, turned into errors of tkdb: the store never raises an error of SQLite itself
``tables``            The translation of changes and entries to SQL, and of table rows back to structs
"""
