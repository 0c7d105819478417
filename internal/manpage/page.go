package main

// The page, in the macros of man(7). What nobody but the page says stands here.

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

const (
	head = `.\" Made by go generate of coordinator -h and docs/configuration.md: change those.
.TH COORDINATOR 1 2026-11-29 coordinator "General Commands Manual"
.SH NAME
coordinator \- control plane of a live\-video cluster
.SH SYNOPSIS
.B coordinator
.RI [ flag ]
.SH DESCRIPTION
The coordinator stands between streaming servers, HLS encoders and the application that owns users, channels and keys.
It lets a publisher in or not, gives each stream to an encoder, tells the application what can be played, and closes a
stream when the application says so.
It carries no video.
.PP
`
	tail = `.SH EXIT STATUS
.TP
.B 0
It has done what was asked for, or was stopped by SIGTERM or SIGINT.
.TP
.B 1
It has failed, and says on standard error why.
.TP
.B 2
The command line can't be understood.
.TP
.BR 130 ", " 143
A second SIGINT or SIGTERM came before the stop was done.
.SH SIGNALS
.TP
.BR SIGTERM ", " SIGINT
Stop within 10 seconds.
A second one ends the process at once.
.TP
.B SIGHUP
Look at the certificate now.
.PP
SIGPIPE and SIGQUIT are ignored.
.SH FILES
.TP
.I /etc/coordinator/coordinator.env
Settings of
.IR coordinator.service ,
as installed by a package.
.TP
.I /etc/coordinator/gateway.env
Settings of
.IR gateway.service .
.TP
.I /var/lib/coordinator
DATA_DIR of
.IR coordinator.service .
.TP
.I /usr/share/doc/coordinator
All settings with a comment (env.example), and the pages that are named here, such as gateways.md.
.SH EXAMPLES
Check settings, then run:
.PP
.EX
HTTP_PORT=8080 coordinator \-check
HTTP_PORT=8080 coordinator
.EE
.PP
Tell whether the gateway of this machine is alive:
.PP
.EX
systemd\-run \-\-pipe \-\-quiet \-p EnvironmentFile=/etc/coordinator/gateway.env coordinator \-healthcheck
.EE
.SH SEE ALSO
.BR systemctl (1),
.BR journalctl (1)
`
)

// render makes the page. It fails where it does not find what it looks for.
func render(usage, document string) (string, error) {
	var p page
	p.WriteString(head)
	_, about, _ := strings.Cut(usage, "\n\n")
	about, flags, ok := strings.Cut(about, "\n\n  -")
	if !ok {
		return "", errors.New("coordinator -h does not list flags")
	}
	about, _, _ = strings.Cut(about, ";") // that this page describes the rest
	p.fill(about + ".")
	p.macro(".SH OPTIONS")
	p.fill("At most one.")
	for line := range strings.Lines("  -" + flags) {
		flag := flagLine.FindStringSubmatch(line)
		if flag == nil {
			return "", fmt.Errorf("not a flag: %q", line)
		}
		p.item(flag[1], capital(flag[2])+".")
	}
	title, body, ok := strings.Cut(document, "\n\n")
	if !ok || title != "# Configuration" {
		return "", fmt.Errorf("%s begins with %q", configurationFile, title)
	}
	p.macro(".SH ENVIRONMENT")
	if err := p.markdown(body); err != nil {
		return "", err
	}
	p.WriteString(tail)
	return p.String(), nil
}

var flagLine = regexp.MustCompile(`^  (-\S+(?: \S+)?) {2,}(\S.*)\n$`)
