"""How machines share the head: events come in, actions go out.

The whole package is pure. A simulation drives these rules (docs/replication.md).
"""
