"""A night's run as an Airflow DAG: ingest → train → recommend → evaluate, a task for each job, over one run.

Airflow 3 with its provider apache-airflow-providers-apache-spark. MFSPARK_HOME is a checkout of mfspark on the
workers, and `spark-submit` on their PATH is that of an environment with mfspark. The connection `spark_default` names
the master; the drivers run on the workers (deploy mode client), since a cluster hides their exit codes.

A task for each job and not one for all: the grid shows where a night went wrong, and a retry does nothing twice. Each
try of a task goes on with the run that is named after the DAG run's date; what was done before is not done again.
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
    6: "the run is complete, but its gate keeps readers on the one before",
}
"""Exit codes that a second try cannot change. A held run fails its task, so that somebody looks at it: readers are
safe, but their recommendations grow old."""


class MfsparkOperator(SparkSubmitOperator):
    """A job over the run of this DAG run; it is not tried again where that cannot help."""

    def __init__(self, *, job: str, **arguments: Any) -> None:
        super().__init__(
            task_id=job,
            application=f"{HOME}/jobs/{job}.py",
            name=f"mfspark {job}",
            deploy_mode="client",
            application_args=[
                "--config={{ params.config }}",
                # A DAG run that was triggered by hand may have no logical date.
                "--run-id={{ (dag_run.logical_date or dag_run.run_after) | ts_nodash }}",
                "--resume",
            ],
            **arguments,
        )

    def execute(self, context: Any) -> None:
        """Fail for good where the job's exit code says so.

        Raises
        ------
        AirflowFailException    there is nothing to gain from a retry
        AirflowException        there is
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
    catchup=False,  # a night's run takes all ratings there are: one for each night that was missed would be the same
    max_active_runs=1,  # one job at a time has the output
    default_args={"retries": 2, "execution_timeout": timedelta(hours=6)},  # the pause between tries is Airflow's own
    params={"config": Param(f"{HOME}/conf/explicit.toml", type="string", description="TOML file on the workers")},
    doc_md=__doc__,
) as dag:
    ingest, train, recommend, evaluate = (
        MfsparkOperator(job=job) for job in ("ingest", "train", "recommend", "evaluate")
    )
    ingest >> train >> recommend >> evaluate
