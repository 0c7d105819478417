package clustertest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TLSClient looks at the certificate that an address presents.
type TLSClient struct {
	T       testing.TB
	Address string
	Log     *Log
}

// handshake returns the serial number of the certificate presented.
func (s *TLSClient) Handshake(config *tls.Config) (int64, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", s.Address, config)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64(), nil
}

func (s *TLSClient) Served() int64 {
	s.T.Helper()
	serial, err := s.Handshake(&tls.Config{InsecureSkipVerify: true})
	if err != nil {
		s.T.Fatal(err)
	}
	return serial
}

func (s *TLSClient) WantServed(want int64) {
	s.T.Helper()
	if got := s.Served(); got != want {
		s.T.Fatalf("certificate %d is served, want %d", got, want)
	}
}

func (s *TLSClient) AwaitServed(want int64) {
	s.T.Helper()
	s.Await("the new certificate to be served", func() bool { return s.Served() == want })
}

func (s *TLSClient) AwaitLogged(message string) {
	s.T.Helper()
	s.Await(message, func() bool { return s.Log.Count(message) > 0 })
}

func (s *TLSClient) Await(what string, done func() bool) {
	s.T.Helper()
	deadline := time.After(20 * time.Second)
	retry := time.NewTicker(5 * time.Millisecond)
	defer retry.Stop()
	for !done() {
		select {
		case <-retry.C:
		case <-deadline:
			s.T.Fatalf("waited in vain for: %s; log:\n%s", what, s.Log)
		}
	}
}

// testPair is a self-signed certificate and its key in PEM form.
type Pair struct {
	Cert, Key []byte
	NotAfter  time.Time
}

// newTestPair makes a pair that is told from others by its serial number and its end of validity.
func NewPair(t testing.TB, serial int64) *Pair {
	t.Helper()
	return NewPairValid(t, serial, time.Time{}, time.Date(2100, 1, int(serial), 0, 0, 0, 0, time.UTC))
}

func NewPairValid(t testing.TB, serial int64, notBefore, notAfter time.Time) *Pair {
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
	return &Pair{PEMBlock("CERTIFICATE", cert), PEMBlock("PRIVATE KEY", keyDER), template.NotAfter}
}

func (p *Pair) Write(t testing.TB, dir string) {
	t.Helper()
	WriteFile(t, filepath.Join(dir, "tls.crt"), p.Cert)
	WriteFile(t, filepath.Join(dir, "tls.key"), p.Key)
}

// PEMBlock encodes one block.
func PEMBlock(kind string, content []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content})
}

func WriteFile(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// replaceFile puts a new file in the place of path, as an editor does.
func ReplaceFile(t testing.TB, path string, content []byte) {
	t.Helper()
	WriteFile(t, path+".new", content)
	Rename(t, path+".new", path)
}

func Rename(t testing.TB, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func Link(t testing.TB, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

// ReadText reads a file.
func ReadText(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
