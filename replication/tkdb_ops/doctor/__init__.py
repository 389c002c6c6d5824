"""The doctor: checks that a deployment is isolated and safe.

Checks are pure. Probes gather the facts that they judge.

``apps``        Fly's records of an app: its addresses and its machines
``asking``      Status requests to a single machine, and the reasons why a machine doesn't report its status
``buckets``     The probes of the bucket
``configured``  Checks of how machines are set up: nothing is served by mistake, and a machine survives stops and load
``deployment``  The configuration of machines on Fly, read from the Machines API or from a fly.toml
``doctor``      The doctor, which gathers facts about a deployment and runs every check on them
``findings``    Checks and their findings
``hosted``      Checks of Fly's records of the app: its addresses are private, and its machines all run and are alike
``machines``    Checks of the machines' own reports: they are one authority, all healthy, and in more than one region
``network``     Checks of the network: the authority can be reached at a private address, and only through the proxy
``reach``       The probes of the network, from the caller's place
``store``       Checks of the bucket: it is fit for a lease, survives the loss of a region, and is closed to the public
``verdict``     All checks, and their findings on the gathered facts
"""
