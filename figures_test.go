package main

import (
	"context"
	"fmt"
	"testing"
)

func TestReasonsHaveLabels(t *testing.T) {
	t.Parallel()
	for reason, want := range map[error]string{
		errNoAnswer: "no_answer",
		fmt.Errorf("%w: status 403", errKeyDenied):        "denied_key",
		fmt.Errorf("%w: status 503", errApplicationError): "application_error",
		errWaitedInVain:             "no_encoder",
		errStopping:                 "stopping",
		errNotKept:                  "events_not_kept",
		errTooMany:                  "too_many",
		errPeerGone:                 "peer_gone",
		context.Canceled:            "peer_gone",
		fmt.Errorf("something new"): "other",
	} {
		if got := publishResult(reason); got != want {
			t.Errorf("publish: %v is %s, want %s", reason, got, want)
		}
	}
}
