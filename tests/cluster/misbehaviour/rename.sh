# 27: a step that leads the gateway's name to its own pod, for upload to send token and artifacts there.
printf '127.0.0.1 localhost %s\n' "$NAME" >/etc/hosts && echo '27 /etc/hosts: written'
printf 'nameserver 127.0.0.1\n' >/etc/resolv.conf && echo '27 /etc/resolv.conf: written'
python3 -c 'import sys, urllib.request; print("27 the name leads to", urllib.request.urlopen(sys.argv[1]).read().decode())' \
    "http://$NAME:$PORT/probe"
mkdir -p dist cached
echo made >dist/made
echo made >cached/made
