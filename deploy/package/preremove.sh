#!/bin/sh
# Whoever removes the package ends both. An upgrade does not come here with remove (dpkg) or 0 (rpm).
set -e

case "${1:-}" in
remove | 0)
	if [ -d /run/systemd/system ]; then
		systemctl --no-reload disable --now coordinator.service gateway.service || true
	fi
	;;
esac
