"""Failover drills: a fault is injected while clients call, and the result is recorded, measured and judged.

Everything but the load, the targets and the run is pure.

``audit``         The final check of a machine: does it have every acknowledged write? No failure is excused here
``catalogue``     The catalogue of drills, in the order in which ``tkdb drill run all`` runs them
``chart``         The chart of one drill over time
``delay``         The scheduling delay of this machine, sampled by a thread during a drill
``drill``         A drill as data: the fault, the repair, and the objectives
``figures``       The figures of a record: those that decide the verdict, and those that explain it
``fly_machines``  The machines of one app on Fly, for drills
``fly_target``    Real Fly as a target of drills
``history``       The history of drills: a file with one line of JSON for each run
``lab_target``    The lab as a target of drills
``load``          The load of a drill: clients in several regions that mint, verify and revoke during the whole drill
``objectives``    The objectives of a drill: limits, by name, and the file ``drills.toml`` that changes them
``operator``      The operator's actions in a drill
``record``        The record of a drill: calls, writes, the machines' reports, and the drill's actions
``report``        The report: one self-contained HTML page, for light and dark screens and for paper
``run``           One run of a drill: load, fault, repair, recovery and final check
``session``       A session of ``tkdb drill run``: several drills, one after another, on one target
``target``        The target of a drill
``verdict``       The verdict: the measured figures compared with the objectives
"""
