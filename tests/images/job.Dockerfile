# What jobs of the cluster tests run in: Python, git, make, and every package that they install, because a job's pod
# reaches no package index here. BASE: an image of Debian 12 with python3, pip and venv.
ARG BASE
FROM ${BASE}
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
# busybox, git-lfs and zstd: dynapod's own tests, run as a job. curl, mount, procps, util-linux: jobs that misbehave.
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        busybox-static curl git git-lfs make mount procps util-linux zstd >/dev/null \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
COPY requirements/dev.txt /build/
RUN python3 -m pip download --quiet --no-cache-dir --only-binary :all: --require-hashes --dest /wheels -r /build/dev.txt
# What the foreign projects' jobs install, as their own list says; each project's needs are resolved on their own.
COPY examples/foreign/run.py /build/
RUN cd /build \
    && python3 -c 'import run; print(*sorted({" ".join(project.needs) for project in run.PROJECTS}), sep="\n")' >needs \
    && while read -r needs; do \
        python3 -m pip download --quiet --no-cache-dir --only-binary :all: --dest /wheels $needs || exit 1; \
    done <needs
ENV PIP_NO_INDEX=1 \
    PIP_FIND_LINKS=/wheels
USER 1000:1000
