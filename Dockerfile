# The images of Roundhouse; docs/containers.md says how to build and to run them.
#   docker build --target gateway --build-arg BASE=docker.io/library/debian:13-slim .
#                                         the gateway, for engines at `addresses`: no vLLM, no torch
#   docker build --target engine .        one engine, with vLLM for NVIDIA GPUs
#   docker build --target engine-cpu .    the same for CPUs
#
# Engines run on Debian 12 with its Python 3.11, for which vLLM is tested; the gateway on Debian 13, whose Python 3.13
# takes fewer instructions for a request. A tag moves: whoever wants the very same base each time names it by the digest
# that `docker buildx imagetools inspect debian:12-slim` prints: --build-arg BASE=…/debian@sha256:…
#
# Debian's packages are not pinned: a release of them is gone as soon as Debian has mended it.
# hadolint global ignore=DL3008
ARG BASE=docker.io/library/debian:12-slim

FROM ${BASE} AS python
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
    && find / -xdev -type f -perm /6000 -exec chmod ug-s '{}' + \
    && groupadd --gid 65532 roundhouse \
    && useradd --uid 65532 --gid 65532 --no-log-init --create-home --shell /usr/sbin/nologin roundhouse \
    && install -d -o 65532 -g 65532 /home/roundhouse/.cache /var/lib/roundhouse /var/lib/roundhouse/weights
# The user's name is for those who run it as another user, whom /etc/passwd does not have.
ENV LANG=C.UTF-8 \
    PATH=/opt/roundhouse/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/home/roundhouse \
    USER=roundhouse \
    PYTHONUNBUFFERED=1 \
    BENTOML_DO_NOT_TRACK=True \
    BENTOML_HOME=/tmp/bentoml \
    ROUNDHOUSE_WEIGHTS=/var/lib/roundhouse/weights
LABEL org.opencontainers.image.title="Roundhouse" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="The Roundhouse Authors" \
      roundhouse.sbom="/usr/share/roundhouse/sbom.json"

# What is only needed to build is in these stages. pip's configuration, if there is a file of it, is a secret of the
# build: the addresses of indexes have credentials. The packages and the application are layers of their own, so that a
# change of the latter is a few megabytes.
FROM python AS tools
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/tools \
    && python3 -m venv --without-pip /opt/roundhouse
ENV PATH=/opt/tools/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
COPY requirements/ requirements/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install --no-deps --require-hashes -r requirements/build.lock

FROM tools AS application
COPY . .
RUN pip wheel --no-deps --no-index --no-build-isolation --wheel-dir /wheels . \
    && pip --python /opt/roundhouse/bin/python install --no-deps --no-index /wheels/*.whl

FROM tools AS bills
COPY pyproject.toml .
RUN requirements/sbom /bills

FROM tools AS gateway-packages
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip --python /opt/roundhouse/bin/python install --no-deps --require-hashes -r requirements/gateway.lock \
    # What packages test themselves with: numpy's and tornado's alone are 17 MB.
    && find /opt/roundhouse/lib -type d '(' -name tests -o -name test ')' -prune -exec rm -r '{}' +

FROM python AS gateway
COPY --from=gateway-packages /opt/roundhouse /opt/roundhouse
COPY --from=application /opt/roundhouse /opt/roundhouse
COPY --from=bills /bills/gateway.json /usr/share/roundhouse/sbom.json
ARG VERSION=0.1.0
ARG REVISION
LABEL org.opencontainers.image.description="The gateway: one OpenAI-compatible address for engines elsewhere" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV ROUNDHOUSE_HOST=0.0.0.0
USER 65532:65532
WORKDIR /home/roundhouse
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=6s --start-period=15m CMD ["python", "-m", "service.cli.healthy", "3000", "/readyz"]
ENTRYPOINT ["roundhouse"]
CMD ["serve"]

# Triton and inductor compile what they make with a C compiler when an engine starts; libnuma is of the CPU build.
FROM python AS engine-base
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libnuma1 python3-dev \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log
ARG VERSION=0.1.0
ARG REVISION
LABEL org.opencontainers.image.description="One vLLM engine of a model in a fleet file" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 65532:65532
WORKDIR /home/roundhouse
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=6s --start-period=30m CMD ["python", "-m", "service.cli.healthy", "8000", "/health"]
ENTRYPOINT ["roundhouse"]
CMD ["engine", "--help"]

FROM tools AS engine-cpu-packages
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip --python /opt/roundhouse/bin/python install --no-deps --require-hashes -r requirements/cpu.lock

FROM engine-base AS engine-cpu
COPY --from=engine-cpu-packages /opt/roundhouse /opt/roundhouse
COPY --from=application /opt/roundhouse /opt/roundhouse
COPY --from=bills /bills/cpu.json /usr/share/roundhouse/sbom.json

FROM tools AS engine-packages
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip --python /opt/roundhouse/bin/python install --no-deps --require-hashes -r requirements/cuda.lock

FROM engine-base AS engine
COPY --from=engine-packages /opt/roundhouse /opt/roundhouse
COPY --from=application /opt/roundhouse /opt/roundhouse
COPY --from=bills /bills/cuda.json /usr/share/roundhouse/sbom.json
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
