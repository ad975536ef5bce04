#!/usr/bin/env bash
# A run on YARN, from a machine with the cluster's configuration in HADOOP_CONF_DIR. See docs/howto/cluster.md for what
# is packed, and scripts/plan_capacity.py for the sizes.
set -euo pipefail
./scripts/pack_environment # on a machine like the cluster's

# client: the driver runs here, and its exit code is that of this command; in cluster mode YARN makes all failures a 1.
spark-submit \
    --master yarn \
    --deploy-mode client \
    --num-executors 10 --executor-cores 8 --executor-memory 12g \
    --conf spark.executor.pyspark.memory=12g \
    --conf spark.excludeOnFailure.enabled=true \
    --archives build/ship/environment.tar.gz#environment \
    --conf spark.pyspark.python=./environment/bin/python \
    --conf spark.pyspark.driver.python="$PWD/.venv/bin/python" \
    jobs/run_pipeline.py --config conf/explicit.toml --run-id "$(date -u +%Y%m%d)" --resume \
    --set input.path=hdfs:///data/ratings --set output.path=hdfs:///models/mfspark
