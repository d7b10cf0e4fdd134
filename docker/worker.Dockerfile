# The image of worker, gateway and command line. See docs/images.md.
# BASE: an image of Debian 12 with python3, pip and venv, and ca-certificates. Only its packages get into the image.
ARG BASE
FROM ${BASE} AS built
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends \
        ca-certificates libpython3-stdlib python3-minimal python3-venv >/dev/null

# A shell and its usual tools: for whoever has to look into a running worker.
COPY docker/rootfs.py /build/
RUN /usr/bin/python3 /build/rootfs.py fill /rootfs \
        --without awk --without debconf --without debianutils --without dpkg --without openssl \
        base-files ca-certificates coreutils dash libc-bin libpython3-stdlib libstdc++6 python3-minimal

# Only wheels: building from source would need a compiler, and would not give the same bytes twice.
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 PIP_QUIET=1 PIP_ONLY_BINARY=:all:
COPY requirements/build.txt requirements/runtime.txt /build/
# What builds the wheel has an environment of its own; that of the image has no pip.
RUN /usr/bin/python3 -m venv /build/tools \
    && /build/tools/bin/pip install --require-hashes -r /build/build.txt \
    && /usr/bin/python3 -m venv --without-pip /opt/dynapod \
    && /build/tools/bin/pip --python /opt/dynapod/bin/python install --require-hashes -r /build/runtime.txt

ARG SOURCE_DATE_EPOCH=315532800
COPY . /build/source
# By name and not by path: pip would note where in this stage the wheel came from. Of the Kubernetes client, the 1,800
# modules of typed calls and objects are never imported (docs/decisions/0002-raw-json.md): their byte code takes 50 MB.
RUN /build/tools/bin/python -m build --wheel --no-isolation --outdir /build/dist /build/source >/dev/null \
    && /build/tools/bin/pip --python /opt/dynapod/bin/python install --no-deps --no-index --find-links /build/dist dynapod \
    && mkdir -p /rootfs/opt && cp -a /opt/dynapod /rootfs/opt/ \
    && /usr/bin/python3 /build/rootfs.py seal /rootfs --epoch "$SOURCE_DATE_EPOCH" \
        --uncompiled '/kubernetes/(aio/)?client/(api|models)/'

FROM scratch
ARG VERSION=unknown
LABEL org.opencontainers.image.title="dynapod-worker" \
      org.opencontainers.image.description="Runs jobs from a Redis queue as Kubernetes pods: worker, gateway and command line" \
      org.opencontainers.image.version="$VERSION"
COPY --from=built /rootfs /
ENV PATH=/opt/dynapod/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    HOME=/tmp
USER 1000:1000
ENTRYPOINT ["dynapod"]
