package memo

import (
	"slices"

	"coordinator/internal/tagged"
)

// The tags of memos. They are on gateways that outlive this version: none changes its meaning.

func (m *Session) Fields(c *tagged.Coder) {
	c.Bool(1, &m.Kept)
	c.Bool(2, &m.Draining)
	c.Bool(3, &m.Moving)
	tagged.Int(c, 4, &m.Capacity)
}

func (m *Place) Fields(c *tagged.Coder) {
	tagged.Uint(c, 1, &m.Ordinal)
	tagged.Uint(c, 2, &m.Encoder)
	c.String(3, &m.Gateway)
}

func (m *Publication) Fields(c *tagged.Coder) {
	tagged.Uint(c, 1, &m.Number)
	c.String(2, &m.Channel)
	c.String(3, &m.Key)
	c.String(4, &m.PublisherID)
	c.String(5, &m.Resolutions)
	c.String(6, &m.Record)
	c.String(7, &m.Previews)
	tagged.Int(c, 8, &m.Since)
	c.String(9, &m.ID)
	c.String(10, &m.Previous)
	tagged.Uint(c, 11, &m.Last)
	tagged.Part(c, 12, &m.Current)
	tagged.Part(c, 13, &m.Successor)
	tagged.Uint(c, 14, &m.Avoid)
	c.Bool(15, &m.Proven)
	c.Bool(16, &m.Killed)
	c.Bool(17, &m.Ousted)
	tagged.Uint(c, 18, &m.FailedMoves)
	c.Bool(19, &m.TookOver)
	c.String(20, &m.Passthrough)
	tagged.Uint(c, 21, &m.Why)
}

func (m *Stream) Fields(c *tagged.Coder) {
	c.String(1, &m.ID)
	c.String(2, &m.Channel)
	tagged.Uint(c, 3, &m.Ordinal)
	tagged.Uint(c, 4, &m.Publication)
	tagged.Uint(c, 5, &m.Server)
	c.String(6, &m.ServerGateway)
	tagged.Int(c, 7, &m.Since)
	c.String(8, &m.Previous)
	tagged.Uint(c, 9, &m.Role)
	c.Bool(10, &m.Closing)
	c.String(11, &m.Passthrough)
	tagged.Uint(c, 12, &m.Why)
}

func (m *Told) Fields(c *tagged.Coder) {
	tagged.Uint(c, 1, &m.LastSeq)
	tagged.List(c, 2, &m.Outputs)
}

func (m *Output) Fields(c *tagged.Coder) {
	known := slices.Index(streamTypes, m.StreamType) + 1 // a number is shorter, and there are thousands of them
	tagged.Int(c, 1, &known)
	if known > 0 && known <= len(streamTypes) {
		m.StreamType = streamTypes[known-1]
	} else {
		c.String(2, &m.StreamType)
	}
	c.String(3, &m.Resolution)
	c.String(4, &m.IndexFile)
	c.String(5, &m.StartTime)
}

var streamTypes = []string{"HLS-LIVE", "HLS-VOD", "IMG-PREVIEW"}
