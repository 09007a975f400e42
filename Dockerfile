# The simulator in a container, made by the script that makes it on a machine: scripts/up.
# docker build -t hsmsim . ; compose.yaml runs it. See docs/how-to/docker.md.
FROM debian:12-slim

# Debian's point releases are what is wanted: the newest of its Python 3.11.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/hsmsim
COPY . .
RUN scripts/up --set-up \
    && rm -rf /var/lib/apt/lists/* /root/.cache

# It starts as root, which starts the HSMs as the system user hsmsim and the gateway as hsmsim-gateway. The state folder is
# one below the volume, so that hsmsim makes it: one that is open to others is refused.
ENV PATH=/opt/hsmsim/.venv/bin:$PATH \
    HSMSIM_HOME=/var/lib/hsmsim/state \
    HSMSIM_RUN=/run/hsmsim
VOLUME /var/lib/hsmsim
EXPOSE 4566 4567
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 CMD ["hsmsim", "status"]
ENTRYPOINT ["hsmsim", "up", "--host", "0.0.0.0"]
