#!/bin/sh
# Before the files of the package are there: the system user that the coordinator runs as, and that may read its settings.
# dpkg calls it with install or upgrade, rpm with the number of versions that will be installed.
set -e

if ! getent group coordinator >/dev/null; then
	groupadd --system coordinator
fi
if ! getent passwd coordinator >/dev/null; then
	useradd --system --gid coordinator --no-create-home --home-dir /var/lib/coordinator --shell /usr/sbin/nologin coordinator
fi
