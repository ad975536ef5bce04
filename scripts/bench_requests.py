"""Count the requests of a run on S3, by the metrics of the server that answered them.

Runs of the whole pipeline on 600 ratings in one file, with the magic committer and with Spark's own: three that leave
the runs before them, one that removes these, and one that finds nothing new.

    python -m scripts.bench_requests
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.fs as pafs

from tests.conftest import session_builder
from tests.stores.conftest import s3a_settings
from tests.stores.place import Bucket
from tests.stores.test_s3 import put_ratings, workspace_on
from tests.stores.weed import ACCESS_KEY, BUCKET, SECRET_KEY, Weed


def measure(committer: str) -> None:
    """Print a row for each run."""
    with tempfile.TemporaryDirectory() as folder:
        weed = Weed(Path(folder, "weed"))
        settings = s3a_settings(weed.address, **({} if committer == "magic" else {"settings_path": None}))
        spark = session_builder(Path(folder), **settings).getOrCreate()
        spark.sparkContext.setLogLevel("OFF")
        s3 = pafs.S3FileSystem(
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            endpoint_override=weed.address,
            scheme="http",
            region="us-east-1",
        )
        bucket = Bucket(s3, f"{BUCKET}/requests")
        put_ratings(bucket, 0, 600)
        workspace = workspace_on(bucket, Path(folder))
        before = weed.requests()
        for night, flags in {
            "first run": ["input.incremental=false"],
            "the next one": ["input.incremental=false"],
            "the third": ["input.incremental=false"],
            "another, three removed": ["input.incremental=true", "output.keep_runs=1"],
            "nothing new": ["input.incremental=true"],
        }.items():
            outcome = workspace.run(*flags, run_id=night.replace(" ", "-").replace(",", ""))
            assert outcome.exit_code == 0, outcome.stderr
            after = weed.requests()
            kinds = {kind: after[kind] - before.get(kind, 0) for kind in sorted(after)}
            counts = ", ".join(f"{kind} {count}" for kind, count in kinds.items() if count)
            print(f"{committer}: {night}: {sum(kinds.values())} ({counts})", flush=True)
            before = after
        spark.stop()
        weed.stop()


if __name__ == "__main__":
    if len(sys.argv) == 2:
        measure(sys.argv[1])
    else:  # a JVM has the jars and settings of its start
        for name in ("magic", "Spark's own"):
            subprocess.run([sys.executable, "-m", "scripts.bench_requests", name], check=True)
