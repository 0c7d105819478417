package main

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"coordinator/internal/memo"
)

// What no coordinator has written: no panic, and nothing is left when all have gone.
func TestOddMemosBreakNothing(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	for seed := range uint64(3000) {
		ok := t.Run(fmt.Sprint(seed), func(t *testing.T) {
			defer func() {
				if x := recover(); x != nil {
					t.Fatalf("seed %d: panic %v", seed, x)
				}
			}()
			rnd := rand.New(rand.NewPCG(seed, 1))
			c := &restoredCluster{}
			c.r = newRegistry(100, now, c.streamID, c, limits{failover: rnd.IntN(2) == 0, encoderWait: time.Duration(rnd.IntN(2)) * time.Minute, startTimeout: time.Duration(rnd.IntN(2)) * time.Minute})
			c.r.random = rnd.IntN
			in := restoration{gateways: map[string]bool{"g1": rnd.IntN(4) > 0, "g2": true}, tails: map[uint64]uint32{}}
			place := func() *memo.Place {
				if rnd.IntN(3) == 0 {
					return nil
				}
				return &memo.Place{Ordinal: uint32(rnd.IntN(4)), Encoder: uint64(rnd.IntN(4) + 3), Gateway: fmt.Sprint("g", rnd.IntN(3))}
			}
			n, ids := uint64(10), 0
			for id := uint64(1); id <= 2; id++ {
				k := keptServer{id: id, gateway: "g2", info: serverInfo{kind: []serverKind{kindRTMP, kindRTMP, kindWS}[rnd.IntN(3)], ip: "10.0.0.1", port: 1935}, since: now, peer: &orderedServer{c, id}}
				for range rnd.IntN(4) {
					n++
					p := memo.Publication{Number: n, Channel: string(rune('a' + rnd.IntN(2))), PublisherID: fmt.Sprint("p", n), Last: uint32(rnd.IntN(5)), Current: place(), Successor: place(), Proven: rnd.IntN(2) == 0, Killed: rnd.IntN(3) == 0, FailedMoves: uint8(rnd.IntN(4)), Avoid: uint64(rnd.IntN(7))}
					p.TookOver = rnd.IntN(4) == 0
					p.Ousted = p.Killed && rnd.IntN(2) == 0
					if rnd.IntN(3) == 0 {
						p.Previous = "before"
					}
					k.publications = append(k.publications, p)
				}
				in.servers = append(in.servers, k)
			}
			for id := uint64(3); id <= 6; id++ {
				k := keptEncoder{id: id, gateway: "g2", address: "10.1.0.1", since: now, peer: &orderedEncoder{c, id}, memo: memo.Session{Capacity: rnd.IntN(4) - 1, Draining: rnd.IntN(3) == 0, Moving: rnd.IntN(2) == 0}}
				for range rnd.IntN(4) {
					ids++
					st := keptStream{Stream: memo.Stream{ID: fmt.Sprint("s", ids), Publication: uint64(rnd.IntN(8) + 11), Ordinal: uint32(rnd.IntN(4)), Role: memo.Role(rnd.IntN(3)), Closing: rnd.IntN(3) == 0}}
					st.Channel = "x"
					for _, s := range in.servers {
						for _, p := range s.publications {
							if p.Number == st.Publication {
								st.Channel = p.Channel
							}
						}
					}
					if rnd.IntN(2) == 0 {
						st.told = memo.Told{LastSeq: uint32(rnd.IntN(3)), Outputs: []memo.Output{{StreamType: "HLS-LIVE"}}}
					}
					if rnd.IntN(2) == 0 {
						in.announced = append(in.announced, announcedStream{queue: st.Publication, channel: st.Channel, id: st.ID, lastSeq: 2})
					}
					k.streams = append(k.streams, st)
				}
				in.encoders = append(in.encoders, k)
			}
			rs := c.r.restore(in, now)
			for range rnd.IntN(3) {
				for id := uint64(3); id <= 6; id++ {
					for i := range ids {
						if rnd.IntN(8) == 0 {
							for _, ch := range []string{"a", "b", "x"} {
								c.r.streamClosed(c.r.encoders[id], ch, fmt.Sprint("s", i+1), now, now)
							}
						}
					}
				}
			}
			if rnd.IntN(3) == 0 {
				c.r.leaveEncoder(c.r.encoders[3], now)
			}
			if rnd.IntN(3) == 0 {
				c.r.leaveServer(c.r.servers[1], now)
			}
			rs.restored(now)
			rowsOf(c.r)
			wholeReport(c.r, now)
			for i := range 40 {
				c.r.expire(now.Add(time.Duration(i) * time.Second))
			}
			for _, s := range c.r.servers {
				c.r.leaveServer(s, now)
			}
			for _, e := range c.r.encoders {
				if len(e.streams) < e.retired || e.retired < 0 {
					t.Fatalf("seed %d: %d retired of %d", seed, e.retired, len(e.streams))
				}
				c.r.leaveEncoder(e, now)
				if e.retired != 0 {
					t.Fatalf("seed %d: %d retired of none", seed, e.retired)
				}
			}
			if c.r.slots.used != 0 || len(c.r.closing) != 0 || c.r.channels.Len() != 0 || len(c.r.killed) != 0 || len(c.r.ousted) != 0 || c.r.waiting.Len() != 0 {
				t.Fatalf("seed %d: left: slots %d closing %d channels %d killed %d ousted %d waiting %d", seed, c.r.slots.used, len(c.r.closing), c.r.channels.Len(), len(c.r.killed), len(c.r.ousted), c.r.waiting.Len())
			}
		})
		if !ok {
			break
		}
	}
}
