#!/bin/bash
# prepare.sh FOLDER ADDRESS CGROUP: first program of a node's network, mount and UTS namespaces. What it changes, they
# alone see; but for a cgroup, which stays as long as the cluster does, and the controllers of cgroup v2, which stay on:
# another node may use them.
set -euo pipefail
folder=$1 address=$2 cgroup=$3

hostname node
mount --make-rshared /  # the kubelet hands mounts on to containers
ip link set lo up
ip link add node0 type bridge
ip address add "$address/24" dev node0
ip link set node0 up
ip route add default dev node0  # leads nowhere: only lets programs find their own address
sysctl -qw net.ipv4.ip_forward=1

# Sockets, device plugins, CNI results and log links have fixed paths there.
mount -t tmpfs tmpfs /run
mkdir -p /run/containerd /run/netns /run/lock
mkdir "$folder/scratch"
mount -t tmpfs tmpfs "$folder/scratch"
mkdir "$folder/scratch/upper" "$folder/scratch/work"
mount -t overlay overlay -o "lowerdir=/var,upperdir=$folder/scratch/upper,workdir=$folder/scratch/work" /var
mkdir -p /var/lib/kubelet

mkdir "$folder/volumes/small"
mount -t tmpfs -o size=512k tmpfs "$folder/volumes/small"

: >"$folder/no-resolv.conf"
printf 'nameserver %s\nsearch svc.cluster.local cluster.local\noptions ndots:2\n' "$address" >"$folder/resolv.conf"
resolv=$(readlink -m /etc/resolv.conf)
mkdir -p "$(dirname "$resolv")"
[ -e "$resolv" ] || : >"$resolv"
mount --bind "$folder/resolv.conf" "$resolv"

# The kubelet wants the parent of its cgroups to be there, and sets these for the whole machine.
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  # It also wants every controller there, and a cgroup has those that its parent hands on. Not all can be: a container's
  # own processes, for one, keep most of them back.
  for controller in $(</sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control || true
  done
  mkdir -p "/sys/fs/cgroup/$cgroup"
else
  for hierarchy in /sys/fs/cgroup/*/; do
    mkdir -p "$hierarchy$cgroup"
  done
  for file in cpuset.cpus cpuset.mems; do
    cat "/sys/fs/cgroup/cpuset/$file" >"/sys/fs/cgroup/cpuset/$cgroup/$file"
  done
fi
sysctl vm.overcommit_memory kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes \
  >"$folder/sysctl" 2>/dev/null
