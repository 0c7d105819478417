// Stories of the certificate: real files, real handshakes, fake time where only time matters.
package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/clustertest"

	"github.com/fsnotify/fsnotify"
	"github.com/google/go-cmp/cmp"
)

const (
	pairLoaded = "certificate files loaded"
	pairBroken = "certificate files cannot be used"
	notWatched = "certificate directory cannot be watched"
	notValid   = "certificate is served, but clients will refuse it"
)

func TestCertificateOfRenamedFilesIsServed(t *testing.T) {
	t.Parallel()
	s := serveCertificate(t, t.TempDir(), time.Hour)
	s.awaitServed(1)

	second := newTestPair(t, 2)
	replaceFile(t, s.certFile, second.cert)
	replaceFile(t, s.keyFile, second.key)
	s.awaitServed(2)

	third := newTestPair(t, 3) // the watch is on the directory, so it outlives the first files
	replaceFile(t, s.certFile, third.cert)
	replaceFile(t, s.keyFile, third.key)
	s.awaitServed(3)
	s.awaitLogged("not_after=" + third.notAfter.Format(time.DateOnly))
}

func TestCertificateWrittenInPlaceIsServedOnceItsKeyFollows(t *testing.T) {
	t.Parallel()
	s := serveCertificate(t, t.TempDir(), time.Hour)

	next := newTestPair(t, 2)
	writeFile(t, s.certFile, next.cert)
	s.awaitLogged(pairBroken)
	s.wantServed(1)

	writeFile(t, s.keyFile, next.key)
	s.awaitServed(2)
}

func TestCertificateAndKeyInTwoDirectoriesAreBothWatched(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := newTestPair(t, 1)
	certFile, keyFile := filepath.Join(dir, "certs", "tls.crt"), filepath.Join(dir, "keys", "tls.key")
	makeDirectory(t, filepath.Dir(certFile))
	makeDirectory(t, filepath.Dir(keyFile))
	writeFile(t, certFile, first.cert)
	writeFile(t, keyFile, first.key)
	s := serveCertificateFiles(t, certFile, keyFile, time.Hour)

	next := newTestPair(t, 2)
	replaceFile(t, certFile, next.cert)
	s.awaitLogged(pairBroken)
	replaceFile(t, keyFile, next.key)
	s.awaitServed(2)
}

func TestCertificateOfKubernetesSecretIsServedAfterItsDataLinkIsSwapped(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	makeDirectory(t, filepath.Join(dir, "..2026_01"))
	newTestPair(t, 1).write(t, filepath.Join(dir, "..2026_01"))
	link(t, "..2026_01", filepath.Join(dir, "..data"))
	link(t, "..data/tls.crt", filepath.Join(dir, "tls.crt"))
	link(t, "..data/tls.key", filepath.Join(dir, "tls.key"))
	s := serveCertificateFiles(t, filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), time.Hour)
	s.awaitServed(1)

	makeDirectory(t, filepath.Join(dir, "..2026_02"))
	newTestPair(t, 2).write(t, filepath.Join(dir, "..2026_02"))
	link(t, "..2026_02", filepath.Join(dir, "..data_tmp"))
	rename(t, filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data"))
	s.awaitServed(2) // with the old files still there: only their directory tells of the swap
}

func TestCertificateInReplacedDirectoryIsFoundByThePeriodicCheck(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for release, pair := range map[string]*testPair{"a": newTestPair(t, 1), "b": newTestPair(t, 2)} {
		makeDirectory(t, filepath.Join(root, release))
		pair.write(t, filepath.Join(root, release))
	}
	current := filepath.Join(root, "current")
	link(t, "a", current)
	s := serveCertificateFiles(t, filepath.Join(current, "tls.crt"), filepath.Join(current, "tls.key"), 20*time.Millisecond)
	s.awaitServed(1)

	link(t, "b", current+".new")
	rename(t, current+".new", current) // nothing happens inside the watched directory
	s.awaitServed(2)
}

