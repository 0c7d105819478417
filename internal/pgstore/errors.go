package pgstore

// What the database's errors mean, and what to do.

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	tableMissing  = "42P01" // undefined_table
	notAllowed    = "42501" // insufficient_privilege
	wrongPassword = "28P01"
	notAuthorized = "28000"
	noDatabase    = "3D000"
	tooMany       = "53300" // too_many_connections
	diskFull      = "53100"
	readOnly      = "25006" // of an old primary
	lostClass     = "08"    // connection_exception; a pooler says so when its server has gone
	goingDown     = "57P"   // how the codes of a server that shuts down, crashed or starts begin
	fenced        = "CO001" // of coordinator_commit: another epoch
	overtaken     = "CO002" // of coordinator_commit: a later connection of the same leader
)

var errReadOnly = errors.New("this database can only be read: it is a standby, or an old primary")

// isOfTheConnection tells whether a new connection, perhaps to another server, may do better.
func isOfTheConnection(err error) bool {
	code := codeOf(err)
	switch {
	case err == nil || errors.Is(err, pgx.ErrNoRows) || errors.Is(err, errFenced):
		return false
	case code != "":
		return code == readOnly || strings.HasPrefix(code, goingDown) || strings.HasPrefix(code, lostClass)
	}
	return true
}

// codeOf is the SQLSTATE that the database has answered, "" if it has not.
func codeOf(err error) string {
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		return answer.Code
	}
	return ""
}

// plainly says what is wrong, and what to do. No error of pgx has the password.
func plainly(err error) error {
	var words string
	var connecting *pgconn.ConnectError
	var certificate *tls.CertificateVerificationError
	switch code := codeOf(err); {
	case err == nil || errors.Is(err, errReadOnly):
		return err
	case code == notAllowed:
		words = "the user of DATABASE_URL lacks rights: have the owner run what coordinator -schema prints, and grant SELECT, INSERT, UPDATE and DELETE on the tables"
	case code == wrongPassword:
		words = "the database refuses the password of DATABASE_URL"
	case code == notAuthorized && strings.Contains(err.Error(), "no encryption"):
		words = "the database wants TLS: add sslmode=verify-full to DATABASE_URL"
	case code == notAuthorized:
		words = "the database refuses the user of DATABASE_URL"
	case code == noDatabase:
		words = "there is no such database"
	case code == tooMany:
		words = "the database has no connection left: a coordinator needs four"
	case code == diskFull:
		words = "the disk of the database is full"
	case code == readOnly:
		return fmt.Errorf("%w: %w", errReadOnly, err)
	case strings.HasPrefix(code, goingDown):
		words = "the database stops or starts"
	case code != "":
		return err
	case errors.As(err, &certificate):
		words = "the certificate of the database is not to be trusted: if its authority is one of your own, name it with sslrootcert in DATABASE_URL"
	case !errors.As(err, &connecting):
		return err
	case strings.Contains(err.Error(), "refused TLS"):
		words = "the database offers no TLS, and DATABASE_URL asks for it"
	case errors.Is(err, context.Canceled):
		return err
	default:
		words = "the database can't be reached"
	}
	return fmt.Errorf("%s: %w", words, err)
}

// mayWrite is for a new connection: an old primary or a standby is of no use.
func mayWrite(ctx context.Context, conn *pgconn.PgConn) error {
	results, err := conn.Exec(ctx, "SHOW transaction_read_only").ReadAll()
	if err != nil {
		return err
	}
	if len(results) == 1 && len(results[0].Rows) == 1 && string(results[0].Rows[0][0]) == "on" {
		return errReadOnly
	}
	return nil
}
