"""The input as people have it: Spark's formats, catalogs, and files that only together make a table."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F

from mfspark.config.checking import checked
from mfspark.config.sections import InputConfig
from mfspark.errors import ConfigError, DataError
from mfspark.storage.source import ratings_of, read_files, read_source, stamped_files

pytestmark = pytest.mark.spark

COLUMNS = {"user_id": pa.array([1, 2], pa.int64()), "item_id": pa.array([7, 8], pa.int64()), "rating": [4.0, 2.0]}


def write(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**COLUMNS, **columns}), path)
    return path


def read(spark, path, **settings):
    config = config_of(path, **settings)
    return ratings_of(read_source(spark, config), config)


def config_of(path, **settings):
    path = [str(one) for one in path] if isinstance(path, list) else str(path)
    return checked(InputConfig, {"path": path, **settings})


def users(rows):
    return sorted(row["user_id"] for row in rows.select("user_id").collect())


@pytest.mark.parametrize(
    ("values", "is_left_out"),
    [
        (pa.array([1, 2], pa.timestamp("ns")), False),
        (pa.array([1, 2], pa.timestamp("ns", "UTC")), False),
        (pa.array([1, 2], pa.time64("us")), True),
        (pa.array([1, 2], pa.time32("ms")), True),
        (pa.array([1, 2]).cast(pa.float16()), True),
    ],
    ids=str,
)
def test_a_column_that_spark_cannot_read_does_not_hinder_the_others(spark, tmp_path, caplog, values, is_left_out):
    with caplog.at_level("WARNING", logger="mfspark"):
        rows = read(spark, write(tmp_path / "a.parquet", seen=values))
    assert users(rows) == [1, 2]
    assert ("seen" in rows.columns) != is_left_out
    message = "columns that Spark cannot read are left out: 'seen' (Spark cannot read its type)"
    assert (message in caplog.text) == is_left_out


def test_nanoseconds_keep_their_order(spark, tmp_path):
    rows = read(spark, write(tmp_path / "a.parquet", at=pa.array([1_700_000_000_000_000_002, 5], pa.timestamp("ns"))))
    assert [row["user_id"] for row in rows.orderBy("at").collect()] == [2, 1]


def test_names_that_differ_in_case_hinder_only_themselves(spark, tmp_path, caplog):
    rows = read(spark, write(tmp_path / "a.parquet", Genre=["a", "b"], genre=["c", "d"]))
    assert users(rows) == [1, 2]
    assert rows.columns == ["user_id", "item_id", "rating"]
    assert "'Genre' (another column has the same name in other letter case)" in caplog.text


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_whole_numbers_of_two_sizes_are_one_column(spark, tmp_path, names):
    write(tmp_path / "in" / f"{names[0]}.parquet", user_id=pa.array([1, 2], pa.int32()))
    write(tmp_path / "in" / f"{names[1]}.parquet", user_id=pa.array([3, 2**40], pa.int64()))
    rows = read(spark, tmp_path / "in")
    assert rows.schema["user_id"].dataType.simpleString() == "bigint"
    assert users(rows) == [1, 2, 3, 2**40]


def test_a_column_of_later_files_only_is_there(spark, tmp_path):
    write(tmp_path / "in/a.parquet")
    write(tmp_path / "in/b.parquet", weight=[2.0, 3.0])
    assert {row["weight"] for row in read(spark, tmp_path / "in").collect()} == {None, 2.0, 3.0}


def test_types_that_no_column_holds_together_are_refused(spark, tmp_path):
    write(tmp_path / "in/a.parquet")
    write(tmp_path / "in/b.parquet", user_id=["x", "y"])
    with pytest.raises(DataError, match=r"column 'user_id' is bigint in '.*a.parquet' and string in '.*b.parquet'; wr"):
        read(spark, tmp_path / "in")


def test_folders_that_are_no_columns_are_read_when_asked_for(spark, tmp_path, caplog):
    write(tmp_path / "in/a.parquet")
    write(tmp_path / "in/2026-01-01/b.parquet", user_id=[3, 4])
    with caplog.at_level("WARNING", logger="mfspark"):
        assert users(read(spark, tmp_path / "in")) == [1, 2]
    assert "1 folders below" in caplog.text
    assert "for example 2026-01-01; set input.recursive = true to read them" in caplog.text
    assert users(read(spark, tmp_path / "in", recursive=True)) == [1, 2, 3, 4]
    (tmp_path / "in/a.parquet").unlink()
    with pytest.raises(DataError, match=r"to read the files in folders such as '2026-01-01' set input.recursive = t"):
        read(spark, tmp_path / "in")


@pytest.mark.parametrize("recursive", [False, True])
def test_a_listing_has_the_files_that_are_read(spark, tmp_path, recursive):
    write(tmp_path / "in/a.parquet")
    write(tmp_path / "in/old/b.parquet", user_id=[3, 4])
    listed = stamped_files(spark, config_of(tmp_path / "in", recursive=recursive, incremental=True))
    rows = read(spark, tmp_path / "in", recursive=recursive)
    names = {row[0] for row in rows.select(F.regexp_extract(F.input_file_name(), "[^/]*$", 0)).distinct().collect()}
    assert {file.rpartition("/")[2] for file in listed} == names


def test_a_listed_file_is_read_with_its_folders(spark, tmp_path):
    for day in (1, 2):
        write(tmp_path / f"in/day={day}/a b.parquet", user_id=[day, day + 10])
    config = config_of(tmp_path / "in", incremental=True)
    (chosen,) = [file for file in stamped_files(spark, config) if "day=2" in file]
    rows = read_files(read_source(spark, config), config, [chosen]).select("user_id", "day").collect()
    assert {tuple(row) for row in rows} == {(2, 2), (12, 2)}


def test_folder_names_keep_what_a_number_would_lose(spark, tmp_path):
    for item in ("00123", "7"):
        table = pa.table({**COLUMNS}).drop_columns(["item_id"])
        path = tmp_path / f"in/item_id={item}/day=3/a.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(table, path)
    rows = read(spark, tmp_path / "in")
    assert {row["item_id"] for row in rows.collect()} == {"00123", "7"}
    assert {row["day"] for row in rows.collect()} == {3}


@pytest.mark.parametrize("paths", [["day=2026-01-0*"], ["day=2026-01-01", "day=2026-01-02"]])
def test_paths_below_the_folders_of_a_column_keep_it(spark, tmp_path, paths):
    for day in ("2026-01-01", "2026-01-02", "2026-02-01"):
        write(tmp_path / f"in/day={day}/a.parquet")
    rows = read(spark, [tmp_path / "in" / path for path in paths])
    assert {str(row["day"]) for row in rows.collect()} == {"2026-01-01", "2026-01-02"}


@pytest.mark.parametrize(
    ("inside", "found"),
    [("_delta_log/0.json", "delta"), ("metadata/v1.metadata.json", "iceberg"), (".hoodie/hoodie.properties", "hudi")],
)
def test_the_folder_of_a_table_is_not_read_as_its_files(spark, tmp_path, inside, found):
    write(tmp_path / "in/day=1/a.parquet")
    (tmp_path / "in" / inside).parent.mkdir()
    (tmp_path / "in" / inside).write_text("{}")
    for path in (tmp_path / "in", tmp_path / "in/day=1", tmp_path / "in/day=*"):
        with pytest.raises(DataError, match=f"is a table of {found}, .*; set input.format = '{found}', or input.table"):
            read(spark, path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "FOLDER/a.csv"}, "for csv set input.format = 'csv', and input.options = { header = true } if"),
        ({"path": "FOLDER/json"}, "for json set input.format = 'json'"),
        ({"path": "FOLDER/nothing"}, "does not exist; expected parquet files; correct input.path"),
        (
            {"path": "FOLDER/a.csv", "format": "delta"},
            "Spark has no data source 'delta'; start Spark with its packages",
        ),
        ({"path": "s3a://bucket/ratings"}, "start Spark with org.apache.hadoop:hadoop-aws: spark-submit --packages"),
        ({"path": "nosuch://host/ratings"}, "start Spark with the connector of nosuch://: spark-submit --packages"),
        (
            {"table": "ratings_of_nobody"},
            "Spark does not find the table of the input 'ratings_of_nobody'; expected a table of a catalog",
        ),
        ({"table": "lake.shop.ratings"}, "Spark does not find the table of .*set spark.sql.catalog"),
    ],
)
def test_what_cannot_be_read_says_what_it_is_and_what_to_set(spark, tmp_path, settings, message):
    (tmp_path / "a.csv").write_text("user_id,item_id,rating\n1,2,3\n")
    (tmp_path / "json").mkdir()
    (tmp_path / "json/part.json.gz").write_text("{}")
    settings = {key: value.replace("FOLDER", str(tmp_path)) for key, value in settings.items()}
    with pytest.raises(DataError, match=message):
        read_source(spark, checked(InputConfig, settings)).collect()


def test_text_formats_tables_and_queries(spark, tmp_path):
    (tmp_path / "events.csv").write_text("user;item;liked\n001;7;true\n002;8;false\n003;9;true\n")
    (tmp_path / "films.json").write_text('{"id": "7", "of": {"title": "Heat"}}\n{"id": "9", "of": {"title": "Ran"}}\n')
    options = {"header": True, "sep": ";"}
    assert read(spark, tmp_path / "events.csv", format="csv", options=options).columns == ["user", "item", "liked"]
    query = """
        SELECT user AS user_id, f.of.title AS item_id, IF(liked = 'true', 1, 0) AS rating
        FROM input JOIN films f ON item = f.id
    """
    others = {"films": {"path": str(tmp_path / "films.json"), "format": "json"}}
    rows = read(spark, tmp_path / "events.csv", format="csv", options=options, query=query, others=others)
    assert sorted(tuple(row) for row in rows.collect()) == [("001", "Heat", 1), ("003", "Ran", 1)]
    spark.sql("CREATE OR REPLACE TEMP VIEW kept AS SELECT 5 AS user_id, 6 AS item_id, 1.5 AS rating")
    assert users(read_source(spark, checked(InputConfig, {"table": "kept"}))) == [5]
    with pytest.raises(ConfigError, match=r"input.query is not valid: .*nowhere"):
        read(spark, write(tmp_path / "a.parquet"), query="SELECT * FROM nowhere")


@pytest.mark.parametrize(
    "query",
    [
        "SELECT id * 2 AS id FROM input ORDER BY id;  ",
        "WITH twice AS (SELECT id * 2 AS id FROM input) SELECT * FROM twice -- both",
        "(SELECT id + id AS id FROM input a)",
    ],
)
def test_a_query_keeps_its_input_when_it_reads_another(spark, query):
    config = InputConfig(path="unused", query=query)
    first, second = (ratings_of(spark.range(start, start + 2), config) for start in (1, 7))
    assert sorted(row["id"] for row in first.collect()) == [2, 4]
    assert sorted(row["id"] for row in second.collect()) == [14, 16]


def test_a_data_source_without_files_needs_no_path(spark):
    config = checked(InputConfig, {"format": "rate-micro-batch"})
    assert config.label == "rate-micro-batch"
    with pytest.raises(DataError, match="Spark has no data source 'nosuch'; start Spark with its packages"):
        read_source(spark, checked(InputConfig, {"format": "nosuch"}))
