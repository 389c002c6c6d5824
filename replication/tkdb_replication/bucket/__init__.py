"""The object store: its interface, an S3 client, a check that it honours conditional writes, and the paths in it.

``conformance``  The probe: it finds out by trial whether an object store honours the conditions that a lease needs
``credentials``  The credentials of the object store, and their source
``http``         One HTTP request within limits, for requests whose outcome is examined
``listing``      The parts of S3's XML that replication needs: pages of ListObjectsV2, and the code of an error
``objects``      The interface of the object store, as small as replication needs it
``paths``        The paths in the bucket
``s3``           The object store over S3's API
``settings``     The bucket's settings
``sigv4``        AWS Signature Version 4 for S3 requests whose whole body is known
"""