func TestReplacedCertificateDirectoryIsWatchedAgainAfterACheck(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for _, release := range []string{"a", "b"} {
		makeDirectory(t, filepath.Join(root, release))
		newTestPair(t, 1).write(t, filepath.Join(root, release))
	}
	current := filepath.Join(root, "current")
	link(t, "a", current)
	c, err := loadCertificate(filepath.Join(current, "tls.crt"), filepath.Join(current, "tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	directories, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer directories.Close()
	w := certificateWatch{certificate: c, log: slog.New(slog.DiscardHandler), directories: directories}
	w.check(false)
	link(t, "b", current+".new")
	rename(t, current+".new", current)
	w.check(false)

	writeFile(t, filepath.Join(root, "a", "unwatched"), nil)
	writeFile(t, filepath.Join(root, "b", "watched"), nil)
	select {
	case event := <-directories.Events:
		if want := filepath.Join(current, "watched"); event.Name != want {
			t.Errorf("first event is of %s, want %s", event.Name, want)
		}
	case <-time.After(10 * time.Second):
		t.Error("no event from the new directory")
	}
}

func TestCertificateDirectoryThatCannotBeWatchedLeavesThePeriodicCheck(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "tls")
	makeDirectory(t, dir)
	s := serveCertificate(t, dir, 20*time.Millisecond)
	rename(t, dir, dir+".old")
	s.awaitLogged(notWatched)
	s.awaitLogged(pairBroken)
	s.wantServed(1)

	next := newTestPair(t, 2)
	makeDirectory(t, dir+".new")
	next.write(t, dir+".new")
	rename(t, dir+".new", dir)
	s.awaitServed(2)
}

func TestCertificateOutsideItsValidityIsServedWithAWarning(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	newTestPairValid(t, 1, time.Time{}, time.Now().Add(-time.Hour)).write(t, dir)
	d := startDaemon(t, "LOG_DEBUG=NO", "SSL_PORT=0", "SSL_CERT="+filepath.Join(dir, "tls.crt"), "SSL_KEY="+filepath.Join(dir, "tls.key"))
	d.Logs.Await(t, "level=WARN", notValid, "expired at")
	s := &certificateServer{t: t, address: clustertest.Attribute(d.Logs.Await(t, "msg=listening", "scheme=https"), "addr"), log: d.Logs}
	s.wantServed(1)
}

func TestCertificateThatIsNotValidIsLoggedWhenThatChanges(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	day := func(n int) time.Time { return time.Date(2000, 1, n, 0, 0, 0, 0, time.UTC) } // a bubble begins at the first
	first, second, third := newTestPairValid(t, 1, day(2), day(4)), newTestPairValid(t, 2, day(1), day(3)), newTestPairValid(t, 3, day(1), day(31))
	first.write(t, dir)
	synctest.Test(t, func(t *testing.T) {
		c, err := loadCertificate(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
		if err != nil {
			t.Fatal(err)
		}
		logs := clustertest.NewLog()
		w := certificateWatch{certificate: c, log: slog.New(slog.NewTextHandler(logs, nil))}
		for _, step := range []struct {
			pair *testPair
			wait time.Duration
			want string // "": nothing new
		}{
			{first, 0, "not valid before 2000-01-02T00:00:00Z"},
			{first, time.Hour, ""},
			{first, 24 * time.Hour, ""}, // valid now
			{first, 72 * time.Hour, "expired at 2000-01-04T00:00:00Z"},
			{first, time.Hour, ""},
			{second, 0, "expired at 2000-01-03T00:00:00Z"},
			{third, 0, ""},
			{third, 24 * time.Hour, ""},
		} {
			step.pair.write(t, dir)
			time.Sleep(step.wait)
			logs.Forget()
			w.check(false)
			if n := logs.Count(notValid); n > 1 || (n == 1) != (step.want != "") || logs.Count(step.want) == 0 && step.want != "" {
				t.Errorf("at %v: logged %q, want %q", time.Now(), logs, step.want)
			}
		}
	})
}

func TestCertificateIsCheckedPeriodicallyWithoutAnyWatching(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, second := newTestPair(t, 1), newTestPair(t, 2)
	first.write(t, dir)
	synctest.Test(t, func(t *testing.T) {
		c, err := loadCertificate(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
		if err != nil {
			t.Fatal(err)
		}
		w := certificateWatch{certificate: c, log: slog.New(slog.DiscardHandler)}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go follow(ctx, time.Minute, nil, nil, w.check)

		<-time.After(59 * time.Second)
		second.write(t, dir)
		synctest.Wait()
		if !c.notAfter().Equal(first.notAfter) {
			t.Error("the new certificate is served before the check is due")
		}
		<-time.After(time.Second)
		synctest.Wait()
		if !c.notAfter().Equal(second.notAfter) {
			t.Error("the new certificate is not served after the check")
		}
	})
}

func TestBrokenCertificateKeepsTheOldOneAndIsLoggedOncePerFault(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := newTestPair(t, 1)
	first.write(t, dir)
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	c, err := loadCertificate(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	log := clustertest.NewLog()
	w := certificateWatch{certificate: c, log: slog.New(slog.NewTextHandler(log, nil))}
	checkThrice := func(step string, wantBroken, wantLoaded int) {
		t.Helper()
		for range 3 {
			w.check(false)
		}
		if !c.notAfter().Equal(first.notAfter) {
			t.Fatalf("%s: another certificate is served", step)
		}
		got := []int{log.Count(pairBroken), log.Count(pairLoaded)}
		if diff := cmp.Diff([]int{wantBroken, wantLoaded}, got); diff != "" {
			t.Fatalf("%s: lines logged for broken and loaded (-want +got):\n%s\n%s", step, diff, log)
		}
	}
	checkThrice("unchanged", 0, 0)
	writeFile(t, keyFile, first.key[:len(first.key)/2])
	checkThrice("key half-written", 1, 0)
	if body := string(first.key[40:60]); strings.Contains(log.String(), body) {
		t.Errorf("the log holds a piece of the key file:\n%s", log)
	}
	writeFile(t, certFile, newTestPair(t, 2).cert)
	writeFile(t, keyFile, first.key)
	checkThrice("key of another certificate", 2, 0)
	if err := os.Remove(keyFile); err != nil {
		t.Fatal(err)
	}
	checkThrice("key gone", 3, 0)
	first.write(t, dir)
	checkThrice("restored", 3, 1)
	writeFile(t, keyFile, nil)
	checkThrice("broken again", 4, 1)
}

func TestCertificateRepairedAfterAFaultIsServed(t *testing.T) {
	t.Parallel()
	s := serveCertificate(t, t.TempDir(), time.Hour)
	next := newTestPair(t, 2)
	writeFile(t, s.certFile, next.cert[:len(next.cert)/2])
	s.awaitLogged(pairBroken)
	s.wantServed(1)

	replaceFile(t, s.keyFile, next.key)
	replaceFile(t, s.certFile, next.cert)
	s.awaitServed(2)
}

func TestCertificateChainCutOffIsNotServed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	leaf, issuer := newTestPair(t, 1), newTestPair(t, 2)
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	chain := append(bytes.Clone(leaf.cert), issuer.cert...)
	writeFile(t, keyFile, leaf.key)
	writeFile(t, certFile, chain[:len(chain)-40])
	if _, err := loadCertificate(certFile, keyFile); err == nil {
		t.Error("a chain whose second certificate is cut off was loaded")
	}
	writeFile(t, certFile, chain)
	c, err := loadCertificate(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := c.get(nil); len(got.Certificate) != 2 {
		t.Errorf("%d certificates in the chain, want 2", len(got.Certificate))
	}
}

func TestLoadCertificateNamesTheFileThatIsTheTrouble(t *testing.T) {
	t.Parallel()
	good := newTestPair(t, 1)
	for name, test := range map[string]struct {
		cert, key []byte // nil: no such file
		want      string // then the path
	}{
		"certificate missing":         {nil, good.key, "certificate file: open CERT: "},
		"key missing":                 {good.cert, nil, "key file: open KEY: "},
		"certificate not PEM":         {[]byte("hello"), good.key, "certificate file CERT: "},
		"certificate PEM of nonsense": {pemBlock("CERTIFICATE", []byte("x")), good.key, "certificate file CERT: "},
		"certificate holds the key":   {good.key, good.key, "certificate file CERT: "},
		"key not PEM":                 {good.cert, []byte("hello"), "key file KEY, "},
		"key holds the certificate":   {good.cert, good.cert, "key file KEY, "},
		"key of another certificate":  {good.cert, newTestPair(t, 2).key, "key file KEY, "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
			if test.cert != nil {
				writeFile(t, certFile, test.cert)
			}
			if test.key != nil {
				writeFile(t, keyFile, test.key)
			}
			_, err := loadCertificate(certFile, keyFile)
			want := strings.NewReplacer("CERT", certFile, "KEY", keyFile).Replace(test.want)
			if err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("error %v, want one that begins with %q", err, want)
			}
		})
	}
}

func TestTLSBelowOneDotTwoIsRefused(t *testing.T) {
	t.Parallel()
	s := serveCertificate(t, t.TempDir(), time.Hour)
	if _, err := s.handshake(&tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 was accepted")
	}
	if _, err := s.handshake(&tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}); err != nil {
		t.Errorf("TLS 1.2: %v", err)
	}
}

func TestCertificateChecksFollowSettledChangesAndTheClock(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		changes, want []time.Duration // since the start
	}{
		"nothing changes":  {nil, seconds(0, 60, 120)},
		"one change":       {seconds(1), seconds(0, 1.2, 60, 120)},
		"a burst, one run": {seconds(1, 1.1, 1.25, 1.4), seconds(0, 1.6, 60, 120)},
		"two changes":      {seconds(1, 1.3), seconds(0, 1.2, 1.5, 60, 120)},
		"steady stream": {
			seconds(1, 1.15, 1.3, 1.45, 1.6, 1.75, 1.9, 2.05, 2.2, 2.35, 2.5, 2.65, 2.8, 2.95, 3.1, 3.25),
			seconds(0, 3, 3.45, 60, 120),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, stop := context.WithCancel(t.Context())
				start := time.Now()
				changed := make(chan struct{}, 1)
				var got []time.Duration
				var following sync.WaitGroup
				following.Go(func() {
					follow(ctx, time.Minute, changed, nil, func(bool) { got = append(got, time.Since(start)) })
				})
				for _, at := range test.changes {
					<-time.After(at - time.Since(start))
					changed <- struct{}{}
				}
				<-time.After(121*time.Second - time.Since(start))
				stop()
				following.Wait()
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("times of checks (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func seconds(values ...float64) []time.Duration {
	var list []time.Duration
	for _, value := range values {
		list = append(list, time.Duration(value*1000)*time.Millisecond)
	}
	return list
}

// certificateServer is a TLS listener whose certificate is being watched.
type certificateServer struct {
	t                          *testing.T
	certFile, keyFile, address string
	log                        *clustertest.Log
}

// serveCertificate writes a pair with serial number 1 to dir and serves it.
func serveCertificate(t *testing.T, dir string, every time.Duration) *certificateServer {
	t.Helper()
	newTestPair(t, 1).write(t, dir)
	return serveCertificateFiles(t, filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), every)
}

func serveCertificateFiles(t *testing.T, certFile, keyFile string, every time.Duration) *certificateServer {
	t.Helper()
	c, err := loadCertificate(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", c.tlsConfig())
	if err != nil {
		t.Fatal(err)
	}
	s := &certificateServer{t: t, certFile: certFile, keyFile: keyFile, address: listener.Addr().String(), log: clustertest.NewLog()}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := c.watch(ctx, every, nil, slog.New(slog.NewTextHandler(s.log, nil))); err != nil {
			t.Errorf("watch: %v", err)
		}
	})
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			_ = conn.(*tls.Conn).Handshake() // the client tells of a failure
			_ = conn.Close()
		}
	})
	t.Cleanup(func() {
		stop()
		_ = listener.Close()
		running.Wait()
	})
	return s
}

