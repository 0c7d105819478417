// Package gateway holds peers' control sockets for a coordinator that may die and come back. It decides nothing.
package gateway

import "errors"

var errGap = errors.New("a frame is missing on the link")
