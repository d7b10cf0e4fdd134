# 20: processes that nobody waits for, deaf to SIGTERM, with a hold on the log.
cat >/workspace/daemon <<'END'
trap '' TERM HUP INT
echo "the daemon has the log"
while :; do sleep 1000; done
END
for number in 1 2 3; do setsid sh -c 'setsid sh /workspace/daemon &' & done
sh -c "trap '' TERM; sleep 1000" &
sleep 1
