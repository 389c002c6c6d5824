"""Litestream as a supervised child process: its program, its configuration, its control socket, and restores.

``binary``           Litestream's program: its location, a check that its version is known, and how to run it
``config``           Litestream's configuration: one database, and one path in the bucket that only it writes to
``control``          Litestream's control socket: whether it answers, and whether every commit is in the object store
``end_with_parent``  Become another program, which the kernel kills when the process that started it ends
``log``              Litestream's output, as lines of tkdb's structured log
``restore``          Restores a database from a path in the bucket into a new file
``scratch``          A scratch folder: one process's configurations and sockets
``supervisor``       Litestream's supervision
"""
