//go:build race

package outbox

const raceDetector = true // its memory and its slowness are not the daemon's