// handshake returns the serial number of the certificate presented.
func (s *certificateServer) handshake(config *tls.Config) (int64, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", s.address, config)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64(), nil
}

func (s *certificateServer) served() int64 {
	s.t.Helper()
	serial, err := s.handshake(&tls.Config{InsecureSkipVerify: true})
	if err != nil {
		s.t.Fatal(err)
	}
	return serial
}

func (s *certificateServer) wantServed(want int64) {
	s.t.Helper()
	if got := s.served(); got != want {
		s.t.Fatalf("certificate %d is served, want %d", got, want)
	}
}

func (s *certificateServer) awaitServed(want int64) {
	s.t.Helper()
	s.await("the new certificate to be served", func() bool { return s.served() == want })
}

func (s *certificateServer) awaitLogged(message string) {
	s.t.Helper()
	s.await(message, func() bool { return s.log.Count(message) > 0 })
}

func (s *certificateServer) await(what string, done func() bool) {
	s.t.Helper()
	deadline := time.After(20 * time.Second)
	retry := time.NewTicker(5 * time.Millisecond)
	defer retry.Stop()
	for !done() {
		select {
		case <-retry.C:
		case <-deadline:
			s.t.Fatalf("waited in vain for: %s; log:\n%s", what, s.log)
		}
	}
}

