# The image of the pods that sandboxes are (SLIPWAY_TOOLS_SANDBOX=kubernetes): docs/sandbox.md.
# It holds what a sandbox of the image of tools would have, and nothing else.
ARG TOOLS=slipway/tools:latest
FROM ${TOOLS} AS content
# Of the packages that the image of tools has: SLIPWAY_TOOLS_SANDBOX_PACKAGES.
ARG PACKAGES=
ARG RUNTIMES=python,shell
USER 0:0
RUN SLIPWAY_TOOLS_SANDBOX_PACKAGES="$PACKAGES" SLIPWAY_TOOLS_SANDBOX_RUNTIMES="$RUNTIMES" \
    python -m slipway_tools.sandbox_image /content

FROM scratch
COPY --from=content /content /
USER 1000:1000
CMD ["/usr/bin/python3"]
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="slipway/sandbox" \
      org.opencontainers.image.description="What programs find in a sandbox's pod" \
      org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
