# The image of `checkout` and `upload`: what prepares a job's pod and what saves its results. See docs/images.md.
# BASE: an image of Debian 12 with python3 and ca-certificates. Only its packages get into the image, not its layers.
ARG BASE
FROM ${BASE} AS assembled
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends \
        busybox-static ca-certificates git git-lfs libpython3-stdlib openssh-client python3-minimal zstd >/dev/null

# git runs shell scripts for submodules: hence a shell and its usual tools. Perl only serves parts of git that mail
# patches or talk to other systems.
COPY docker/rootfs.py /build/
RUN /usr/bin/python3 /build/rootfs.py fill /rootfs \
        --without adduser --without awk --without debconf --without debianutils --without dpkg --without git-man \
        --without liberror-perl --without openssl --without passwd --without perl \
        base-files busybox-static ca-certificates coreutils dash git git-lfs grep libc-bin libpython3-stdlib \
        openssh-client python3-minimal sed zstd \
    # Servers, other programs, and a second copy of git itself.
    && cd /rootfs/usr/lib/git-core \
    && rm ../../bin/git-shell ../../bin/scalar \
        git-daemon git-http-backend git-http-push git-imap-send git-shell scalar \
    && ln -sf ../../bin/git git

# In Python's own path, so that no variable has to name it: it is also found by `python3 -I -m runner`.
COPY runner /rootfs/usr/lib/python3/dist-packages/runner
COPY runner_spec/__init__.py runner_spec/anatomy.py runner_spec/plan.py runner_spec/report.py runner_spec/transfer.py \
    /rootfs/usr/lib/python3/dist-packages/runner_spec/
# What `checkout` copies into a pod, laid ready for a pod that mounts this image as a volume.
RUN mkdir -p /rootfs/dynapod && PYTHONPATH=/rootfs/usr/lib/python3/dist-packages /usr/bin/python3 -c \
        'from pathlib import Path; from runner.shell import install; \
        install(Path("/rootfs/dynapod/bin"), Path("/rootfs/bin/busybox"))' \
    # A link: to this stage's own shell, because the busybox is not static.
    && test ! -L /rootfs/dynapod/bin/sh

ARG SOURCE_DATE_EPOCH=315532800
RUN /usr/bin/python3 /build/rootfs.py seal /rootfs --epoch "$SOURCE_DATE_EPOCH"

FROM scratch
ARG VERSION=unknown
LABEL org.opencontainers.image.title="dynapod-runner" \
      org.opencontainers.image.description="Checks out sources, restores caches, uploads the results of dynapod's jobs" \
      org.opencontainers.image.version="$VERSION"
COPY --from=assembled /rootfs /
# Containers work in folders that jobs fill. Without the first two variables, a module or a .pth file planted there
# would run inside `upload`, beside its identity token.
ENV PYTHONSAFEPATH=1 \
    PYTHONNOUSERSITE=1 \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    HOME=/tmp
USER 1000:1000
CMD ["python3", "-m", "runner"]
