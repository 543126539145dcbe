#!/bin/sh
# `homing`: finds a Node that is new enough, then the program, and becomes it. POSIX sh only; works in a clone
# (TypeScript as it is), from node_modules (built JavaScript), through symlinks, and with no Node on the machine.
set -eu

self=$0
hops=0
while [ -h "$self" ]; do
  hops=$((hops + 1))
  if [ "$hops" -gt 40 ]; then echo "homing: too many links at $0" >&2; exit 69; fi
  link=$(readlink -- "$self")
  case $link in
    /*) self=$link ;;
    *) self=$(dirname -- "$self")/$link ;;
  esac
done
root=$(CDPATH='' cd -- "$(dirname -- "$self")/.." && pwd -P)

oldest=24

# Type stripping is refused under node_modules, so an installed package runs what `npm run build` made.
if [ -f "$root/src/main.ts" ]; then
  main=$root/src/main.ts
elif [ -f "$root/dist/main.js" ]; then
  main=$root/dist/main.js
elif [ -f "$root/dist/src/main.js" ]; then
  main=$root/dist/src/main.js
else
  echo "homing: neither $root/src/main.ts nor $root/dist/main.js is there: the installation is not complete" >&2
  exit 69
fi

is_new_enough() {
  version=$("$1" --version 2>/dev/null) || return 1
  major=${version#v}
  major=${major%%.*}
  case $major in '' | *[!0-9]*) return 1 ;; esac
  [ "$major" -ge "$oldest" ]
}

find_node() {
  if [ -n "${HOMING_NODE:-}" ]; then
    is_new_enough "$HOMING_NODE" && node=$HOMING_NODE && return 0
    echo "homing: HOMING_NODE=$HOMING_NODE is not a Node $oldest or newer" >&2
    return 1
  fi
  if command -v node >/dev/null 2>&1 && is_new_enough node; then node=$(command -v node); return 0; fi
  case $(uname -m) in
    x86_64 | amd64) arch=x64 ;;
    aarch64 | arm64) arch=arm64 ;;
    *) arch= ;;
  esac
  above=$root
  while [ -n "$arch" ]; do
    node=$above/node_modules/node-linux-$arch/bin/node
    if [ -x "$node" ] && is_new_enough "$node"; then return 0; fi
    [ "$above" = / ] && break
    above=$(dirname -- "$above")
  done
  echo "homing: needs Node $oldest or newer: run \`npm ci\` in $root, install Node, or set HOMING_NODE" >&2
  return 1
}

find_node || exit 69
HOMING_ROOT=$root
export HOMING_ROOT
# Node before 24.12 warns that type stripping is experimental; other warnings stay.
exec "$node" --disable-warning=ExperimentalWarning "$main" "$@"
