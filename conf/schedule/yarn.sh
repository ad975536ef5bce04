#!/usr/bin/env bash
# Starts a run on YARN, from a machine with the cluster's configuration in HADOOP_CONF_DIR. docs/howto/cluster.md says
# what is packed; scripts/plan_capacity.py computes the numbers and sizes of executors.
set -euo pipefail
./scripts/pack_environment # needs the same operating system and processor type as the cluster

# Deploy mode client: the driver runs here, so this command has the driver's exit code. In the deploy mode cluster every
# failure has exit code 1.
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
