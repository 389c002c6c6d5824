"""How machines share the head: events come in, actions go out.

The whole package is pure. A simulation drives these rules (docs/replication.md).

``actions``        The actions of the state machine
``candidacy``      The candidacy: whether this machine may take over now
``epoch``          The epoch that a machine leads, or tries to lead
``events``         The events of the state machine
``follower``       The follower: it brings the machine's own journal to the head, one step at a time
``freshness``      Freshness: the latest time for which this machine is known to have every acknowledged entry
``head``           The head: the one object that all machines share
``lease``          The lease
``publication``    The publication
``reader``         The reader of the head: when it is read, and which heads are accepted
``settings``       The settings of one machine's state machine: its rank among the machines, and its times
``state_machine``  The state machine with all rules of the head
``swaps``          Swaps of the head: the one in flight, and those with an unknown outcome
"""
