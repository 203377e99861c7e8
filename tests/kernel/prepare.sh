# Makes a machine that vng has booted ready, then runs an SSH server until the machine ends.
#   prepare.sh PLACE PROJECT SSHD_CONFIG
# Over vng's own mount of the root each open takes milliseconds and nothing that is read is kept.
# PLACE is where vng mounted the root once more: there it is kept, since PROJECT, the project's
# directory, and /usr do not change while the machine runs.
set -e
device=$(awk -v place="$1" '$2 == place { print $1 }' /proc/mounts)
umount "$1"
mount -n -t 9p -o ro,trans=virtio,version=9p2000.L,msize=524288,cache=loose "$device" "$1"
for tree in /usr "$2"; do mount -n --bind "$1$tree" "$tree"; done
modprobe virtio_net
nic=$(basename /sys/class/net/e*)
ip addr add 10.0.2.15/24 dev "$nic"
ip link set "$nic" up
# A locked root cannot log in, key or not: unlocked in the machine's own copy.
unlocked=$(sed 's/^root:![^:]*:/root:*:/' /etc/shadow)
printf '%s\n' "$unlocked" >/etc/shadow
mkdir -p /run/sshd
exec /usr/sbin/sshd -D -e -f "$3"
