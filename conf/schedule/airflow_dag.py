"""An Airflow DAG for a nightly run: the tasks ingest → train → recommend → evaluate all work on the same run.

It needs Airflow 3 with the provider apache-airflow-providers-apache-spark. MFSPARK_HOME is the path of a checkout of
mfspark on the workers. The `spark-submit` on their PATH must belong to an environment with mfspark. The connection
`spark_default` names the master. The drivers run on the workers (deploy mode client), because the deploy mode cluster
hides their exit codes.

There is one task for each step, so that Airflow's grid shows which step failed. The id of the run is the date of the
DAG run. Each try of a task continues the run and does not repeat finished work.
"""

import os
import re
from datetime import datetime, timedelta
from typing import Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG, Param
from airflow.sdk.exceptions import AirflowException, AirflowFailException

HOME = os.environ.get("MFSPARK_HOME", "/opt/mfspark")
PERMANENT = {
    2: "the configuration is wrong",
    3: "the input data was rejected",
    6: "the run is complete, but the gate holds it, and readers still use the run before",
}
"""Exit codes that a retry cannot change. If the gate holds a run, the task fails, so that somebody looks at it: readers
still get recommendations, but old ones."""


class MfsparkOperator(SparkSubmitOperator):
    """Starts a job on the run of this DAG run; it is not retried if a retry cannot help."""

    def __init__(self, *, job: str, **arguments: Any) -> None:
        super().__init__(
            task_id=job,
            application=f"{HOME}/jobs/{job}.py",
            name=f"mfspark {job}",
            deploy_mode="client",
            application_args=[
                "--config={{ params.config }}",
                # A manually triggered DAG run may have no logical date.
                "--run-id={{ (dag_run.logical_date or dag_run.run_after) | ts_nodash }}",
                "--resume",
            ],
            **arguments,
        )

    def execute(self, context: Any) -> None:
        """Run the job; fail without a retry if its exit code is permanent.

        Raises
        ------
        AirflowFailException    a retry cannot help
        AirflowException        a retry may help
        """
        try:
            super().execute(context)
        except AirflowException as error:
            codes = map(int, re.findall(r"(?:Error|exit) code is: (\d+)", str(error)))
            reasons = [PERMANENT[code] for code in codes if code in PERMANENT]
            if reasons:
                raise AirflowFailException(reasons[0]) from error
            raise


with DAG(
    dag_id="mfspark",
    schedule="0 3 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,  # a run reads all existing ratings, so a run for each missed night would give the same result
    max_active_runs=1,  # only one job at a time can hold the output
    default_args={"retries": 2, "execution_timeout": timedelta(hours=6)},  # Airflow's default pause between retries
    params={"config": Param(f"{HOME}/conf/explicit.toml", type="string", description="TOML file on the workers")},
    doc_md=__doc__,
) as dag:
    ingest, train, recommend, evaluate = (
        MfsparkOperator(job=job) for job in ("ingest", "train", "recommend", "evaluate")
    )
    ingest >> train >> recommend >> evaluate
