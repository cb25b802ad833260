#!/bin/bash
# `make demo-cluster`: a cluster with a node on this machine, the operator in it, and the arithmetic job from apply to
# Succeeded. What it runs are the commands a user of a real cluster types; each is printed first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
testbed=(.venv/bin/python tests/testbed/cluster.py)

run() {
  printf '\n$ %s\n' "$*"
  "$@"
}

run "${testbed[@]}" up node
eval "$("${testbed[@]}" env)"
run helm install opd-operator charts/opd-operator --namespace opd-system --create-namespace \
  --set crds.install=false --wait --timeout 3m --hide-notes
run kubectl apply -f examples/volumes.yaml
run kubectl wait --for=condition=Complete job/opd-examples --timeout=3m
run kubectl apply -f examples/arithmetic/opdjob.yaml

printf '\n$ kubectl get opdjobs -w\n'
kubectl get opdjobs -w &
watch=$!
kubectl wait --for=jsonpath='{.status.completionTime}' opdjob/arithmetic --timeout=15m >/dev/null || true
kill "$watch"
wait "$watch" 2>/dev/null || true

run kubectl get opdjob arithmetic -o wide
phase=$(kubectl get opdjob arithmetic -o jsonpath='{.status.phase}')
cat <<EOF

$(kubectl get opdjob arithmetic -o jsonpath='{.status.message}')

The cluster is still up. To look around:
  eval "\$(${testbed[*]} env)"
  kubectl describe opdjob arithmetic
  kubectl apply -f examples/arithmetic/opdjob-megatron-teacher.yaml
To remove it, with everything in it:
  ${testbed[*]} down
EOF
[ "$phase" = Succeeded ]
