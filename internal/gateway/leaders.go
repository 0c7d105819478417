package gateway

// With several coordinators one leads and the others stand by. A gateway asks all of them who leads, and with which epoch; the
// highest wins. Only an answer with a proof counts, and no answer changes anything but whom the gateway links with: what it obeys is
// decided by WELCOME.

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"coordinator/internal/link"
)

const (
	leaderAnswers   = 2 * time.Second
	othersAnswer    = 200 * time.Millisecond // once one leads
	maxLeaderAnswer = 4 << 10

	// While it is linked a gateway asks now and then, and more often if its coordinator is not sure to lead.
	lookRound       = 2 * time.Second
	lookRoundUnsure = 500 * time.Millisecond

	// leaveWithin is how long a coordinator that is left has for ending the link.
	leaveWithin = 200 * time.Millisecond
)

var errNoLeader = errors.New("coordinator neither leads nor stands by")

// verdict is what a coordinator says of itself.
type verdict int

const (
	leads     verdict = iota
	cannotSay         // a coordinator that does not know the question: it is asked for a link
	standsBy
	noAnswer
)

type leaderAnswer struct {
	url *url.URL
	verdict
	epoch uint64
	err   error // why there is no answer
}

// leaders asks all coordinators at the same time. When one leads, others are not waited for that do not answer at once.
func (g *Gateway) leaders(ctx context.Context) (answers []leaderAnswer) {
	ctx, cancel := context.WithTimeout(ctx, leaderAnswers)
	defer cancel()
	come := make(chan leaderAnswer, len(g.URLs))
	for _, u := range g.URLs {
		g.running.Go(func() { come <- g.askLeader(ctx, u) })
	}
	var enough <-chan time.Time
	for range g.URLs {
		select {
		case a := <-come:
			answers = append(answers, a)
			if a.verdict == leads && enough == nil {
				enough = time.After(othersAnswer)
			}
		case <-enough:
			return answers
		}
	}
	return answers
}

func (g *Gateway) askLeader(ctx context.Context, u *url.URL) leaderAnswer {
	raw := make([]byte, 32)
	rand.Read(raw)
	nonce := base64.RawURLEncoding.EncodeToString(raw)
	failed := func(err error) leaderAnswer { return leaderAnswer{url: u, verdict: noAnswer, err: err} }
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String()+link.LeaderPath, nil)
	if err != nil {
		return failed(err)
	}
	request.Header.Set(link.LeaderNonceHeader, nonce)
	reply, err := g.forwarder.transport.RoundTrip(request) // no redirects
	if err != nil {
		return failed(err)
	}
	defer reply.Body.Close()
	body, err := io.ReadAll(io.LimitReader(reply.Body, maxLeaderAnswer))
	if err != nil {
		return failed(err)
	}
	switch reply.StatusCode {
	case http.StatusOK:
		var answer link.Leader
		if json.Unmarshal(body, &answer) != nil || !answer.Leader {
			return failed(errNoLeader)
		}
		if !link.ProvesLead(reply.Header.Get(link.LeaderProofHeader), g.Secret, nonce, answer.Epoch) {
			return failed(errNoProof)
		}
		return leaderAnswer{url: u, verdict: leads, epoch: answer.Epoch}
	case http.StatusServiceUnavailable:
		return leaderAnswer{url: u, verdict: standsBy}
	}
	return leaderAnswer{url: u, verdict: cannotSay}
}

// candidates are the coordinators to link with, the best first. Without a choice nobody is asked.
func (g *Gateway) candidates(ctx context.Context, t *troubles) (urls []*url.URL) {
	if len(g.URLs) == 1 {
		return g.URLs
	}
	answers := g.leaders(ctx)
	slices.SortFunc(answers, func(a, b leaderAnswer) int {
		return cmp.Or(cmp.Compare(a.verdict, b.verdict), -cmp.Compare(a.epoch, b.epoch), cmp.Compare(slices.Index(g.URLs, a.url), slices.Index(g.URLs, b.url)))
	})
	standing := 0
	for _, a := range answers {
		switch a.verdict {
		case leads, cannotSay:
			urls = append(urls, a.url)
		case standsBy:
			standing++
		case noAnswer:
			if ctx.Err() == nil {
				t.failed(a.url, a.err)
			}
		}
	}
	if len(urls) == 0 && standing > 0 {
		t.nobodyLeads(standing)
	}
	return urls
}

// lookOut asks while a link is up whether another coordinator leads with a higher epoch. Then the link ends, and the other one
// is the best candidate.
func (g *Gateway) lookOut(ctx context.Context, l *activeLink, epoch uint64) {
	for {
		if !g.awaitRound(ctx, l) {
			return
		}
		for _, a := range g.leaders(ctx) {
			if a.verdict == leads && a.epoch > epoch && ctx.Err() == nil {
				g.leaveFor(l, a.epoch)
				return
			}
		}
	}
}

// awaitRound reports false when the link has ended.
func (g *Gateway) awaitRound(ctx context.Context, l *activeLink) bool {
	usual, soon := time.NewTimer(lookRound), time.NewTimer(lookRoundUnsure)
	defer usual.Stop()
	defer soon.Stop()
	for {
		select {
		case <-usual.C:
			return true
		case <-soon.C:
			if l.unsure.Load() {
				return true
			}
		case <-l.doubt:
			return true // it has just said so
		case <-ctx.Done():
			return false
		}
	}
}

// leaveFor ends the link for a coordinator with a higher epoch. What still comes over it is not obeyed.
func (g *Gateway) leaveFor(l *activeLink, epoch uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.link != l {
		return
	}
	g.sendLocked(g.id.frame(link.With(link.KindBye, 0, &link.Reason{Text: errEpoch.Error(), Epoch: epoch})))
	l.closing = true
	g.unlinkLocked()
	time.AfterFunc(leaveWithin, func() { l.end(errEpoch) })
}
