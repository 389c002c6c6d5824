"""Tools for operators: they examine a replicated authority, or break one on purpose.

They are never part of a running authority. Only `tkdb.cli` imports them.

``fly_api``  Fly's Machines API: its URL, its authorization, and its requests
``opening``  Objects that open in several steps and close by undoing them in reverse order
``doctor``   The doctor: checks that a deployment is isolated and safe
``drills``   Failover drills: a fault is injected while clients call, and the result is recorded, measured and judged
``flycast``  The stand-in for flycast: Fly's private anycast, built of real parts, on one Linux machine
``lab``      The lab: a whole multi-region tkdb on this machine, behind the stand-in for flycast
"""
