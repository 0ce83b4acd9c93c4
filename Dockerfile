# One image for every stage. TORCH=cuda takes the wheel of the default registry, which also runs without a GPU;
# TORCH=cpu takes the smaller one and needs PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL to name where CPU wheels are.
# Give BASE_IMAGE with @sha256:... for builds that can be repeated.
# checkov:skip=CKV_DOCKER_7:the tag is in BASE_IMAGE, which it does not read
# checkov:skip=CKV_DOCKER_2:a task ends, and who serves a model asks /ping
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG TORCH=cuda
# pip reads both from the environment.
ARG PIP_FIND_LINKS
ARG PIP_EXTRA_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/venv/bin:$PATH
WORKDIR /build
RUN python -m venv /opt/venv
COPY pyproject.toml constraints.txt ./
RUN version="$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' constraints.txt)" \
    && case "$TORCH" in \
        cpu) wanted="torch==${version}+cpu" ;; \
        cuda) wanted="torch==${version}" ;; \
        *) echo "TORCH is cpu or cuda, not '$TORCH'" >&2; exit 2 ;; \
    esac \
    && pip install --no-cache-dir -c constraints.txt "$wanted"
# Dependencies come before the code, with a stand-in for it, so that a change of code keeps their layer.
# What the stand-in leaves must go: setuptools takes a newer file in build/ for the right one.
RUN mkdir -p src/graftgan \
    && touch README.md src/graftgan/__init__.py \
    && pip install --no-cache-dir -c constraints.txt '.[features,report,validate,track,s3,workers]' \
    && rm -rf build src
COPY src ./src
RUN pip install --no-cache-dir --no-deps .

# Any user may read what is shipped, whatever the modes of the files in the checkout.
FROM ${BASE_IMAGE} AS shelf
WORKDIR /app
COPY zoo ./zoo
COPY data ./data
COPY params.yaml ./
COPY lifelong ./lifelong
RUN chmod -R a+rX /app

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="graftgan" \
      org.opencontainers.image.description="Adapts pretrained GANs to small image sets" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --no-log-init --uid 10001 --gid 0 --create-home --home-dir /home/graftgan graftgan \
    && mkdir /app \
    && chown 10001:0 /app \
    && chmod 770 /app /home/graftgan
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/home/graftgan \
    GRAFTGAN_CACHE=/home/graftgan/.cache/graftgan \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MLFLOW_DISABLE_TELEMETRY=true \
    GX_ANALYTICS_ENABLED=false
WORKDIR /app
COPY --from=shelf /app ./
USER 10001:0
CMD ["graftgan", "--help"]
ARG GIT_SHA=unknown
ENV GRAFTGAN_GIT_REVISION=$GIT_SHA
LABEL org.opencontainers.image.revision=$GIT_SHA
