package token

// The claims of a token (RFC 7519, section 4) that count: sub, exp and nbf. Others are not looked at, whatever
// they hold; iat says how old a token is, no more (4.1.6).

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// lastDate is the end of the year 9999: a later date is as good, and an earlier one than its opposite. Seconds that an
// int64 cannot hold would come out as any date.
const lastDate = 253402300799

// claims is a map, as the fields of a struct would also take "EXP" for exp. It is the jwt.Claims of Fault.
type claims map[string]json.RawMessage

func (c claims) GetExpirationTime() (*jwt.NumericDate, error) { return c.date("exp") }
func (c claims) GetNotBefore() (*jwt.NumericDate, error)      { return c.date("nbf") }

// GetSubject refuses what is no string.
func (c claims) GetSubject() (subject string, err error) {
	if sub, ok := c["sub"]; ok && json.Unmarshal(sub, &subject) != nil {
		err = fmt.Errorf("%w: sub", jwt.ErrTokenMalformed)
	}
	return subject, err
}

// These are asked for only by options of the library that are not used.

func (claims) GetIssuedAt() (*jwt.NumericDate, error) { return nil, nil }
func (claims) GetIssuer() (string, error)             { return "", nil }
func (claims) GetAudience() (jwt.ClaimStrings, error) { return nil, nil }

// date reads a NumericDate: seconds since 1970 as a JSON number, which may have a fraction. null counts as not there.
func (c claims) date(name string) (*jwt.NumericDate, error) {
	text := string(c[name])
	if text == "" || text == "null" {
		return nil, nil
	}
	if text[0] != '-' && (text[0] < '0' || text[0] > '9') { // it is valid JSON, so that only numbers begin like this
		return nil, fmt.Errorf("%w: %s", jwt.ErrTokenMalformed, name)
	}
	seconds, _ := strconv.ParseFloat(text, 64) // infinite if it is out of range
	seconds = max(-lastDate, min(seconds, lastDate))
	whole := int64(seconds)
	return &jwt.NumericDate{Time: time.Unix(whole, int64((seconds-float64(whole))*1e9))}, nil
}
