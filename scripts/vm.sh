#!/usr/bin/env bash
# Runs a command of this checkout on another machine, an emulated one: Debian 13, whose Python and kernel
# are its own and whose control groups are of version 2 alone. It has no network.
#
#   scripts/vm.sh FOLDER COMMAND…      as root, with mmdebstrap, e2fsprogs and qemu; FOLDER is empty
#
# The exit code is the command's.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$1 root=$1/root
shift

mmdebstrap --quiet --aptopt='Acquire::Retries "5"' --variant=minbase trixie "$root" \
    --include=linux-image-cloud-amd64,initramfs-tools,python3,git,adduser,iproute2,procps,kmod
mkdir "$root/checkout"
tar --exclude=./.venv --exclude=./.git --exclude=./runs --exclude='*_cache' -c . | tar -x -C "$root/checkout"
.venv/bin/python -m build --wheel --outdir "$work/dist" . >/dev/null
python=$(chroot "$root" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
.venv/bin/python -m pip install --quiet --target "$root/site" --python-version "$python" --only-binary=:all: \
    -c constraints.txt "$(echo "$work"/dist/*.whl)[test]"

printf '%q ' "$@" >"$root/command"
cat >"$root/init" <<'END'
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=dumb PYTHONPATH=/site OMP_NUM_THREADS=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
for folder in /dev/shm /tmp /run; do mount -t tmpfs tmpfs "$folder"; done
ip link set lo up
ip link add outside type dummy # which no sandbox may see
modprobe overlay
cd /checkout || exit
. /command
echo $? >/dev/ttyS1
echo o >/proc/sysrq-trigger
sleep 60
END
chmod 755 "$root/init"
truncate -s 4G "$work/disk"
mke2fs -q -t ext4 -d "$root" "$work/disk"
timeout 3600 qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 4096 -display none -nic none -no-reboot \
    -kernel "$root"/boot/vmlinuz-* -initrd "$root"/boot/initrd.img-* \
    -append "console=ttyS0 root=/dev/vda rw init=/init loglevel=1 panic=-1" \
    -drive "file=$work/disk,format=raw,if=virtio,cache=unsafe" \
    -serial stdio -monitor none -serial "file:$work/exit"
exit "$(tr -d '\r\n' <"$work/exit")"
