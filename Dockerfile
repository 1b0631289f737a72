# Orthanc with the plugin and a prepared model; see compose.yaml for how to run it.
#   WEIGHTS         a TorchXRayVision name, a checkpoint below checkpoints/, or `stand-in` for random weights
#   WEIGHTS_SHA256  the checkpoint's; required for a path
#   BASE            orthancteam/orthanc, or an image with the same contract
#   PREPARE_BASE    any Python with wheels of torch; it leaves nothing but the model
#   TORCH_INDEX     where pip finds torch and torchvision built without CUDA
ARG BASE=orthancteam/orthanc:26.8.1
ARG PREPARE_BASE=python:3.11-slim-bookworm

# The model: the checkpoint is downloaded, its hash checked, and exported to a file that runs without torch.
FROM ${PREPARE_BASE} AS model
WORKDIR /prepare
COPY pyproject.toml ./
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python3 -m venv .venv \
    && python3 -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
print(*project['dependencies'], *project['optional-dependencies']['prepare'], sep='\n')" > requirements.txt \
    && .venv/bin/pip install --no-cache-dir --extra-index-url "${TORCH_INDEX}" --requirement requirements.txt
COPY plugin/__init__.py plugin/stand_in.py plugin/weights.py plugin/
COPY pyproject.toml checkpoint[s] checkpoints/
ARG WEIGHTS=densenet121-res224-all
ARG WEIGHTS_SHA256=
ENV ORT_DISABLE_TELEMETRY=1
RUN .venv/bin/python -m plugin.weights prepare --weights "${WEIGHTS}" --sha256 "${WEIGHTS_SHA256}" --folder /model \
    && find /model -name '*.pt' ! -name stand-in.pt -delete

# The packages: compiled where there is no wheel for this Python, in an environment that is copied as it is.
FROM ${BASE} AS packages
WORKDIR /opt/chest-xray
# The compiler stays in this stage, so its version may be any.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3-dev \
    && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml ./
RUN python3 -m venv --without-pip .venv \
    && python3 -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
print(*project['dependencies'], *project['optional-dependencies']['tools'], sep='\n')" > requirements.txt \
    && pip --python .venv install --no-cache-dir --requirement requirements.txt

FROM ${BASE}
LABEL org.opencontainers.image.title="Chest X-ray PACS" \
      org.opencontainers.image.description="Orthanc that reads chest radiographs: TorchXRayVision's scores as DICOM SR" \
      org.opencontainers.image.licenses="AGPL-3.0-or-later" \
      org.opencontainers.image.version="0.1.0"
# A named volume takes over this folder's owner. With a read-only root, the host's id can only be kept in /tmp.
RUN install --directory --owner orthanc --group orthanc /var/lib/orthanc/db \
    && ln --symbolic --force /tmp/hostid /etc/hostid
WORKDIR /opt/chest-xray
COPY --from=packages /opt/chest-xray/.venv .venv
COPY --from=model /model model
COPY orthanc.json /etc/orthanc/chest-xray.json
COPY docker/ docker/
COPY upload.py ./
COPY plugin/ plugin/
RUN .venv/bin/python -m compileall -q plugin
# The base image starts Orthanc in a folder of its own. Large buffers go back to the system after a burst. ONNX Runtime would report its use to its maker.
ENV ORTHANC__PYTHON_SCRIPT=/opt/chest-xray/plugin/main.py \
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4194304:glibc.malloc.trim_threshold=16777216 \
    ORTHANC__CHEST_X_RAY__MODEL_FOLDER=/opt/chest-xray/model \
    ORT_DISABLE_TELEMETRY=1
ARG WEIGHTS=densenet121-res224-all
ARG WEIGHTS_SHA256=
ENV WEIGHTS=${WEIGHTS} WEIGHTS_SHA256=${WEIGHTS_SHA256}
VOLUME /var/lib/orthanc/db
USER 999:999
EXPOSE 8042 4242
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s \
    CMD ["python3", "/opt/chest-xray/docker/healthcheck.py"]
ENTRYPOINT ["python3", "/opt/chest-xray/docker/entrypoint.py"]
CMD ["/tmp/orthanc.json"]
