#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Runs what docs/remote-origins.md says about Ceph and S3, on a Ceph of one monitor, one OSD on a file, and one S3 gateway.
#
# Usage: ceph.sh
#
# Installs packages, and replaces the Ceph configuration of the system it runs on, as root: meant for
# tests/fresh.sh --only ceph trixie, which makes a system for it.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
say() { echo "ceph: $*"; }
give_up() { say "$*" >&2; exit 1; }
[ ! -e /etc/ceph/ceph.conf ] || give_up "there is a Ceph here already: /etc/ceph/ceph.conf"
started=$SECONDS
"$repository/examples/install-packages.sh" ceph
say "packages installed after $((SECONDS - started)) s"

work=$(mktemp -d)
clean_up() {
    status=$?
    trap - EXIT
    [ "$status" -eq 0 ] || tail -n 30 "$work/ceph.txt" || true
    for name in gateway osd monitor; do
        [ ! -s "$work/$name.pid" ] || kill "$(cat "$work/$name.pid")" || true
    done
    rm -rf --one-file-system "$work"
    exit "$status"
}
trap clean_up EXIT

start_ceph() {
    local cluster osd
    cluster=$(cat /proc/sys/kernel/random/uuid)
    osd=$(cat /proc/sys/kernel/random/uuid)
    mkdir -p /etc/ceph "$work/monitor" "$work/osd" "$work/gateway"
    cat >/etc/ceph/ceph.conf <<CONFIGURATION
[global]
fsid = $cluster
mon_host = 127.0.0.1
public_network = 127.0.0.0/8
cluster_network = 127.0.0.0/8
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
run_dir = $work
admin_socket = $work/\$name.\$pid.asok
log_file = $work/\$name.log
mon_allow_pool_size_one = true
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
osd_memory_target = 939524096
bluestore_block_size = 2147483648
[mon.a]
mon_data = $work/monitor
pid_file = $work/monitor.pid
[osd.0]
osd_data = $work/osd
pid_file = $work/osd.pid
[client.gateway]
rgw_data = $work/gateway
rgw_frontends = beast endpoint=127.0.0.1:7480
pid_file = $work/gateway.pid
CONFIGURATION
    monmaptool --create --add a 127.0.0.1 --fsid "$cluster" "$work/monitors"
    ceph-mon --mkfs -i a --monmap "$work/monitors"
    ceph-mon -i a
    [ "$(timeout 60 ceph osd new "$osd")" = 0 ]
    ceph-osd -i 0 --mkfs --osd-uuid "$osd"
    # Sometimes it asks the monitor for something before it knows the cluster's id, and gives up ("wrong fsid").
    for _ in 1 2 3 4 5; do
        ! ceph-osd -i 0 || break
        sleep 1
    done
    timeout 60 ceph osd pool create rbd
    timeout 60 rbd pool init rbd
    timeout 60 radosgw-admin user create --uid=wbcache --display-name=wbcache --access-key=WBCACHE --secret-key=not-secret
    radosgw -n client.gateway
}

make_bucket() {
    mkdir -p ~/.aws
    printf '[default]\naws_access_key_id = WBCACHE\naws_secret_access_key = not-secret\n' >~/.aws/credentials
    /usr/bin/python3 - <<'PYTHON'
import time

import boto3
import botocore.exceptions

for attempt in range(100):
    try:
        boto3.client("s3", endpoint_url="http://127.0.0.1:7480").create_bucket(Bucket="disks")
        break
    except botocore.exceptions.BotoCoreError:
        if attempt == 99:
            raise
        time.sleep(0.2)
PYTHON
}

started=$SECONDS
start_ceph >"$work/ceph.txt" 2>&1
make_bucket >>"$work/ceph.txt" 2>&1
say "$(ceph --version | cut -d' ' -f1-3), $(nbdkit --version), $(qemu-nbd --version | head -n 1): up after $((SECONDS - started)) s"
for section in Ceph S3; do
    started=$SECONDS
    mkdir "$work/$section"
    PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$repository /usr/bin/python3 - "$work/$section" "$section" <<'PYTHON'
import sys
from pathlib import Path

from tests.support import pages

page = pages.REPOSITORY / "docs" / "remote-origins.md"
pages.follow(page, Path(sys.argv[1]), sections=[sys.argv[2]], limit_s=300)
PYTHON
    say "$section: every command did what the page says, $((SECONDS - started)) s"
done
say "passed"
