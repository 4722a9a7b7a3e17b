#!/bin/sh
# Installs what building, running and testing needs and is not there yet.
#
#	tools/packages.sh build|test
#
# Knows Debian 12 / 13 and Ubuntu 24.04; elsewhere it says what to install.
# Asks for root only when something is missing.
set -eu
build='gcc g++ meson ninja-build pkg-config libmicrohttpd-dev libwebsockets-dev libvpx-dev libjansson-dev libinih-dev
	libsentencepiece-dev libutf8proc-dev libdnnl-dev ca-certificates'
test="$build libcmocka-dev python3 python3-venv curl"
case ${1:-build} in
build) wanted=$build ;;
test) wanted=$test ;;
*) echo "usage: $0 build|test" >&2; exit 2 ;;
esac

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
	echo "This is not Debian or Ubuntu: install the equivalents of: $(echo $wanted)" >&2
	exit 0
fi
missing() {
	for name in $1; do
		dpkg-query -W -f '${db:Status-Status}\n' "$name" 2>/dev/null | grep -qx installed || printf '%s ' "$name"
	done
}
# Ubuntu's chromium is a snap; the browser tests are skipped there.
. /etc/os-release
if [ "$1" = test ] && [ "${ID:-}" = debian ]; then wanted="$wanted chromium"; fi

absent=$(missing "$wanted")
[ -n "$absent" ] || exit 0
root=
if [ "$(id -u)" -ne 0 ]; then
	command -v sudo >/dev/null || { echo "Missing packages; as root run: apt-get install $absent" >&2; exit 1; }
	root=sudo
fi
echo "Installing: $absent"
export DEBIAN_FRONTEND=noninteractive
$root apt-get update -qq
$root apt-get install -y -qq --no-install-recommends $absent >/dev/null
still=$(missing "$absent")
[ -z "$still" ] || { echo "Could not install: $still" >&2; exit 1; }
