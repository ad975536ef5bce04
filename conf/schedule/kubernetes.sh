#!/usr/bin/env bash
# A run on Kubernetes, from a pod of the cluster whose service account may make pods, as a CronJob starts one. IMAGE is
# Spark's own image for Python with mfspark and the packages of conf/requirements/run.txt installed, hadoop-aws for s3a
# among Spark's jars. On an object store jobs have to take turns: `concurrencyPolicy: Forbid` in the CronJob.
set -euo pipefail
: "${IMAGE:?an image with Spark, Python, mfspark and its packages}" "${POD_IP:?the address of this pod}"

# client: the driver runs here, and its exit code is that of this command.
spark-submit \
    --master k8s://https://kubernetes.default.svc \
    --deploy-mode client \
    --conf spark.driver.host="$POD_IP" \
    --conf spark.kubernetes.namespace=mfspark \
    --conf spark.kubernetes.container.image="$IMAGE" \
    --conf spark.executor.instances=10 --conf spark.executor.cores=8 --conf spark.executor.memory=12g \
    --conf spark.executor.pyspark.memory=12g \
    --conf spark.excludeOnFailure.enabled=true \
    --conf spark.executorEnv.NUMBA_CACHE_DIR=/var/cache/mfspark \
    jobs/run_pipeline.py --config conf/explicit.toml --run-id "$(date -u +%Y%m%d)" --resume \
    --set input.path=s3a://data/ratings --set output.path=s3a://models/mfspark
