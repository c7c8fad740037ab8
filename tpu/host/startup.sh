#!/bin/bash
# Runs as root at every boot of every TPU VM of a slice (metadata startup-script). It fetches the
# files of RUN/launch, checks them against the SHA-256 that the slice was created with, installs them
# once and starts supervisord. A second run is harmless. Every download is pinned by a hash:
# tools.txt and requirements.txt are lock files, and uv contains the hash of Python.
set -euo pipefail
umask 077
export HOME="${HOME:-/root}" # startup scripts may have none

metadata="http://${GCE_METADATA_IP:-metadata.google.internal}/computeMetadata/v1/instance"
storage="${STORAGE_EMULATOR_HOST:-https://storage.googleapis.com}"
home="${BERT_JAX_HOME:-/var/lib/bert-jax}"
python="${BERT_JAX_PYTHON:-}" # set on emulated hosts: nothing is installed there

get_metadata() {
    # On a new VM some attributes may be missing at first.
    curl --silent --show-error --fail --retry 8 --retry-all-errors \
        --header 'Metadata-Flavor: Google' "$metadata/$1"
}

bucket() { # curl to Cloud Storage, as the machine's service account
    # The token goes through a pipe: every process of the VM can read arguments.
    get_metadata service-accounts/default/token |
        sed -E 's/.*"access_token" *: *"([^"]+)".*/header = "Authorization: Bearer \1"/' |
        curl --silent --show-error --fail --retry 8 --retry-connrefused --config - "$@"
}

fetch() { # a file of RUN/launch, into the current folder
    local path="${run#gs://}/launch/$1" object
    if [[ "$run" == gs://* ]]; then
        object="${path#*/}"
        bucket --output "$1.part" \
            "$storage/storage/v1/b/${path%%/*}/o/${object//\//%2F}?alt=media"
    else
        cp "$path" "$1.part"
    fi
    mv "$1.part" "$1"
}

install() { # steps are joined by `&&` because `set -e` has no effect in here
    local uv="$home/tools/bin/uv"
    python3 -m pip install --quiet --require-hashes --no-deps --only-binary :all: --upgrade \
        --target "$home/tools" --requirement tools.txt &&
        "$uv" venv --quiet --clear --managed-python --python "$(cat python.txt)" "$environment" &&
        "$uv" pip install --quiet --python "$python" --require-hashes --no-build \
            --requirement tools.txt &&
        # Packages without a wheel are built with the setuptools of tools.txt, not a downloaded one.
        "$uv" pip install --quiet --python "$python" --require-hashes --no-build-isolation \
            --requirement requirements.txt &&
        "$uv" pip install --quiet --python "$python" --no-deps --offline "$launch"/*.whl &&
        touch "$environment/ready"
}

save_log() { # on failure: copies the output to RUN/logs, where `bert-jax tpu logs` reads it
    local code=$? name path
    [[ $code == 0 || -z "${run:-}" ]] && return
    printf -v name 'logs/attempt-%04d/startup-%d.log' "$attempt" "$worker"
    path="${run#gs://}/$name"
    if [[ "$run" == gs://* ]]; then
        bucket --output /dev/null --data-binary "@$home/startup.log" --header 'Content-Type: text/plain' \
            "$storage/upload/storage/v1/b/${path%%/*}/o?uploadType=media&name=${path#*/}"
    else
        mkdir -p "$(dirname "$path")" && cp "$home/startup.log" "$path"
    fi
}

mkdir -p "$home/attributes"
exec > >(tee "$home/startup.log") 2>&1
trap save_log EXIT
# supervisord inherits the lock and keeps it until it exits.
exec 4>"$home/lock"
if ! flock --nonblock 4; then
    echo "bert-jax: supervisord is already running"
    exit 0
fi

attempt="$(get_metadata attributes/bert-jax-attempt)"
worker="$(get_metadata attributes/agent-worker-number)"
run="$(get_metadata attributes/bert-jax-run)" # from here on save_log can write
for name in bert-jax-run bert-jax-spec bert-jax-attempt bert-jax-manifest \
    agent-worker-number worker-network-endpoints tpu-env; do
    get_metadata "attributes/$name" >"$home/attributes/$name"
done
manifest="$(cat "$home/attributes/bert-jax-manifest")"

launch="$home/launch-${manifest:0:16}"
mkdir -p "$launch"
cd "$launch"
fetch SHA256SUMS
if ! sha256sum --check --status <<<"$manifest  SHA256SUMS"; then
    echo "bert-jax: $run/launch has changed since this slice was created; submit again" >&2
    exit 1
fi
while read -r sum name; do
    sha256sum --check --status <<<"$sum  $name" 2>/dev/null || fetch "$name"
done <SHA256SUMS
sha256sum --check --quiet --strict SHA256SUMS

if [[ -z "$python" ]]; then
    export UV_PYTHON_INSTALL_DIR="$home/python" UV_CACHE_DIR="$home/cache" UV_NO_CONFIG=1
    environment="$home/env-${manifest:0:16}"
    python="$environment/bin/python"
    if [[ ! -e "$environment/ready" ]]; then
        if ! python3 -m pip --version >/dev/null; then
            echo "bert-jax: the image has no pip for python3; choose another tpu.runtime" >&2
            exit 1
        fi
        # A short network failure should not cost a slice.
        # shellcheck disable=SC2310
        install || { sleep 5 && install; } || { sleep 10 && install; }
    fi
fi

cat >"$home/supervisord.conf" <<END
[supervisord]
directory=$home
logfile=$home/supervisord.log
logfile_maxbytes=1MB
logfile_backups=1
pidfile=$home/supervisord.pid
user=$(id -un)
umask=077

[program:host]
command="$python" -m tpu.host.supervise "$home" "$launch"
autorestart=unexpected
exitcodes=0,64,78
startsecs=0
stopsignal=TERM
stopwaitsecs=60
killasgroup=true
redirect_stderr=true
stdout_logfile=$home/host.log
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=1
END
"$python" -m supervisor.supervisord --configuration "$home/supervisord.conf"
