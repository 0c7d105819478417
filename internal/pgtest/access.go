package pgtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Access says who may connect, in lines of pg_hba.conf, beside the user of the server's own socket.
func (s *Server) Access(t testing.TB, lines ...string) {
	t.Helper()
	text := "local all coordinator trust\n" + strings.Join(lines, "\n") + "\n"
	s.write(t, filepath.Join(s.Data(), "pg_hba.conf"), text)
	Exec(t, s.URL("postgres"), "SELECT pg_reload_conf()")
}

// AtAddress is the URL of one of the server's databases for a user who comes over TCP. The server listens at listening.
func (s *Server) AtAddress(listening, user, database string) string {
	return "postgres://" + user + "@" + listening + ":5432/" + Name(database)
}

// Set changes a setting while the server runs.
func (s *Server) Set(t testing.TB, setting, value string) {
	t.Helper()
	url := s.URL("postgres") + "&default_transaction_read_only=off"
	Exec(t, url, "ALTER SYSTEM SET "+setting+" = '"+value+"'")
	Exec(t, url, "SELECT pg_reload_conf()")
}

// HangUp ends the connections of coordinators.
func (s *Server) HangUp(t testing.TB) {
	t.Helper()
	Exec(t, s.URL("postgres"), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'coordinator'")
}

// WithTLS are settings for a server that offers TLS, with a certificate that nobody knows.
func (s *Server) WithTLS(t testing.TB) (settings []string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "database"}, DNSNames: []string{"database"}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile := filepath.Join(s.Dir(), "tls.crt"), filepath.Join(s.Dir(), "tls.key")
	s.write(t, certFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})))
	s.write(t, keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	return []string{"ssl=on", "ssl_cert_file=" + certFile, "ssl_key_file=" + keyFile}
}

// write writes a file that belongs to the server.
func (s *Server) write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if s.Owner() == nil {
		return
	}
	if err := os.Chown(path, int(s.Owner().Credential.Uid), int(s.Owner().Credential.Gid)); err != nil {
		t.Fatal(err)
	}
}
