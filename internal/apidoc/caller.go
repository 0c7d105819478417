package apidoc

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"coordinator/internal/clustertest"
)

// Caller asks a daemon and holds the answers against the document.
type Caller struct {
	*clustertest.Daemon
	Doc *Document
}

// Ask makes a request, which must be answered with the status. One that the document allows is not answered with 400,
// and one that it does not allow with nothing else, but for what a schema can't say: status 400 then has a minus sign.
func (a Caller) Ask(status int, method, target string, header ...string) {
	a.T.Helper()
	res, body := a.Request(method, target, header...)
	a.judge(status, res, body, method, target, header)
}

// Upgrade asks for a control socket.
func (a Caller) Upgrade(status int, path string, header ...string) {
	a.T.Helper()
	p, res, err := clustertest.Dial(a.T, "ws://"+a.Addr+path, nil, header...)
	if res == nil {
		a.T.Fatal(err)
	}
	body := ""
	if p != nil {
		p.Conn.Close()
	} else if text, err := io.ReadAll(res.Body); err == nil {
		body = string(text)
	}
	a.judge(status, res, body, "GET", path, append(header, clustertest.Handshake("13")...))
}

func (a Caller) judge(status int, res *http.Response, body, method, target string, header []string) {
	a.T.Helper()
	path, rawQuery, _ := strings.Cut(target, "?")
	documented := path
	if strings.HasPrefix(path, "/dashboard/") {
		documented = "/dashboard/{file}"
	}
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		a.T.Fatal(err)
	}
	sent := http.Header{}
	for i := 0; i < len(header); i += 2 {
		sent.Add(header[i], header[i+1])
	}
	op := a.Doc.Operation("paths", documented, method)
	misfit := op.Fits(query, sent)
	what := fmt.Sprintf("%s %s %q", method, target, header)
	switch {
	case res.StatusCode != max(status, -status):
		a.T.Errorf("%s: answered with %d: %s", what, res.StatusCode, body)
	case status == 400 && misfit == nil:
		a.T.Errorf("%s is refused, but the document allows it: %s", what, body)
	case 200 <= status && status < 400 && misfit != nil:
		a.T.Errorf("%s is done, but the document does not allow it: %v", what, misfit)
	}
	op.Answered(res, body)
}
