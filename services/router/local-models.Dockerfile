# The image of the models that run in Slipway itself: SmolLM2-135M and all-MiniLM-L6-v2: docs/images.md.
# `make images` puts the locked wheels into dist/images/local-models and builds it.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS packages
COPY scripts/images/install.sh /
COPY dist/images/local-models /packages
RUN sh /install.sh /opt/slipway /packages/wheels

FROM ${BASE}
COPY scripts/images/harden.sh /tmp/
RUN sh /tmp/harden.sh && rm /tmp/harden.sh
COPY scripts/images/healthcheck.py /opt/slipway/healthcheck.py
COPY --from=packages /opt/slipway /opt/slipway
# On another address than loopback it wants SLIPWAY_LOCAL_MODELS_API_KEY.
ENV PATH=/opt/slipway/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 SLIPWAY_LOCAL_MODELS_LISTEN=0.0.0.0:8081
EXPOSE 8081
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
  CMD ["python", "-I", "-S", "/opt/slipway/healthcheck.py", "SLIPWAY_LOCAL_MODELS_LISTEN", "/health"]
CMD ["python", "-m", "slipway_router.local_models"]
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="slipway/local-models" \
      org.opencontainers.image.description="Small local models behind OpenAI's wire format" \
      org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
