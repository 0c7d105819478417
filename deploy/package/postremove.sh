#!/bin/sh
# A purge (dpkg) also forgets the events that were not delivered, the settings and the user that the package has made. rpm has no purge: it leaves all three.
set -e

case "${1:-}" in
remove | 0)
	if [ -d /run/systemd/system ]; then
		systemctl daemon-reload || true
	fi
	;;
purge)
	rm -rf /var/lib/coordinator /var/lib/private/coordinator
	rmdir /etc/coordinator 2>/dev/null || true # whatever else is there is not ours
	home=$(getent passwd coordinator | cut -d: -f6)
	if [ "$home" = /var/lib/coordinator ]; then # else somebody else has made the user, and keeps it
		userdel coordinator || true
		if getent group coordinator >/dev/null; then # userdel may have taken it along
			groupdel coordinator || true
		fi
	fi
	;;
esac
