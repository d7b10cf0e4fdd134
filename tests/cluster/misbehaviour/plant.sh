# 26: a service that plants settings for checkout's git to obey: before checkout begins, and again while it works.
cat >/tmp/config <<'PLANTED'
[core]
	repositoryformatversion = 0
	bare = false
	fsmonitor = /workspace/.git/hooks/post-checkout
	hooksPath = /workspace/.git/hooks
PLANTED
printf '#!/bin/sh\necho obeyed >/workspace/obeyed\n' >/tmp/post-checkout
chmod +x /tmp/post-checkout
attempt() {
    said=$("$@" 2>&1) && echo "26 $*: ESCAPED" || echo "26 $*: contained: $said"
}
attempt mount -o remount,rw /workspace
attempt mkdir -p /workspace/.git/hooks
attempt cp /tmp/post-checkout /workspace/.git/hooks/post-checkout
attempt cp /tmp/config /workspace/.git/config
attempt ln -s /tmp/config /workspace/.gitconfig
touch /tmp/tried
trap 'exit 0' TERM
while :; do
    cp /tmp/config /workspace/.git/config 2>/dev/null && echo '26 .git/config: ESCAPED'
    sleep 0.1 & wait
done
