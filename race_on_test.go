//go:build race

package main

const raceDetector = true // its memory and its slowness are not the daemon's
