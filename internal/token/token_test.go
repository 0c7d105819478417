package token

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"coordinator/internal/clustertest"
)

// Clocks of peers differ from ours by seconds: 30 of them are forgiven, both ways, and not one more.
func TestPeersClockMayBe30SecondsOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := time.Now() // at a whole second: the time of a bubble begins there
		signed := func(claim string, at time.Time) string {
			return clustertest.SignToken(t, jwt.SigningMethodHS256, []byte(clustertest.ControlSecret), jwt.MapClaims{"sub": "rtmp-control", claim: at.Unix()})
		}
		const half = 500 * time.Millisecond
		time.Sleep(half)
		for _, test := range []struct {
			claim string
			off   time.Duration // from half a second ago
			good  bool
		}{
			{"nbf", 5 * time.Second, true},
			{"nbf", 30 * time.Second, true},
			{"nbf", 31 * time.Second, false},
			{"nbf", time.Hour, false},
			{"exp", -5 * time.Second, true},
			{"exp", -29 * time.Second, true}, // over since 29.5 s
			{"exp", -30 * time.Second, false},
			{"exp", -time.Hour, false},
			{"iat", 5 * time.Second, true},
			{"iat", time.Hour, true}, // tells an age, and forbids nothing
		} {
			fault := Fault(signed(test.claim, now.Add(test.off)), clustertest.ControlSecret, "CONTROL_SECRET", "rtmp-control")
			if good := fault == ""; good != test.good {
				t.Errorf("%s at %v: %q", test.claim, test.off-half, fault)
			}
		}
	})
}
