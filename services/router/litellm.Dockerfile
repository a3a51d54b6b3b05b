# The image of the router with litellm in an environment of its own, for providers of the types anthropic and gemini.
ARG BASE=python:3.11-slim-bookworm
ARG ROUTER=slipway/router
FROM ${BASE} AS packages
COPY scripts/images/install.sh /
COPY dist/images/router-litellm /packages
RUN sh /install.sh /opt/litellm /packages/wheels

FROM ${ROUTER}
COPY --from=packages /opt/litellm /opt/litellm
ENV SLIPWAY_ROUTER_LITELLM_PYTHON=/opt/litellm/bin/python
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="slipway/router-litellm" \
      org.opencontainers.image.description="One door to every model, with litellm" \
      org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
