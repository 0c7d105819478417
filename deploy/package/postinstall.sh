#!/bin/sh
# An upgrade restarts the coordinator if it runs. It never restarts the gateway, whose sockets hold what is live: the new
# program is taken up when somebody restarts it. An installation starts nothing, as a machine is one or the other.
# dpkg calls it with configure, and the version before if there was one; rpm with the number of versions installed.
set -e

upgrade=
case "${1:-}" in
configure) upgrade=${2:-} ;;
abort-*) exit 0 ;;
1) ;;
*) upgrade=yes ;;
esac

if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
	if [ -n "$upgrade" ]; then
		systemctl try-restart coordinator.service || echo "coordinator.service failed to restart: see journalctl -u coordinator" >&2
		if systemctl is-active --quiet gateway.service; then
			echo "gateway.service still runs the previous version; restarting it ends the live streams on it: drain its peers first" >&2
		fi
	fi
fi
if [ -z "$upgrade" ]; then
	echo "Write the settings into /etc/coordinator/coordinator.env, then: systemctl enable --now coordinator"
	echo "For a gateway, into /etc/coordinator/gateway.env, then: systemctl enable --now gateway"
fi
