# Orthanc with the plugin and a prepared model; see compose.yaml for how to run it.
#   WEIGHTS         a TorchXRayVision name, a checkpoint below checkpoints/, or `stand-in` for random weights
#   WEIGHTS_SHA256  the checkpoint's; required for all but densenet121-res224-all and stand-in
#   VARIANT         cpu; with the client of inference servers, servers; or gpu, with torch built for CUDA (several GB)
#   BASE            orthancteam/orthanc, or an image with the same contract; pinned as NAME:TAG@sha256:DIGEST
#   PREPARE_BASE    a Python 3.11; it leaves nothing but the model. Pinned likewise
#   TORCH_LINKS     a page or folder where pip finds torch built without CUDA
#   REVISION        the commit that this is built from, for the label alone
ARG BASE=orthancteam/orthanc:26.8.1
ARG PREPARE_BASE=python:3.11-slim-bookworm

# The model: the checkpoint is downloaded, its hash checked, and exported to a file that runs without torch.
FROM ${PREPARE_BASE} AS model
WORKDIR /prepare
COPY docker/requirements-prepare.txt ./
ARG TORCH_LINKS=https://download.pytorch.org/whl/cpu/torch/
RUN python3 -m venv .venv \
    && .venv/bin/pip install --no-cache-dir --retries 5 --require-hashes --no-deps --only-binary :all: \
        --find-links "${TORCH_LINKS}" --requirement requirements-prepare.txt
COPY plugin/__init__.py plugin/scratch.py plugin/stand_in.py plugin/weights.py plugin/
COPY pyproject.toml checkpoint[s] checkpoints/
ARG WEIGHTS=densenet121-res224-all
ARG WEIGHTS_SHA256=
ENV ORT_DISABLE_TELEMETRY=1
RUN .venv/bin/python -m plugin.weights prepare --weights "${WEIGHTS}" --sha256 "${WEIGHTS_SHA256}" --folder /model \
    && find /model -name '*.pt' ! -name stand-in.pt -delete

# The packages, in an environment that is copied as it is; all of them have wheels for this Python.
FROM ${BASE} AS packages
WORKDIR /opt/chest-xray
ARG VARIANT=cpu
COPY docker/requirements-${VARIANT}.txt ./
RUN python3 -m venv --without-pip .venv \
    && pip --python .venv install --no-cache-dir --retries 5 --require-hashes --no-deps --only-binary :all: \
        --requirement "requirements-${VARIANT}.txt" \
    && find .venv -type d -name tests -prune -exec rm -r '{}' +

# Our own files, each where it will be: one layer.
FROM ${BASE} AS program
COPY orthanc.json /program/etc/orthanc/chest-xray.json
WORKDIR /program/opt/chest-xray
COPY docker/*.py docker/
COPY plugin/ plugin/
COPY upload.py ./
RUN python3 -m compileall -q --invalidation-mode unchecked-hash -s /program /program/opt/chest-xray/plugin

FROM ${BASE}
ARG BASE
ARG REVISION=
LABEL org.opencontainers.image.title="Chest X-ray PACS" \
      org.opencontainers.image.description="Orthanc that reads chest radiographs: TorchXRayVision's scores as DICOM SR. Not a medical device." \
      org.opencontainers.image.licenses="AGPL-3.0-or-later" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
# A named volume takes over this folder's owner. With a read-only root, the host's id can only be kept in /tmp.
RUN install --directory --owner orthanc --group orthanc /var/lib/orthanc/db \
    && ln --symbolic --force /tmp/hostid /etc/hostid
WORKDIR /opt/chest-xray
COPY --from=packages /opt/chest-xray/.venv .venv
COPY --from=model /model model
COPY --from=program /program /
ARG WEIGHTS=densenet121-res224-all
ARG WEIGHTS_SHA256=
# The base image starts Orthanc in a folder of its own. Large buffers go back to the system after a burst. ONNX Runtime
# would report its use to its maker.
ENV ORTHANC__PYTHON_SCRIPT=/opt/chest-xray/plugin/main.py \
    ORTHANC__CHEST_X_RAY__MODEL_FOLDER=/opt/chest-xray/model \
    WEIGHTS=${WEIGHTS} \
    WEIGHTS_SHA256=${WEIGHTS_SHA256} \
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1048576:glibc.malloc.trim_threshold=16777216 \
    ORT_DISABLE_TELEMETRY=1
VOLUME /var/lib/orthanc/db
USER 999:999
EXPOSE 8042 4242
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s \
    CMD ["python3", "/opt/chest-xray/docker/healthcheck.py"]
ENTRYPOINT ["python3", "/opt/chest-xray/docker/entrypoint.py"]
CMD ["/tmp/orthanc.json"]
