#!/bin/sh
# Installs the Debian packages that the tests need beside Python, or says what is missing. Starts no service.
set -eu

PACKAGES='chromium nginx postgresql prometheus redis-server' # Most bring a command of the same name.
POLICY=/usr/sbin/policy-rc.d

# Debian keeps some off the path of ordinary users.
PATH="$PATH:/usr/sbin:$(echo /usr/lib/postgresql/*/bin | tr ' ' :)"
missing=
for package in $PACKAGES; do
	command -v "$(echo "$package" | sed 's/^postgresql$/postgres/; s/^prometheus$/promtool/')" >/dev/null || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

say() {
	echo "$1. The tests that need it are skipped, and fail where CI=true. On Debian: apt-get install$missing" >&2
	exit 0
}

[ "$(id -u)" = 0 ] && grep -qs '^ID=debian$' /etc/os-release && command -v apt-get >/dev/null ||
	say "Missing:$missing"

# What Debian asks before it starts a service; 101 means no.
if [ ! -e $POLICY ]; then
	trap 'rm -f $POLICY' EXIT
	printf '#!/bin/sh\nexit 101\n' >$POLICY
	chmod 755 $POLICY
fi
echo "Installing:$missing"
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # a list
apt-get -qq update && apt-get -qq install --no-install-recommends $missing >/dev/null || say "Not installed:$missing"
