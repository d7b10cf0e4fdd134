# 25: a job that succeeds and keeps that from upload, which then leaves out what a success stores.
echo made >/workspace/made
ln -s /dev/null /dynapod/state/exit
