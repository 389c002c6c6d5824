"""The object store: its interface, an S3 client, a check that it honours conditional writes, and the paths in it."""
