package main

// The TLS certificate and how it is renewed without a restart: load, check, watch, swap.
//
// Rules:
//   - A handshake reads one atomic pointer; it never waits for a reload.
//   - Certificate and key are replaced together, and only by a whole pair that fits; until then the old one serves.
//   - Directories are watched, not files: editors, certbot and Kubernetes put new files and links in the place of
//     old ones, and a watch on a file would stay with the old one. A periodic check finds what watching misses.
//   - Faults are logged when they change, not on each check. What the key file holds is never logged.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"coordinator/internal/regular"

	"github.com/fsnotify/fsnotify"
)

const (
	certificateSettle      = 200 * time.Millisecond // quiet time after a change, so that both files are written
	certificateSettleLimit = 2 * time.Second        // a steady stream of changes puts a check off by no more than this
)

// certificate is the pair that HTTPS serves. All methods but watch may be called from anywhere.
type certificate struct {
	// set once
	certFile, keyFile string

	// stored by loadCertificate, then by the one watch; never nil
	current atomic.Pointer[keyPair]
}

type keyPair struct {
	served   tls.Certificate      // Leaf is set
	contents [2][sha256.Size]byte // of certificate file and key file
}

// loadCertificate reads a pair in PEM form. The error names the file that is the trouble.
func loadCertificate(certFile, keyFile string) (*certificate, error) {
	pair, err := readKeyPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	c := &certificate{certFile: certFile, keyFile: keyFile}
	c.current.Store(pair)
	return c, nil
}

// tlsConfig returns a server configuration that always presents the current pair.
func (c *certificate) tlsConfig() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get}
}

// get is a tls.Config.GetCertificate; it never fails.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return &c.current.Load().served, nil
}

// notAfter is the end of validity of the certificate served now.
func (c *certificate) notAfter() time.Time {
	return c.current.Load().served.Leaf.NotAfter
}

// watch takes up changed files until ctx ends: soon after a change that can be seen, at each hangup, and each every
// (positive) in any case. It is called once, and its owner waits for it. Without file watching it goes on with the
// other checks.
func (c *certificate) watch(ctx context.Context, every time.Duration, hangup <-chan os.Signal, log *slog.Logger) error {
	w := certificateWatch{certificate: c, log: log}
	directories, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("certificate files cannot be watched, only checked periodically", "every", every, "error", err)
		follow(ctx, every, nil, hangup, w.check)
		return nil
	}
	w.directories = directories

	changed := make(chan struct{}, 1)
	var notifier sync.WaitGroup
	notifier.Go(func() { notify(directories, changed) })
	follow(ctx, every, changed, hangup, w.check)
	err = directories.Close()
	notifier.Wait()
	return err
}

// notify turns whatever happens in the directories into one pending signal, until the watcher is closed. An error
// counts as a change, as it means that events were lost. It must not wait for the checks: they call the watcher, which
// can be holding its lock until an event or error is taken.
func notify(directories *fsnotify.Watcher, changed chan<- struct{}) {
	for open := true; open; {
		select {
		case _, open = <-directories.Events:
		case _, open = <-directories.Errors:
		}
		select {
		case changed <- struct{}{}:
		default:
		}
	}
}

// follow calls check at once, each every, at each hangup, and once changes have settled, until ctx ends.
func follow(ctx context.Context, every time.Duration, changed <-chan struct{}, hangup <-chan os.Signal, check func(asked bool)) {
	periodic := time.NewTicker(every)
	defer periodic.Stop()
	var settled <-chan time.Time // nil while nothing has changed
	var latest time.Time         // when the check is due however much still changes
	check(false)
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			if settled == nil {
				latest = time.Now().Add(certificateSettleLimit)
			}
			settled = time.After(min(certificateSettle, time.Until(latest)))
		case <-settled:
			settled = nil
			check(false)
		case <-hangup:
			check(true)
		case <-periodic.C:
			check(false)
		}
	}
}

// certificateWatch is the state of one watch; follow's goroutine owns it.
type certificateWatch struct {
	*certificate
	log         *slog.Logger
	directories *fsnotify.Watcher // nil: could not be started

	// the last ones logged, "" for none
	pairFault, watchFault, validityFault string
}

