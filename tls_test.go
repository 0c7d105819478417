package main

// Stories of the certificate: real files, real handshakes, fake time where only time matters.

import (
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
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
	s.AwaitServed(1)

	second := clustertest.NewPair(t, 2)
	clustertest.ReplaceFile(t, s.certFile, second.Cert)
	clustertest.ReplaceFile(t, s.keyFile, second.Key)
	s.AwaitServed(2)

	third := clustertest.NewPair(t, 3) // the watch is on the directory, so it outlives the first files
	clustertest.ReplaceFile(t, s.certFile, third.Cert)
	clustertest.ReplaceFile(t, s.keyFile, third.Key)
	s.AwaitServed(3)
	s.AwaitLogged("not_after=" + third.NotAfter.Format(time.DateOnly))
}

func TestCertificateWrittenInPlaceIsServedOnceItsKeyFollows(t *testing.T) {
	t.Parallel()
	s := serveCertificate(t, t.TempDir(), time.Hour)

	next := clustertest.NewPair(t, 2)
	clustertest.WriteFile(t, s.certFile, next.Cert)
	s.AwaitLogged(pairBroken)
	s.WantServed(1)

	clustertest.WriteFile(t, s.keyFile, next.Key)
	s.AwaitServed(2)
}

func TestCertificateAndKeyInTwoDirectoriesAreBothWatched(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := clustertest.NewPair(t, 1)
	certFile, keyFile := filepath.Join(dir, "certs", "tls.crt"), filepath.Join(dir, "keys", "tls.key")
	makeDirectory(t, filepath.Dir(certFile))
	makeDirectory(t, filepath.Dir(keyFile))
	clustertest.WriteFile(t, certFile, first.Cert)
	clustertest.WriteFile(t, keyFile, first.Key)
	s := serveCertificateFiles(t, certFile, keyFile, time.Hour)

	next := clustertest.NewPair(t, 2)
	clustertest.ReplaceFile(t, certFile, next.Cert)
	s.AwaitLogged(pairBroken)
	clustertest.ReplaceFile(t, keyFile, next.Key)
	s.AwaitServed(2)
}

func TestCertificateOfKubernetesSecretIsServedAfterItsDataLinkIsSwapped(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	makeDirectory(t, filepath.Join(dir, "..2026_01"))
	clustertest.NewPair(t, 1).Write(t, filepath.Join(dir, "..2026_01"))
	clustertest.Link(t, "..2026_01", filepath.Join(dir, "..data"))
	clustertest.Link(t, "..data/tls.crt", filepath.Join(dir, "tls.crt"))
	clustertest.Link(t, "..data/tls.key", filepath.Join(dir, "tls.key"))
	s := serveCertificateFiles(t, filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), time.Hour)
	s.AwaitServed(1)

	makeDirectory(t, filepath.Join(dir, "..2026_02"))
	clustertest.NewPair(t, 2).Write(t, filepath.Join(dir, "..2026_02"))
	clustertest.Link(t, "..2026_02", filepath.Join(dir, "..data_tmp"))
	clustertest.Rename(t, filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data"))
	s.AwaitServed(2) // with the old files still there: only their directory tells of the swap
}

func TestCertificateInReplacedDirectoryIsFoundByThePeriodicCheck(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for release, pair := range map[string]*clustertest.Pair{"a": clustertest.NewPair(t, 1), "b": clustertest.NewPair(t, 2)} {
		makeDirectory(t, filepath.Join(root, release))
		pair.Write(t, filepath.Join(root, release))
	}
	current := filepath.Join(root, "current")
	clustertest.Link(t, "a", current)
	s := serveCertificateFiles(t, filepath.Join(current, "tls.crt"), filepath.Join(current, "tls.key"), 20*time.Millisecond)
	s.AwaitServed(1)

	clustertest.Link(t, "b", current+".new")
	clustertest.Rename(t, current+".new", current) // nothing happens inside the watched directory
	s.AwaitServed(2)
}

func TestReplacedCertificateDirectoryIsWatchedAgainAfterACheck(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("names of events are those of inotify")
	}
	root := t.TempDir()
	for _, release := range []string{"a", "b"} {
		makeDirectory(t, filepath.Join(root, release))
		clustertest.NewPair(t, 1).Write(t, filepath.Join(root, release))
	}
	current := filepath.Join(root, "current")
	clustertest.Link(t, "a", current)
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
	clustertest.Link(t, "b", current+".new")
	clustertest.Rename(t, current+".new", current)
	w.check(false)

	clustertest.WriteFile(t, filepath.Join(root, "a", "unwatched"), nil)
	clustertest.WriteFile(t, filepath.Join(root, "b", "watched"), nil)
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
	clustertest.Rename(t, dir, dir+".old")
	s.AwaitLogged(notWatched)
	s.AwaitLogged(pairBroken)
	s.WantServed(1)

	next := clustertest.NewPair(t, 2)
	makeDirectory(t, dir+".new")
	next.Write(t, dir+".new")
	clustertest.Rename(t, dir+".new", dir)
	s.AwaitServed(2)
}

