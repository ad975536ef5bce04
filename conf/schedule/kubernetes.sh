#!/usr/bin/env bash
# Starts a run on Kubernetes. Start this script in a pod whose service account may create pods, for example by a CronJob.
# IMAGE is Spark's image for Python, with mfspark and the packages of conf/requirements/run.txt, and for s3a with
# the jars of conf/jars/s3a.xml among Spark's and the settings of conf/s3a-defaults.conf. The lock of the output keeps jobs
# apart; with `concurrencyPolicy: Forbid` in the CronJob a second one does not even start.
set -euo pipefail
: "${IMAGE:?an image with Spark, Python, mfspark and its packages}" "${POD_IP:?the address of this pod}"

# Deploy mode client: the driver runs in this pod, so this command has the driver's exit code.
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
