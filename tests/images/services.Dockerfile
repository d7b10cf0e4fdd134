# Real services from Debian's packages, for jobs of the cluster tests and for the test of the metrics. They run as any
# user, with a root that is read-only, and write to /tmp (mount an emptyDir there) and to the folder they start in:
#
#   redis-server --bind 0.0.0.0 --protected-mode no --save '' --dir /tmp
#   nginx -e stderr -c /etc/nginx/dynapod.conf      serves /tmp/www on port 8080, its log on stdout
#   prometheus --config.file=FILE --storage.tsdb.path=/tmp/prometheus --web.listen-address=0.0.0.0:9090
#
# BASE: an image of Debian 12.
ARG BASE
FROM ${BASE}
# The big ones are left out: promtool is another 90 MB, and nobody reads the console's assets.
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        nginx-light prometheus redis-server >/dev/null \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /usr/bin/promtool
COPY tests/images/nginx.conf /etc/nginx/dynapod.conf
USER 1000:1000
