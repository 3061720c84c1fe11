# syntax=docker/dockerfile:1
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY detectors detectors
COPY models models
COPY service service
RUN python -m venv /opt/farfield && /opt/farfield/bin/pip install --no-cache-dir .

FROM python:3.12-slim
COPY --from=build /opt/farfield /opt/farfield
RUN useradd --create-home --uid 10001 farfield && install -d -o farfield /data
ENV PATH=/opt/farfield/bin:$PATH \
    FARFIELD_STORE=embedded:/data \
    FARFIELD_HOST=0.0.0.0 \
    FARFIELD_ALLOW_OPEN=true
USER farfield
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
ENTRYPOINT ["farfield"]
CMD ["serve"]
