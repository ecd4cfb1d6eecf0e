#!/bin/bash
# Start the cluster's MLflow server on a private address, with a password; nothing happens where it answers already.
#
#     mlflow-server.sh ADDRESS PORT FOLDER ARTIFACTS      FOLDER: a folder of this server alone; ARTIFACTS: s3://... or a folder
#
# ~/.rayseg/mlflow-password (0600) has the password of the user `admin`. MLFLOW_BACKEND may name a PostgreSQL database
# (postgresql+psycopg2://..., without a password: ~/.pgpass has that); a SQLite file in FOLDER otherwise, which this
# server alone opens.
set -euo pipefail
umask 077
address=$1 port=$2 folder=$3 artifacts=$4
secret=~/.rayseg/mlflow-password
python=${RAYSEG_PYTHON:-$HOME/rayseg/.venv/bin/python}
curl --silent --fail --noproxy '*' --output /dev/null "http://$address:$port/health" && exit 0

mkdir -p "$folder"
cat > "$folder/basic_auth.ini" <<INI
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = sqlite:///$folder/users.db
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
INI
MLFLOW_AUTH_ADMIN_PASSWORD=$(cat "$secret")
MLFLOW_FLASK_SERVER_SECRET_KEY=$( (echo sessions; cat "$secret") | sha256sum | cut -c1-64)
export MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY
export MLFLOW_AUTH_CONFIG_PATH=$folder/basic_auth.ini MLFLOW_DISABLE_TELEMETRY=true
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false
export MLFLOW_ALLOW_MODEL_CODE_EXECUTION=false
cd "$folder"
setsid nohup "$python" -m mlflow server --host "$address" --port "$port" --workers 1 --app-name basic-auth \
    --allowed-hosts "$address:$port,$address,127.0.0.1:*,localhost:*" \
    --backend-store-uri "${MLFLOW_BACKEND:-sqlite:///$folder/mlflow.db}" --artifacts-destination "$artifacts" \
    >> "$folder/server.log" 2>&1 < /dev/null &
