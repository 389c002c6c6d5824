"""The work of `tkdb init`, `tkdb recover` and `tkdb gc`, on the bucket as a whole.

``backups``      Backups: the paths in the bucket that Litestream wrote
``cluster``      A cluster from the commands' view: a bucket, and the secrets that prove its content
``gc``           Garbage collection: deletes the objects in the bucket that no rule and no recovery needs any more
``head_object``  The head's object in the bucket, as the commands read, create and replace it
``init``         The creation of a cluster in a bucket
``recovery``     Recovery: a cluster continues from a journal that was found, at a new path, with one swap of the head
``survey``       A survey: the parts of a cluster in a bucket, and the possible ways to continue
"""