// check looks at the files. What somebody has asked for is logged, even if it is the same as before.
func (w *certificateWatch) check(asked bool) {
	if asked {
		w.pairFault, w.watchFault = "not looked at", "not looked at" // differs from whatever is found
	}
	if w.directories != nil {
		w.watchDirectories()
	}
	w.reload()
	w.checkValidity()
}

// watchDirectories sets the watches anew, as a directory can have been replaced by another one of the same name. It
// comes before the files are read, so that no change falls between.
func (w *certificateWatch) watchDirectories() {
	var faults []error
	for _, directory := range slices.Compact([]string{filepath.Dir(w.certFile), filepath.Dir(w.keyFile)}) {
		_ = w.directories.Remove(directory) // fails when it is not watched, or gone
		if err := w.directories.Add(directory); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", directory, err))
		}
	}
	err := errors.Join(faults...)
	if changedFault(&w.watchFault, err) && err != nil {
		w.log.Warn("certificate directory cannot be watched, only checked periodically", "error", err)
	}
}

// reload swaps in the pair on disk if it is another one and whole.
func (w *certificateWatch) reload() {
	pair, err := readKeyPair(w.certFile, w.keyFile)
	faultChanged := changedFault(&w.pairFault, err)
	switch {
	case err != nil:
		if faultChanged {
			w.log.Warn("certificate files cannot be used, the loaded pair stays",
				"error", err, "not_after", w.notAfter())
		}
	case faultChanged || pair.contents != w.current.Load().contents:
		w.current.Store(pair)
		w.log.Info("certificate files loaded", "not_after", w.notAfter())
	}
}

// checkValidity warns of a certificate that clients will refuse, because it is too old or too new. It is served all the
// same: the clock may be wrong, and peers may be told not to mind.
func (w *certificateWatch) checkValidity() {
	var err error
	leaf, now := w.current.Load().served.Leaf, time.Now()
	switch {
	case now.Before(leaf.NotBefore):
		err = fmt.Errorf("not valid before %s", leaf.NotBefore.UTC().Format(time.RFC3339))
	case now.After(leaf.NotAfter):
		err = fmt.Errorf("expired at %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	if changedFault(&w.validityFault, err) && err != nil {
		w.log.Warn("certificate is served, but clients will refuse it: renew it, or set the clock right", "error", err)
	}
}

// changedFault notes err (nil: no fault) as the last fault and reports whether it reads differently from the one before.
func changedFault(last *string, err error) bool {
	text := ""
	if err != nil {
		text = err.Error()
	}
	changed := text != *last
	*last = text
	return changed
}

func readKeyPair(certFile, keyFile string) (*keyPair, error) {
	certPEM, err := regular.ReadFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("certificate file: %w", err)
	}
	keyPEM, err := regular.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	leaf, err := parseLeaf(certPEM)
	if err != nil {
		return nil, fmt.Errorf("certificate file %s: %w", certFile, err)
	}
	served, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("key file %s, for certificate file %s: %w", keyFile, certFile, err)
	}
	served.Leaf = leaf
	return &keyPair{served, [2][sha256.Size]byte{sha256.Sum256(certPEM), sha256.Sum256(keyPEM)}}, nil
}

// parseLeaf returns the first certificate of the chain. It refuses a chain with a block that is cut off, which
// tls.X509KeyPair would skip: a half-written file must not be served as a shorter chain.
func parseLeaf(certPEM []byte) (*x509.Certificate, error) {
	var first *pem.Block
	blocks := 0
	for block, rest := pem.Decode(certPEM); block != nil; block, rest = pem.Decode(rest) {
		blocks++
		if first == nil && block.Type == "CERTIFICATE" {
			first = block
		}
	}
	if blocks < bytes.Count(certPEM, []byte("-----BEGIN ")) {
		return nil, errors.New("a PEM block is cut off or damaged")
	}
	if first == nil {
		return nil, errors.New("no certificate in PEM form")
	}
	return x509.ParseCertificate(first.Bytes)
}
