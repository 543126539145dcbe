#!/bin/sh
# Makes a folder with Debian 13 (trixie) and its Dovecot 2.4, so that both settings syntaxes are tried on one machine.
# Needs root. A second run finds the finished folder and does nothing. Prints the folder.
set -eu

root=${1:-/var/tmp/homing-trixie}
done_mark=$root/.homing-complete

if [ -e "$done_mark" ]; then
  echo "$root"
  exit 0
fi
if [ "$(id -u)" != 0 ]; then
  echo "trixie.sh: needs root to make $root" >&2
  exit 1
fi
if ! command -v debootstrap >/dev/null 2>&1; then
  apt-get update -qq >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends debootstrap >&2
fi

# The mirror this machine already uses: the first Debian archive named in its apt sources.
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
  grep -v '^[[:space:]]*#' | grep -oE 'https?://[^ ]+/debian/?( |$)' | head -n 1 | tr -d ' ' || true)
mirror=${mirror:-http://deb.debian.org/debian}

# A half-made folder of an earlier try is of no use; it holds nothing but what debootstrap put there.
case $root in
  /var/tmp/homing-*|/tmp/homing-*) rm -rf -- "$root" ;;
  *) [ ! -e "$root" ] || { echo "trixie.sh: $root exists and is not complete; remove it" >&2; exit 1; } ;;
esac

debootstrap --variant=minbase trixie "$root" "$mirror" >&2

# Nothing may be started inside: it shares this machine's network.
printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
cp /etc/resolv.conf "$root/etc/resolv.conf" 2>/dev/null || true
for file in /etc/apt/apt.conf /etc/apt/apt.conf.d/*proxy*; do
  [ ! -f "$file" ] || cp "$file" "$root/etc/apt/apt.conf.d/"
done
DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get install -y -qq --no-install-recommends \
  dovecot-core dovecot-imapd dovecot-lmtpd dovecot-pop3d dovecot-managesieved dovecot-sieve >&2
chroot "$root" apt-get clean
touch "$done_mark"
echo "$root"
