package clustertest

import (
	"encoding/base64"
	"encoding/binary"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/websocket"
)

// ControlSecret is that of ControlToken.
const ControlSecret = "control-secret"

func SignToken(t testing.TB, method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
	t.Helper()
	token, err := jwt.NewWithClaims(method, claims).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func ControlToken(t testing.TB, subject string) string {
	t.Helper()
	token, err := Token(ControlSecret, subject)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// sendHugeFrame sends the header of a text frame of the given length (RFC 6455, 5.2), with a mask of zeros.
func SendHugeFrame(conn *websocket.Conn, length uint64) error {
	header := binary.BigEndian.AppendUint64([]byte{0x81, 0xff}, length)
	_, err := conn.NetConn().Write(append(header, 0, 0, 0, 0))
	return err
}

// tellLife plays a stream's whole life and waits for its events.
func TellLife(t testing.TB, app *Application, server, encoder *Peer, channel string) {
	t.Helper()
	id := Publish(server, encoder, channel)
	encoder.Available(channel, id, "HLS-LIVE", "640x360", "live.m3u8")
	server.End(channel, id)
	encoder.Expect("ENCODE-STOP", "Stream-ID", id)
	encoder.Available(channel, id, "HLS-VOD", "640x360", "vod.m3u8")
	encoder.Closed(channel, id)
	app.AwaitStream(id,
		"stream-available "+channel+" "+id+" HLS-LIVE 640x360 live.m3u8",
		"stream-available "+channel+" "+id+" HLS-VOD 640x360 vod.m3u8",
		"stream-closed "+channel+" "+id)
}

func Basic(pair string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(pair)) }