func TestCertificateThatIsNotValidIsLoggedWhenThatChanges(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	day := func(n int) time.Time { return time.Date(2000, 1, n, 0, 0, 0, 0, time.UTC) } // a bubble begins at the first
	first, second, third := clustertest.NewPairValid(t, 1, day(2), day(4)), clustertest.NewPairValid(t, 2, day(1), day(3)), clustertest.NewPairValid(t, 3, day(1), day(31))
	first.Write(t, dir)
	synctest.Test(t, func(t *testing.T) {
		c, err := loadCertificate(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
		if err != nil {
			t.Fatal(err)
		}
		logs := clustertest.NewLog()
		w := certificateWatch{certificate: c, log: slog.New(slog.NewTextHandler(logs, nil))}
		for _, step := range []struct {
			pair *clustertest.Pair
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
			step.pair.Write(t, dir)
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
	first, second := clustertest.NewPair(t, 1), clustertest.NewPair(t, 2)
	first.Write(t, dir)
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
		second.Write(t, dir)
		synctest.Wait()
		if !c.notAfter().Equal(first.NotAfter) {
			t.Error("the new certificate is served before the check is due")
		}
		<-time.After(time.Second)
		synctest.Wait()
		if !c.notAfter().Equal(second.NotAfter) {
			t.Error("the new certificate is not served after the check")
		}
	})
}

func TestBrokenCertificateKeepsTheOldOneAndIsLoggedOncePerFault(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := clustertest.NewPair(t, 1)
	first.Write(t, dir)
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
		if !c.notAfter().Equal(first.NotAfter) {
			t.Fatalf("%s: another certificate is served", step)
		}
		got := []int{log.Count(pairBroken), log.Count(pairLoaded)}
		if diff := cmp.Diff([]int{wantBroken, wantLoaded}, got); diff != "" {
			t.Fatalf("%s: lines logged for broken and loaded (-want +got):\n%s\n%s", step, diff, log)
		}
	}
	checkThrice("unchanged", 0, 0)
	clustertest.WriteFile(t, keyFile, first.Key[:len(first.Key)/2])
	checkThrice("key half-written", 1, 0)
	if body := string(first.Key[40:60]); strings.Contains(log.String(), body) {
		t.Errorf("the log holds a piece of the key file:\n%s", log)
	}
	clustertest.WriteFile(t, certFile, clustertest.NewPair(t, 2).Cert)
	clustertest.WriteFile(t, keyFile, first.Key)
	checkThrice("key of another certificate", 2, 0)
	if err := os.Remove(keyFile); err != nil {
		t.Fatal(err)
	}
	checkThrice("key gone", 3, 0)
	first.Write(t, dir)
	checkThrice("restored", 3, 1)
	clustertest.WriteFile(t, keyFile, nil)
	checkThrice("broken again", 4, 1)
}

func TestCertificateRepairedAfterAFaultIsServed(t *testing.T) {
	t.Parallel()
	s := serveCertificate(t, t.TempDir(), time.Hour)
	next := clustertest.NewPair(t, 2)
	clustertest.WriteFile(t, s.certFile, next.Cert[:len(next.Cert)/2])
	s.AwaitLogged(pairBroken)
	s.WantServed(1)

	clustertest.ReplaceFile(t, s.keyFile, next.Key)
	clustertest.ReplaceFile(t, s.certFile, next.Cert)
	s.AwaitServed(2)
}

func TestCertificateChainCutOffIsNotServed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	leaf, issuer := clustertest.NewPair(t, 1), clustertest.NewPair(t, 2)
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	chain := append(bytes.Clone(leaf.Cert), issuer.Cert...)
	clustertest.WriteFile(t, keyFile, leaf.Key)
	clustertest.WriteFile(t, certFile, chain[:len(chain)-40])
	if _, err := loadCertificate(certFile, keyFile); err == nil {
		t.Error("a chain whose second certificate is cut off was loaded")
	}
	clustertest.WriteFile(t, certFile, chain)
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
	good := clustertest.NewPair(t, 1)
	for name, test := range map[string]struct {
		cert, key []byte // nil: no such file
		want      string // then the path
	}{
		"certificate missing":         {nil, good.Key, "certificate file: open CERT: "},
		"key missing":                 {good.Cert, nil, "key file: open KEY: "},
		"certificate not PEM":         {[]byte("hello"), good.Key, "certificate file CERT: "},
		"certificate PEM of nonsense": {clustertest.PEMBlock("CERTIFICATE", []byte("x")), good.Key, "certificate file CERT: "},
		"certificate holds the key":   {good.Key, good.Key, "certificate file CERT: "},
		"key not PEM":                 {good.Cert, []byte("hello"), "key file KEY, "},
		"key holds the certificate":   {good.Cert, good.Cert, "key file KEY, "},
		"key of another certificate":  {good.Cert, clustertest.NewPair(t, 2).Key, "key file KEY, "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
			if test.cert != nil {
				clustertest.WriteFile(t, certFile, test.cert)
			}
			if test.key != nil {
				clustertest.WriteFile(t, keyFile, test.key)
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
	if _, err := s.Handshake(&tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 was accepted")
	}
	if _, err := s.Handshake(&tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}); err != nil {
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
	clustertest.TLSClient
	certFile, keyFile string
}

// serveCertificate writes a pair with serial number 1 to dir and serves it.
func serveCertificate(t *testing.T, dir string, every time.Duration) *certificateServer {
	t.Helper()
	clustertest.NewPair(t, 1).Write(t, dir)
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
	s := &certificateServer{clustertest.TLSClient{T: t, Address: listener.Addr().String(), Log: clustertest.NewLog()}, certFile, keyFile}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := c.watch(ctx, every, nil, slog.New(slog.NewTextHandler(s.Log, nil))); err != nil {
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

func makeDirectory(t *testing.T, path string) {
	t.Helper()
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
}
