# farfield: the service, its worker, its command line and, on request, Dask.
#   docker build -t farfield .
#   docker build -t farfield:gpu --build-arg GPU=1 .            CUDA 13 and cuDNN 9 in the image
#   docker build -t farfield --build-arg EXTRAS=dask,s3 .       extras of pyproject.toml
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ARG GPU=
ARG EXTRAS=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# What is required comes before the source, in a layer that stays as long as pyproject.toml does.
COPY pyproject.toml deploy/requirements.py ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python requirements.py "${EXTRAS}${GPU:+,gpu}" > requirements.txt \
    && python -m venv --without-pip /opt/farfield \
    && pip --python /opt/farfield/bin/python install --requirement requirements.txt \
    && find /opt/farfield -type d \( -name tests -o -path '*/pyarrow/include' -o -path '*/onnx/backend/test' \) -prune -exec rm -r {} +
COPY README.md LICENSE ./
COPY detectors detectors
COPY models models
COPY service service
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/farfield/bin/python install --no-deps .

FROM python:${PYTHON}-slim
ARG GPU=
ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.title="farfield" \
      org.opencontainers.image.description="Anomaly and out-of-distribution detection as a service" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN useradd --uid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin farfield \
    && install -d -o farfield -g farfield -m 0700 /data
COPY --from=build /opt/farfield /opt/farfield
# The CUDA libraries lie in the environment: the loader is told where.
RUN if [ -n "${GPU}" ]; then \
        find /opt/farfield -path '*/nvidia/*/lib' -type d > /etc/ld.so.conf.d/farfield.conf && ldconfig; \
    fi
ENV PATH=/opt/farfield/bin:$PATH \
    FARFIELD_STORE=embedded:/data \
    FARFIELD_HOST=0.0.0.0 \
    FARFIELD_ALLOW_OPEN=true
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:%s/readyz' % os.environ.get('FARFIELD_PORT', 8000), timeout=4)"]
ENTRYPOINT ["farfield"]
CMD ["serve"]
