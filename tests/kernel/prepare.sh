# Runs a command in a machine that vng booted, with this machine's files at hand: what is read once
# stays in memory.
#   prepare.sh PLACE PROJECT COMMAND …
# Over vng's own mount of the root each open takes milliseconds and nothing is kept. PLACE is where
# vng mounted the root once more, PROJECT the directory of the project; they and /usr do not change
# while the machine runs.
set -e
place=$1 project=$2
shift 2
device=$(awk -v place="$place" '$2 == place { print $1 }' /proc/mounts)
umount "$place"
mount -n -t 9p -o ro,trans=virtio,version=9p2000.L,msize=524288,cache=loose "$device" "$place"
for tree in /usr "$project"; do mount -n --bind "$place$tree" "$tree"; done
exec "$@"
