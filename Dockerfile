# syntax=docker/dockerfile:1
# One file, two images: `api` (no torch) and `worker`.
#   docker build --target api -t espalier-api .
#   docker build --target worker -t espalier-worker .
# TORCH_INDEX, if given, is an extra package index for torch's wheels (a CPU-only or a CUDA one).
ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --create-home --uid 10001 espalier && install -d -o espalier -g espalier /data
WORKDIR /srv/espalier
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY app ./app
COPY workers ./workers
COPY migrations ./migrations

FROM base AS api
RUN pip install -c constraints.txt .
USER espalier
ENV ESPALIER_DATA_DIR=/data ESPALIER_HOST=0.0.0.0 ESPALIER_PORT=8000
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/livez', timeout=2)"]
CMD ["uvicorn", "app.main:from_environment", "--factory", "--host", "0.0.0.0", "--port", "8000"]

FROM base AS worker
ARG TORCH_INDEX=""
RUN pip install -c constraints.txt ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} "torch==2.13.0" \
    && pip install -c constraints.txt ".[worker]"
USER espalier
ENV ESPALIER_DATA_DIR=/data
VOLUME /data
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 CMD ["espalier", "doctor", "--worker"]
CMD ["celery", "-A", "workers.celery_app", "worker", "--concurrency", "1", "--loglevel", "INFO"]
