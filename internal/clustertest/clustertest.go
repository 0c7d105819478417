// Package clustertest plays what stands around a coordinator in tests: its peers, its application, and whoever reads its
// log. Connection and HTTPServer know nothing of tests: the load tool plays with them, too. Peers read as the strictest of today's peers do (wire.ParseStrict). What has to come is awaited for Patience, and its
// absence ends the test.
package clustertest

import "time"

// Patience is how long a test waits for what must happen. It is long because machines are slow at times; what is
// waited for comes in milliseconds.
const Patience = 20 * time.Second
