#!/usr/bin/env bash
# Runs the pipeline in a real Kubernetes: makes a kind cluster, installs Kubeflow Pipelines and Kubeflow Trainer from
# their own repositories, loads the image, has the API server check the TrainJobs, submits `transfer` through the API
# and waits for it. It needs docker, kind and kubectl, about 10 GB of memory, 20 GB of disk and the Internet; nothing
# is skipped, and the cluster goes at the end. For people who have these: the project's own tests do not run it.
# Environment: IMAGE (built from the Dockerfile if it is not there), TORCH (cpu or cuda, for building),
# KFP_VERSION and TRAINER_VERSION (tags; by default those of the packages installed), CLUSTER (name), KEEP=1 (keep it).
set -euo pipefail

cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
CLUSTER=${CLUSTER:-graftgan-test}
KEEP=${KEEP:-}
SETTINGS=scripts/cluster_test.yaml
forward=

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'cluster test failed: %s\n' "$*" >&2; exit 1; }
version_of() { "$PYTHON" -c 'import sys; from importlib.metadata import version; print(version(sys.argv[1]))' "$1"; }

for tool in docker kind kubectl; do
    command -v "$tool" >/dev/null || fail "$tool is missing: install it and try again"
done
docker info >/dev/null 2>&1 || fail "no Docker Engine answers: start one, or set DOCKER_HOST"
"$PYTHON" -c 'import kfp, kubeflow_trainer_api' 2>/dev/null || fail "kfp is missing: make setup, or set PYTHON"
IMAGE=${IMAGE:-graftgan:$(version_of graftgan)}
KFP_VERSION=${KFP_VERSION:-$(version_of kfp)}
TRAINER_VERSION=${TRAINER_VERSION:-v$(version_of kubeflow-trainer-api)}

clean_up() {
    status=$?
    set +e
    [ -z "$forward" ] || kill "$forward" 2>/dev/null
    if [ "$status" != 0 ]; then
        kubectl get pods --all-namespaces
        kubectl get events --namespace kubeflow --sort-by=.lastTimestamp | tail -20
    fi
    if [ -n "$KEEP" ]; then
        say "kept: kind export kubeconfig --name $CLUSTER; kind delete cluster --name $CLUSTER"
    else
        kind delete cluster --quiet --name "$CLUSTER"
    fi
    rm -rf "$WORK"
    exit "$status"
}

make_cluster() {
    ! kind get clusters 2>/dev/null | grep -qx "$CLUSTER" || fail "the cluster $CLUSTER is there already: set CLUSTER"
    WORK=$(mktemp -d)
    export KUBECONFIG="$WORK/kubeconfig"
    trap clean_up EXIT
    say "making the cluster $CLUSTER"
    kind create cluster --name "$CLUSTER" --wait 5m
    kind load docker-image "$IMAGE" --name "$CLUSTER"
}

install_pipelines() {
    say "installing Kubeflow Pipelines $KFP_VERSION"
    manifests=github.com/kubeflow/pipelines/manifests/kustomize
    kubectl apply -k "$manifests/cluster-scoped-resources?ref=$KFP_VERSION"
    kubectl wait --for=condition=established --timeout=60s crd/applications.app.k8s.io
    kubectl apply -k "$manifests/env/platform-agnostic?ref=$KFP_VERSION"
    kubectl wait --namespace kubeflow --for=condition=available --timeout=15m deployment --all
}

check_train_jobs() {
    say "checking TrainJobs with Kubeflow Trainer $TRAINER_VERSION"
    manifests=https://github.com/kubeflow/trainer.git/manifests/overlays
    kubectl apply --server-side -k "$manifests/manager?ref=$TRAINER_VERSION"
    kubectl wait --namespace kubeflow-system --for=condition=available --timeout=10m deployment --all
    kubectl apply --server-side -k "$manifests/runtimes?ref=$TRAINER_VERSION"
    for stage in rank finetune evaluate; do
        "$PYTHON" -m pipelines.trainjob --stage "$stage" --name "graftgan-$stage" --image "$IMAGE" |
            kubectl apply --dry-run=server -f -
    done
    ! "$PYTHON" -m pipelines.trainjob --image "$IMAGE" | sed 's/numNodes/numNode/' |
        kubectl apply --dry-run=server -f - 2>/dev/null || fail "the API server took a misspelt TrainJob"
}

run_pipeline() {
    say "running the pipeline transfer"
    kubectl port-forward --namespace kubeflow svc/ml-pipeline-ui 18888:80 >"$WORK/forward" 2>&1 &
    forward=$!
    for _ in $(seq 100); do grep -qs Forwarding "$WORK/forward" && break; sleep 0.2; done
    "$PYTHON" -m pipelines.submit run transfer --host http://127.0.0.1:18888 --image "$IMAGE" --params "$SETTINGS" \
        --wait --timeout-s 3600 || fail "the pipeline"
    say "a run that must fail"
    sed 's/min_images: 1$/min_images: 1000000/' "$SETTINGS" >"$WORK/params.yaml"
    ! "$PYTHON" -m pipelines.submit run transfer --host http://127.0.0.1:18888 --image "$IMAGE" \
        --params "$WORK/params.yaml" --wait --timeout-s 1800 || fail "a run on too few images succeeded"
}

docker image inspect "$IMAGE" >/dev/null 2>&1 ||
    docker build --build-arg "TORCH=${TORCH:-cuda}" -t "$IMAGE" .
make_cluster
install_pipelines
check_train_jobs
run_pipeline
say "cluster test passed"
