package gateway

// With several coordinators one leads and the others stand by. A gateway asks all of them who leads, and with which epoch; the
// highest wins. Only an answer with a proof counts, and no answer changes anything but whom the gateway links with: what it obeys is
// decided by WELCOME. If an answer raised the lowest epoch that is obeyed, one that never leads to a link would lock the gateway out.

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
	othersAnswer    = 200 * time.Millisecond // once the expected one leads
	maxLeaderAnswer = 4 << 10
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
	store string
	err   error // why there is no answer
}

// lead is what is known of the one that leads, before anybody is asked.
type lead struct {
	store string // "": any
	epoch uint64 // at least
}

// expected is the highest epoch that the gateway was welcomed with or left a coordinator for.
func (g *Gateway) expected() lead {
	g.mu.Lock()
	defer g.mu.Unlock()
	return lead{g.id.store, max(g.id.epoch, g.leftFor)}
}

func (l lead) isOfStore(a leaderAnswer) bool { return l.store == "" || l.store == a.store }

// leaders asks all coordinators at the same time. When the expected one leads, others are not waited for that do not answer at
// once. An older one is no reason for haste: whoever has taken over from it may be farther away.
func (g *Gateway) leaders(ctx context.Context, expected lead) (answers []leaderAnswer) {
	ctx, cancel := context.WithCancel(ctx)
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
			if a.verdict == leads && expected.isOfStore(a) && a.epoch >= expected.epoch && enough == nil {
				enough = time.After(othersAnswer)
			}
		case <-enough:
			return answers
		}
	}
	return answers
}

func (g *Gateway) askLeader(ctx context.Context, u *url.URL) leaderAnswer {
	ctx, cancel := context.WithTimeout(ctx, leaderAnswers)
	defer cancel()
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
		if !link.ProvesLead(reply.Header.Get(link.LeaderProofHeader), g.Secret, nonce, answer) {
			return failed(errNoProof)
		}
		return leaderAnswer{url: u, verdict: leads, epoch: answer.Epoch, store: answer.Store}
	case http.StatusServiceUnavailable:
		return leaderAnswer{url: u, verdict: standsBy}
	}
	return leaderAnswer{url: u, verdict: cannotSay}
}

// candidates are the coordinators to link with, the best first. Without a choice nobody is asked.
func (g *Gateway) candidates(ctx context.Context, t *troubles) (list []leaderAnswer) {
	if len(g.URLs) == 1 {
		return []leaderAnswer{{url: g.URLs[0]}}
	}
	expected := g.expected()
	answers := g.leaders(ctx, expected)
	slices.SortFunc(answers, func(a, b leaderAnswer) int { return cmp.Or(expected.order(a, b), g.inOrder(a.url, b.url)) })
	standing := 0
	for _, a := range answers {
		switch a.verdict {
		case leads, cannotSay:
			list = append(list, a)
		case standsBy:
			standing++
		case noAnswer:
			if ctx.Err() == nil {
				t.failed(a.url, a.err)
			}
		}
	}
	if len(list) == 0 && standing > 0 {
		t.nobodyLeads(standing)
	}
	return list
}

// order has the better one first: that leads, with the store that is known, with the higher epoch.
func (l lead) order(a, b leaderAnswer) int {
	ofOthers := func(a leaderAnswer) int {
		if l.isOfStore(a) {
			return 0
		}
		return 1
	}
	return cmp.Or(cmp.Compare(a.verdict, b.verdict), cmp.Compare(ofOthers(a), ofOthers(b)), cmp.Compare(b.epoch, a.epoch))
}

// inOrder is that of COORDINATOR_URL.
func (g *Gateway) inOrder(a, b *url.URL) int {
	return cmp.Compare(slices.Index(g.URLs, a), slices.Index(g.URLs, b))
}
