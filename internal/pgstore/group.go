package pgstore

// A group of the outbox as the arguments of coordinator_commit.

import (
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"coordinator/internal/outbox"
)

const commitSQL = `SELECT coordinator_commit($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26)`

// arguments are those of a commit, in the order of coordinator_commit in schema.sql. progress has the last row of each session that is known to
// have no other one.
func arguments(epoch uint64, writer int64, g outbox.Group, progress map[uint64]uint64) []any {
	e := eventColumnsOf(g.Appended)
	a, c := streamColumnsOf(g)
	p := progressColumnsOf(g, progress)
	d := deliveredColumnsOf(g.Delivered)
	cluster := clusterChangesOf(g.Changes)
	return []any{
		int64(epoch), writer,
		e.queue, e.position, e.at, e.body,
		a.stream, a.queue, a.channel, a.previous, a.passthrough, a.lastSeq, a.tail,
		c.queue, c.stream, c.tail,
		p.session, p.applied, p.from,
		d.queue, d.head,
		cluster.added, cluster.removed, cluster.forgotten,
		cluster.numbers, cluster.store,
	}
}

// The columns of a table are arrays of one length, an element for each row. None is nil, which PostgreSQL would take for NULL.

type eventColumns struct {
	queue, position, at []int64
	body                [][]byte
}

func eventColumnsOf(events []outbox.Event) eventColumns {
	n := len(events)
	c := eventColumns{make([]int64, 0, n), make([]int64, 0, n), make([]int64, 0, n), make([][]byte, 0, n)}
	for i := range events {
		ev := &events[i]
		c.queue, c.position = append(c.queue, int64(ev.Queue)), append(c.position, int64(ev.Position))
		c.at, c.body = append(c.at, ev.At.UnixMilli()), append(c.body, outbox.EncodeEvent(ev))
	}
	return c
}

// announcedColumns are streams whose end is not in the group.
type announcedColumns struct {
	stream                         []string
	queue                          []int64
	channel, previous, passthrough []string
	lastSeq, tail                  []int64
}

func (c *announcedColumns) add(s *streamInGroup) {
	c.stream, c.queue = append(c.stream, s.StreamID), append(c.queue, s.queue)
	c.channel, c.previous, c.passthrough = append(c.channel, s.Channel), append(c.previous, s.Previous), append(c.passthrough, s.Passthrough)
	c.lastSeq, c.tail = append(c.lastSeq, int64(s.LastSeq)), append(c.tail, s.tail)
}

// closedColumns are streams whose end is in the group. With "" for a stream, which no row has, only the tail of the queue's others moves on.
type closedColumns struct {
	queue  []int64
	stream []string
	tail   []int64
}

func (c *closedColumns) add(queue int64, stream string, tail int64) {
	c.queue, c.stream, c.tail = append(c.queue, queue), append(c.stream, stream), append(c.tail, tail)
}

func streamColumnsOf(g outbox.Group) (announcedColumns, closedColumns) {
	n, tails, streams := len(g.Appended), tailsOf(g.Appended), streamsOf(g)
	announced := announcedColumns{
		make([]string, 0, n), make([]int64, 0, n), make([]string, 0, n), make([]string, 0, n), make([]string, 0, n), make([]int64, 0, n), make([]int64, 0, n),
	}
	closed := closedColumns{[]int64{}, []string{}, []int64{}}
	for i := range g.Appended {
		if ev := &g.Appended[i]; ev.Type == outbox.StreamInterrupted {
			closed.add(int64(ev.Queue), "", tails[int64(ev.Queue)])
		}
	}
	for _, s := range streams {
		if s.closed {
			closed.add(s.queue, s.StreamID, tails[s.queue])
		} else {
			announced.add(s)
		}
	}
	return announced, closed
}

// tailsOf is the next position of each queue.
func tailsOf(events []outbox.Event) map[int64]int64 {
	tails := map[int64]int64{}
	for i := range events {
		queue := int64(events[i].Queue)
		tails[queue] = max(tails[queue], int64(events[i].Position)+1)
	}
	return tails
}

// streamInGroup is what becomes of a stream in a group, or of a publisher that was accepted under its ID.
type streamInGroup struct {
	outbox.AnnouncedStream
	queue, tail int64
	closed      bool // no end of it is owed any more
}

// streamsOf are those that a group says something of, in the order in which it first does.
func streamsOf(g outbox.Group) (inOrder []*streamInGroup) {
	byID := make(map[string]*streamInGroup, len(g.Appended))
	stream := func(id string) *streamInGroup {
		s := byID[id]
		if s == nil {
			s = &streamInGroup{AnnouncedStream: outbox.AnnouncedStream{StreamID: id}}
			byID[id] = s
			inOrder = append(inOrder, s)
		}
		return s
	}
	fulfill := func(publisherID string, queue int64) {
		if publisherID != "" {
			s := stream(publisherID)
			s.queue, s.closed = queue, true
		}
	}
	for i := range g.Changes {
		if change := &g.Changes[i]; change.Kind == outbox.StreamKnown {
			queue := int64(change.Stream.Queue)
			fulfill(change.Fulfills, queue)
			s := stream(change.Stream.StreamID)
			s.AnnouncedStream, s.queue, s.closed = change.Stream.AnnouncedStream, queue, false
		}
	}
	for i := range g.Appended {
		ev := &g.Appended[i]
		if ev.Type == outbox.StreamInterrupted || ev.Type == outbox.PublishRefused {
			continue // it neither owes an end nor is one
		}
		queue := int64(ev.Queue)
		fulfill(ev.Fulfills, queue)
		s := stream(ev.StreamID)
		if s.queue == 0 || s.closed {
			s.Channel, s.Previous, s.Passthrough, s.queue = ev.Channel, ev.Previous, ev.Passthrough, queue
		}
		s.LastSeq, s.tail, s.closed = ev.Seq, int64(ev.Position)+1, ev.Type == outbox.StreamClosed || ev.Type == outbox.PublishFailed
	}
	return inOrder
}

type progressColumns struct{ session, applied, from []int64 }

func progressColumnsOf(g outbox.Group, progress map[uint64]uint64) progressColumns {
	applied := appliedBy(g)
	n := len(applied)
	c := progressColumns{make([]int64, 0, n), make([]int64, 0, n), make([]int64, 0, n)}
	for session, message := range applied {
		c.session, c.applied, c.from = append(c.session, int64(session)), append(c.applied, int64(message)), append(c.from, int64(progress[session]))
	}
	return c
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

type deliveredColumns struct{ queue, head []int64 }

func deliveredColumnsOf(delivered []outbox.DeliveredUpTo) deliveredColumns {
	c := deliveredColumns{make([]int64, 0, len(delivered)), make([]int64, 0, len(delivered))}
	for _, upTo := range delivered {
		c.queue, c.head = append(c.queue, int64(upTo.Queue)), append(c.head, int64(upTo.Head))
	}
	return c
}

// clusterChanges are those of a group, but for what is known of streams. Where one thing is changed twice, the later change counts.
type clusterChanges struct {
	added, removed []string // gateways
	forgotten      []int64  // sessions
	numbers        int64
	store          string
}

func clusterChangesOf(changes []outbox.Change) clusterChanges {
	c := clusterChanges{added: []string{}, removed: []string{}, forgotten: []int64{}}
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