// testPair is a self-signed certificate and its key in PEM form.
type testPair struct {
	cert, key []byte
	notAfter  time.Time
}

// newTestPair makes a pair that is told from others by its serial number and its end of validity.
func newTestPair(t *testing.T, serial int64) *testPair {
	t.Helper()
	return newTestPairValid(t, serial, time.Time{}, time.Date(2100, 1, int(serial), 0, 0, 0, 0, time.UTC))
}

func newTestPairValid(t *testing.T, serial int64, notBefore, notAfter time.Time) *testPair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: "localhost"},
		NotBefore:    notBefore,
		NotAfter:     notAfter,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &testPair{pemBlock("CERTIFICATE", cert), pemBlock("PRIVATE KEY", keyDER), template.NotAfter}
}

func (p *testPair) write(t *testing.T, dir string) {
	t.Helper()
	writeFile(t, filepath.Join(dir, "tls.crt"), p.cert)
	writeFile(t, filepath.Join(dir, "tls.key"), p.key)
}

func pemBlock(kind string, content []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content})
}

func writeFile(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// replaceFile puts a new file in the place of path, as an editor does.
func replaceFile(t *testing.T, path string, content []byte) {
	t.Helper()
	writeFile(t, path+".new", content)
	rename(t, path+".new", path)
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

func makeDirectory(t *testing.T, path string) {
	t.Helper()
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
}
