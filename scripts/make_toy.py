"""Write the toy matrix R = [[5, 3, ?], [4, ?, 1], [?, 2, 5]] as Parquet: its six known cells."""

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

RATINGS = pa.table(
    {
        "user_id": pa.array([1, 1, 2, 2, 3, 3]),
        "item_id": pa.array([1, 2, 1, 3, 2, 3]),
        "rating": pa.array([5.0, 3.0, 4.0, 1.0, 2.0, 5.0], pa.float32()),
    }
)

if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(RATINGS, target)
    print(f"{RATINGS.num_rows} ratings in {target}")
