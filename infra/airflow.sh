#!/usr/bin/env bash
# Airflow for this machine alone. Without words: sets up its database and starts its four parts on
# the loopback until Ctrl-C. With words: runs one command with the same settings, such as
# `infra/airflow.sh airflow dags list`.
set -euo pipefail
umask 077
root=$(cd "$(dirname "$0")/.." && pwd)
port=${AIRFLOW_PORT:-8080}

export LETHE_HOME=${LETHE_HOME:-$root}
export AIRFLOW_HOME=${AIRFLOW_HOME:-$root/.airflow}
export PATH=$root/.venv-airflow/bin:$PATH
export PYTHONPATH=$root # the triggerer finds dags.doorbell there
export AIRFLOW__CORE__DAGS_FOLDER=$root/dags
export AIRFLOW__CORE__LOAD_EXAMPLES=False
export AIRFLOW__CORE__EXECUTOR=LocalExecutor
export AIRFLOW__CORE__PARALLELISM=${AIRFLOW__CORE__PARALLELISM:-4}
# What a killed scheduler was at is looked for every so many seconds, and a task whose beginning is
# answered late, by a server that has just started, does not fail.
export AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL=30
export AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT=60
export AIRFLOW__CORE__EXECUTION_API_SERVER_URL=http://127.0.0.1:$port/execution/
export AIRFLOW__API__HOST=127.0.0.1
export AIRFLOW__API__PORT=$port
export AIRFLOW__API__BASE_URL=http://127.0.0.1:$port
export AIRFLOW__API__WORKERS=1
export AIRFLOW__USAGE_DATA_COLLECTION__ENABLED=False
export SCARF_ANALYTICS=false DO_NOT_TRACK=1
# On PostgreSQL one driver does for both of Airflow's ways to ask; it would take another for one.
case ${AIRFLOW__DATABASE__SQL_ALCHEMY_CONN:-} in
postgresql:* | postgresql+psycopg:*)
    conn=postgresql+psycopg:${AIRFLOW__DATABASE__SQL_ALCHEMY_CONN#*:}
    export AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=$conn
    export AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC=${AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC:-$conn}
    ;;
esac

if [ $# -gt 0 ]; then
    exec "$@"
fi

mkdir -p "$AIRFLOW_HOME"
airflow db migrate >"$AIRFLOW_HOME/migrate.log" 2>&1 || { cat "$AIRFLOW_HOME/migrate.log"; exit 1; }
airflow pools import "$root/infra/airflow-pools.json" >>"$AIRFLOW_HOME/migrate.log" 2>&1 ||
    { cat "$AIRFLOW_HOME/migrate.log"; exit 1; }

# Logs are read from the folder: no part serves them on the network.
parts=()
scheduler=
# Each part is a process group of its own, so that nothing of one that was killed is left.
set -m
start() {
    local name=$1
    shift
    airflow "$@" </dev/null >"$AIRFLOW_HOME/$name.log" 2>&1 &
    parts+=($!)
}
# The scheduler first, so that tasks that are ending can still report to the API server. What does not
# end is killed: every command that a task runs may be, and goes on when it is started again.
stop() {
    trap - EXIT INT TERM
    kill "$scheduler" 2>/dev/null && gone 15 "$scheduler" || true
    kill "${parts[@]}" 2>/dev/null && gone 15 "${parts[@]}" || true
    kill -KILL "${parts[@]/#/-}" 2>/dev/null || true
    wait || true
}
gone() {
    local tenths=$(($1 * 10))
    shift
    while ((tenths-- > 0)) && kill -0 "$@" 2>/dev/null; do sleep 0.1; done
}
trap stop EXIT
trap 'exit 0' INT TERM
start api-server api-server
# A task that begins before the API server answers fails, whatever it would have done.
for _ in $(seq 240); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
    sleep 0.5
done
start scheduler scheduler --skip-serve-logs
scheduler=${parts[-1]}
start dag-processor dag-processor
start triggerer triggerer --skip-serve-logs

passwords=$AIRFLOW_HOME/simple_auth_manager_passwords.json.generated
for _ in $(seq 120); do
    [ -s "$passwords" ] && break
    sleep 0.5
done
echo "Airflow:    http://127.0.0.1:$port"
echo "Login:      $(tr -d '{}"' <"$passwords")"
echo "Workspace:  $LETHE_HOME"
echo "Logs:       $AIRFLOW_HOME"
echo "Stop it with Ctrl-C."

wait -n || true
echo "A part of Airflow ended; see $AIRFLOW_HOME/*.log." >&2
exit 1
