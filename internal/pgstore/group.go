package pgstore

// A group of the outbox as the arguments of coordinator_commit.

import (
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"coordinator/internal/outbox"
)

const commitSQL = `SELECT coordinator_commit($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26)`

// announcement is what becomes of a stream in a group.
type announcement struct {
	outbox.AnnouncedStream
	queue, tail int64
	closed      bool
}

// arguments are those of a commit. progress has the last row of each session that is known to have no other one.
func arguments(epoch uint64, writer int64, g outbox.Group, progress map[uint64]uint64) []any {
	n := len(g.Appended)
	queues, positions, at, bodies := make([]int64, 0, n), make([]int64, 0, n), make([]int64, 0, n), make([][]byte, 0, n)
	streams, order := map[string]*announcement{}, make([]string, 0, n)
	stream := func(id string) *announcement {
		a := streams[id]
		if a == nil {
			a = &announcement{AnnouncedStream: outbox.AnnouncedStream{StreamID: id}}
			streams[id] = a
			order = append(order, id)
		}
		return a
	}
	applied, ends := appliedBy(g), map[int64]int64{} // by session; by queue: the next position
	closed, closedQueues := []string{}, []int64{}
	c := clusterChanges(g.Changes, stream)
	for i := range g.Appended {
		ev := &g.Appended[i]
		queues, positions = append(queues, int64(ev.Queue)), append(positions, int64(ev.Position))
		at, bodies = append(at, ev.At.UnixMilli()), append(bodies, outbox.EncodeEvent(ev))
		queue, tail := int64(ev.Queue), int64(ev.Position)+1
		ends[queue] = max(ends[queue], tail)
		switch {
		case ev.Type == outbox.StreamInterrupted:
			closed, closedQueues = append(closed, ""), append(closedQueues, queue) // no row has this name: it moves on the tail of the others
			continue
		case ev.Type == outbox.PublishRefused:
			continue
		case ev.Settles != "":
			a := stream(ev.Settles)
			a.queue, a.closed = queue, true
		}
		a := stream(ev.StreamID)
		if a.queue == 0 || a.closed {
			a.Channel, a.Previous, a.Passthrough, a.queue = ev.Channel, ev.Previous, ev.Passthrough, queue
		}
		a.LastSeq, a.tail, a.closed = ev.Seq, tail, ev.Type == outbox.StreamClosed || ev.Type == outbox.PublishFailed
	}
	ids, announcedQueues := make([]string, 0, n), make([]int64, 0, n)
	channels, previous, passthrough := make([]string, 0, n), make([]string, 0, n), make([]string, 0, n)
	lastSeqs, tails := make([]int64, 0, n), make([]int64, 0, n)
	closedTails := make([]int64, 0, len(closed))
	for _, queue := range closedQueues {
		closedTails = append(closedTails, ends[queue])
	}
	for _, id := range order {
		a := streams[id]
		if a.closed {
			closed, closedQueues, closedTails = append(closed, id), append(closedQueues, a.queue), append(closedTails, ends[a.queue])
			continue
		}
		ids, announcedQueues = append(ids, id), append(announcedQueues, a.queue)
		channels, previous, passthrough = append(channels, a.Channel), append(previous, a.Previous), append(passthrough, a.Passthrough)
		lastSeqs, tails = append(lastSeqs, int64(a.LastSeq)), append(tails, a.tail)
	}
	sessions, messages, from := make([]int64, 0, len(applied)), make([]int64, 0, len(applied)), make([]int64, 0, len(applied))
	for session, message := range applied {
		sessions, messages, from = append(sessions, int64(session)), append(messages, int64(message)), append(from, int64(progress[session]))
	}
	delivered, heads := make([]int64, 0, len(g.Delivered)), make([]int64, 0, len(g.Delivered))
	for _, upTo := range g.Delivered {
		delivered, heads = append(delivered, int64(upTo.Queue)), append(heads, int64(upTo.Head))
	}
	return []any{
		int64(epoch), writer, queues, positions, at, bodies,
		ids, announcedQueues, channels, previous, passthrough, lastSeqs, tails, closedQueues, closed, closedTails,
		sessions, messages, from, delivered, heads,
		c.added, c.removed, c.forgotten, c.numbers, c.store,
	}
}

// appliedBy is how far the sessions get with a group, without those that end with it.
func appliedBy(g outbox.Group) map[uint64]uint64 {
	applied := map[uint64]uint64{}
	for i := range g.Appended {
		if ev := &g.Appended[i]; ev.Message > 0 {
			applied[ev.Session] = max(applied[ev.Session], ev.Message)
		}
	}
	for _, change := range g.Changes {
		if change.Kind == outbox.SessionForgotten {
			delete(applied, change.Number)
		}
	}
	return applied
}

// changed is what a group changes of the cluster. Where one thing is changed twice, the later change counts.
type changed struct {
	added, removed []string
	forgotten      []int64
	numbers        int64
	store          string
}

func clusterChanges(changes []outbox.Change, stream func(id string) *announcement) changed {
	c := changed{added: []string{}, removed: []string{}, forgotten: []int64{}}
	without := func(list []string, id string) []string {
		return slices.DeleteFunc(list, func(other string) bool { return other == id })
	}
	for _, change := range changes {
		switch change.Kind {
		case outbox.StoreNamed:
			c.store = change.ID
		case outbox.GatewayAdded:
			c.added, c.removed = append(c.added, change.ID), without(c.removed, change.ID)
		case outbox.GatewayRemoved:
			c.added, c.removed = without(c.added, change.ID), append(c.removed, change.ID)
		case outbox.NumbersUsed:
			c.numbers = max(c.numbers, int64(change.Number))
		case outbox.SessionForgotten:
			c.forgotten = append(c.forgotten, int64(change.Number))
		case outbox.StreamKnown:
			if change.Settles != "" {
				a := stream(change.Settles)
				a.queue, a.closed = int64(change.Stream.Queue), true
			}
			a, known := stream(change.Stream.StreamID), change.Stream
			a.AnnouncedStream, a.queue, a.closed = known.AnnouncedStream, int64(known.Queue), false
		}
	}
	return c
}

// inBinary encodes arguments as PostgreSQL has them. pgx would send them as text, which costs the database several times as much to
// read.
func inBinary(types *pgtype.Map, arguments []any) (values [][]byte, oids []uint32, err error) {
	for _, argument := range arguments {
		var oid uint32
		switch argument.(type) {
		case int64:
			oid = pgtype.Int8OID
		case string:
			oid = pgtype.TextOID
		case []int64:
			oid = pgtype.Int8ArrayOID
		case []string:
			oid = pgtype.TextArrayOID
		case [][]byte:
			oid = pgtype.ByteaArrayOID
		}
		value, err := types.Encode(oid, pgx.BinaryFormatCode, argument, []byte{})
		if err != nil {
			return nil, nil, err
		}
		values, oids = append(values, value), append(oids, oid)
	}
	return values, oids, nil
}

func sorted(numbers []uint64) []uint64 {
	slices.Sort(numbers)
	return numbers
}
