"""The lab: a whole multi-region tkdb on this machine, behind the stand-in for flycast.

``control``       Orders to a running lab, at a socket in its folder: one line of JSON in each direction
``direct``        A client of one machine of the lab, past every proxy, for programs that watch the lab from outside
``folder``        The folder of a lab
``keys``          The keys of a lab and the settings of its machines, as an operator makes them for a cluster
``lab``           The complete lab
``object_store``  A real S3 server on this machine
``store_proxy``   A proxy on the path to an object store, with faults
"""
