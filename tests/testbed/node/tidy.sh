#!/bin/bash
# tidy.sh FOLDER CGROUP: after every process of a node has ended, takes back what its namespaces do not.
folder=$1 cgroup=$2
sysctl -qp "$folder/sysctl" 2>/dev/null  # the kubelet sets some for the whole machine
find /sys/fs/cgroup -depth -type d -path "*/$cgroup*" -exec rmdir {} + 2>/dev/null
awk -v folder="$folder/" 'index($2, folder) == 1 {print $2}' /proc/self/mounts | sort -r | xargs -r umount --lazy
true
