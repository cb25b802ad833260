#!/bin/bash
# system.sh UV: what `make setup` wants of the system besides Python 3. Finds the packages of Debian and Ubuntu that are
# missing and, as root with apt-get, installs them; else names them and fails.
set -euo pipefail
uv=$1
packages=()

if command -v "$uv" >/dev/null; then
  python=$("$uv" python find 2>/dev/null || true)  # where there is none, uv fetches one with its headers
else
  python3 -c 'import ensurepip' 2>/dev/null || packages+=(python3-venv)
  python=$(command -v python3.12 || command -v python3 || true)
fi

# pycosat is built from C, and so needs the headers of the Python that runs it; SGLang's ranks on a CPU build C++.
command -v g++ >/dev/null || packages+=(g++)
include='import sys, sysconfig; print(sysconfig.get_path("include") if sys.version_info[:2] == (3, 12) else "")'
headers=$([ -z "$python" ] || "$python" -c "$include" 2>/dev/null || true)
[ -z "$headers" ] || [ -e "$headers/Python.h" ] || packages+=(python3.12-dev)

[ ${#packages[@]} -gt 0 ] || exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "setup: this machine lacks ${packages[*]} (names are Debian's; root with apt-get gets them installed here)" >&2
  exit 1
fi
echo "setup: installing ${packages[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq || true  # one repository that is away need not be the one that is needed
apt-get install -y -qq --no-install-recommends --no-remove "${packages[@]}" >/dev/null
