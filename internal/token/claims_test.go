package token

import (
	"encoding/base64"
	"testing"
	"testing/synctest"

	"coordinator/internal/clustertest"

	"github.com/golang-jwt/jwt/v5"
)

// signClaims signs a token whose claims are that text.
func signClaims(t *testing.T, claims string) string {
	t.Helper()
	part := base64.RawURLEncoding.EncodeToString
	signed := part([]byte(`{"alg":"HS256"}`)) + "." + part([]byte(claims))
	signature, err := jwt.SigningMethodHS256.Sign(signed, []byte(clustertest.ControlSecret))
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + part(signature)
}

// The time of a bubble begins at 946684800, and clocks may be 30 s off.
func TestOnlySubjectAndDatesOfATokenCount(t *testing.T) {
	t.Parallel()
	const malformed, expired, early = "token is malformed", "token has expired: is a clock wrong?", "token is not valid yet: is a clock wrong?"
	const otherEndpoint = "token is for another endpoint: its subject is not rtmp-control"
	synctest.Test(t, func(t *testing.T) {
		for claims, want := range map[string]string{
			`"exp":1e300`:               "",
			`"exp":1e999`:               "",
			`"exp":1e19`:                "",
			`"exp":-1e300`:              expired,
			`"exp":-1e999`:              expired,
			`"exp":-1`:                  expired,
			`"exp":-0.0`:                expired,
			`"exp":1e-999`:              expired,
			`"nbf":1e300`:               early,
			`"nbf":1e999`:               early,
			`"nbf":1e19`:                early,
			`"nbf":9223372036854775808`: early,
			`"nbf":9999999999999999999999999999999999999999999`: early,
			`"exp":9999999999999999999999999999999999999999999`: "",
			`"nbf":-1e300`: "",
			`"nbf":-1e999`: "",
			`"nbf":-1.5`:   "",

			// a fraction of a second counts
			`"exp":946684770.25`:         "",
			`"exp":946684770`:            expired,
			`"exp":946684769.75`:         expired,
			`"nbf":946684830`:            "",
			`"nbf":946684830.25`:         early,
			`"nbf":9.4668483025e8`:       early,
			"\"nbf\" : 946684800\n\t":    "",
			`"exp":1,"exp":946684800`:    "", // the last of a name counts, RFC 7519, section 4
			`"exp":946684800,"exp":1`:    expired,
			`"exp":null,"nbf":null`:      "",
			`"EXP":1,"Exp":"x","nBf":[]`: "", // other names

			`"exp":"946684900"`: malformed,
			`"exp":"NaN"`:       malformed,
			`"exp":""`:          malformed,
			`"exp":true`:        malformed,
			`"exp":[]`:          malformed,
			`"nbf":{}`:          malformed,
			`"nbf":"Infinity"`:  malformed,
			`"exp":NaN`:         malformed, // no JSON
			`"exp":-Infinity`:   malformed,
			`"nbf":0x10`:        malformed,
			`"nbf":+1`:          malformed,
			`"nbf":01`:          malformed,

			// not ours to judge
			`"iat":"x"`:                           "",
			`"iat":1e300`:                         "",
			`"jti":5`:                             "",
			`"aud":5`:                             "",
			`"aud":[1,{}]`:                        "",
			`"iss":{"a":[]}`:                      "",
			`"SUB":5,"Sub":"hls-control"`:         "",
			`"":0,"é":"\ud800","x":[[[[]]],null]`: "",

			`"sub":"hls-control"`:    otherEndpoint,
			`"sub":null`:             otherEndpoint,
			`"sub":""`:               otherEndpoint,
			`"sub":5`:                malformed,
			`"sub":["rtmp-control"]`: malformed,
			`"sub":"hls-control","sub":"rtmp-control"`: "",
		} {
			if got := Fault(signClaims(t, `{"sub":"rtmp-control",`+claims+`}`), clustertest.ControlSecret, "CONTROL_SECRET", "rtmp-control"); got != want {
				t.Errorf("%s: %q, want %q", claims, got, want)
			}
		}
		for claims, want := range map[string]string{
			`{}`:                       otherEndpoint,
			`{"SUB":"rtmp-control"}`:   otherEndpoint,
			`null`:                     otherEndpoint,
			`[]`:                       malformed,
			`"rtmp-control"`:           malformed,
			``:                         malformed,
			`{"sub":"rtmp-control"}{}`: malformed,
		} {
			if got := Fault(signClaims(t, claims), clustertest.ControlSecret, "CONTROL_SECRET", "rtmp-control"); got != want {
				t.Errorf("%s: %q, want %q", claims, got, want)
			}
		}
	})
}
