package main

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

type callbacks struct {
	client *appClient
	mu     sync.Mutex
	q      []event
	wake   chan struct{}
	done   chan struct{}
	ctx    context.Context
	cancel context.CancelFunc
}

func newCallbacks(cfg *Config, log *slog.Logger) (*callbacks, error) {
	c := &callbacks{wake: make(chan struct{}, 1), done: make(chan struct{})}
	if cfg.EventCallbackURL != "" {
		c.client = newAppClient(cfg.EventCallbackURL, cfg.EventCallbackAuth, 256)
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}
func (c *callbacks) keeping() error { return nil }
func (c *callbacks) append(e event) {
	if c.client == nil {
		return
	}
	c.mu.Lock()
	c.q = append(c.q, e)
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}
func (c *callbacks) start() {
	go func() {
		defer close(c.done)
		for {
			select {
			case <-c.wake:
			case <-c.ctx.Done():
				return
			}
			for {
				c.mu.Lock()
				if len(c.q) == 0 {
					c.mu.Unlock()
					break
				}
				e := c.q[0]
				c.q = c.q[1:]
				c.mu.Unlock()
				h := http.Header{}
				h.Set("x-streaming-channel", e.channel)
				h.Set("x-streaming-id", e.streamID)
				h.Set("x-event-type", "stream-available")
				if e.closed {
					h.Set("x-event-type", "stream-closed")
				} else {
					h.Set("x-stream-type", e.streamType)
					h.Set("x-resolution", e.resolution)
					h.Set("x-index-file", headerValue(e.indexFile))
					if e.startTime != "" {
						h.Set("x-start-time", e.startTime)
					}
				}
				h.Set("x-event-id", e.streamID)
				h.Set("x-event-time", e.at.UTC().Format(time.RFC3339Nano))
				for c.ctx.Err() == nil {
					st, _, err := c.client.post(c.ctx, h)
					if err == nil && st == 200 {
						break
					}
					select {
					case <-time.After(300 * time.Millisecond):
					case <-c.ctx.Done():
					}
				}
			}
		}
	}()
}
func (c *callbacks) drain(ctx context.Context) error { c.cancel(); <-c.done; return nil }
