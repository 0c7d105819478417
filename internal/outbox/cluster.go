package outbox

// What a coordinator with gateways keeps beside its events: which store this is, which numbers may have been given, which
// gateways there are, and how far the messages of each session are applied. It is one more bucket, "cluster", which a
// coordinator without gateways neither writes nor reads.

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"go.etcd.io/bbolt"
)

const (
	clusterBucket = "cluster"

	storeIDKey    = "store"
	numbersKey    = "numbers"
	gatewayPrefix = "gateway/"
	appliedPrefix = "applied/"
)

// Cluster is what the store knew when it was opened.
type Cluster struct {
	StoreID   string
	IsNew     bool   // it was made now
	Numbers   uint64 // no session and no publication has a higher number
	Gateways  []string
	Applied   map[uint64]uint64 // by session: the number of its last message all of whose events are in the store
	Tails     map[uint64]uint32 // of queues: the next position
	Announced []Announced       // streams that the application knows and was not told the end of
}

// Announced is an announced stream with its queue.
type Announced struct {
	Queue uint64
	AnnouncedStream
}

// Change is a change of what is kept of a cluster. Making it twice does no harm.
type Change struct {
	Kind     ChangeKind
	ID       string    // of the gateway or the store
	Number   uint64    // the last one used, or that of the session
	Stream   Announced // for StreamKnown
	Fulfills string    // for StreamKnown: see Event

	durable chan struct{}
}

// ChangeKind tells what a Change changes.
type ChangeKind int

const (
	StoreNamed ChangeKind = iota
	GatewayAdded
	GatewayRemoved
	NumbersUsed
	SessionForgotten
	StreamKnown
)

func nameStore(id string) Change { return Change{Kind: StoreNamed, ID: id} }

// AddGateway is to be durable before the gateway is told anything.
func AddGateway(id string) Change { return Change{Kind: GatewayAdded, ID: id} }

func RemoveGateway(id string) Change { return Change{Kind: GatewayRemoved, ID: id} }

// UseNumbers says that numbers up to last are given from now on.
func UseNumbers(last uint64) Change { return Change{Kind: NumbersUsed, Number: last} }

// ForgetSession drops how far a session's messages are applied.
func ForgetSession(session uint64) Change { return Change{Kind: SessionForgotten, Number: session} }

// KnowStream says again that the application knows a stream, for a database that has lost commits. A file loses none: nothing is
// written to it. fulfills is as in Event.
func KnowStream(a Announced, fulfills string) Change {
	return Change{Kind: StreamKnown, Stream: a, Fulfills: fulfills}
}

func appliedKey(session uint64) string {
	return appliedPrefix + string(binary.BigEndian.AppendUint64(nil, session))
}

// OpenShared is OpenCluster for a store that other processes may use when this one has ended with it. It is closed with the outbox.
func OpenShared(store Store, send Send, observe Observe, log *slog.Logger) (*Outbox, Cluster, error) {
	o, c, err := newClusterOutbox(time.Now, store, send, observe, log)
	if err == nil {
		o.commitEvery = sharedCommits
	}
	return o, c, err
}

// OpenCluster is Open for a coordinator with gateways: streams that were announced are closed only if no gateway is known, for
// they may live on at one. Without a send nothing may be
// appended, and events that the store holds wait for a process that has one.
func OpenCluster(dir string, send Send, observe Observe, log *slog.Logger) (*Outbox, Cluster, error) {
	store, err := openLogged(dir, log)
	if err != nil {
		return nil, Cluster{}, err
	}
	return newClusterOutbox(time.Now, store, send, observe, log)
}

func newClusterOutbox(now func() time.Time, store Store, send Send, observe Observe, log *slog.Logger) (*Outbox, Cluster, error) {
	c, err := store.Cluster()
	if err != nil {
		return nil, Cluster{}, errors.Join(err, store.Close())
	}
	c.Tails = map[uint64]uint32{}
	o, err := openOutbox(now, store, send, observe, &c, log)
	if err != nil {
		return nil, Cluster{}, err
	}
	if c.StoreID == "" {
		c.StoreID, c.IsNew = rand.Text(), true
		o.Change(nameStore(c.StoreID))
		if err := o.writeAll(); err != nil {
			o.report(err) // it stays in memory until it can be written
		}
	}
	return o, c, nil
}

// readCluster leaves out what it does not know.
func readCluster(kept map[string][]byte) Cluster {
	c := Cluster{StoreID: string(kept[storeIDKey]), Applied: map[uint64]uint64{}}
	for key, value := range kept {
		if id, ok := strings.CutPrefix(key, gatewayPrefix); ok {
			c.Gateways = append(c.Gateways, id)
		}
		if len(value) != 8 {
			continue
		}
		number := binary.BigEndian.Uint64(value)
		if session, ok := strings.CutPrefix(key, appliedPrefix); ok && len(session) == 8 {
			c.Applied[binary.BigEndian.Uint64([]byte(session))] = number
		} else if key == numbersKey {
			c.Numbers = number
		}
	}
	return c
}

// Change makes changes durable, with the next commit: before or with all events that are appended later. The channel is
// closed when they are.
func (o *Outbox) Change(changes ...Change) (durable <-chan struct{}) {
	done := make(chan struct{})
	if len(changes) == 0 {
		close(done)
		return done
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range changes {
		changes[i].durable = done
	}
	o.changes = append(o.changes, changes...)
	poke(o.wake)
	return done
}

func (o *Outbox) takeChanges() []Change {
	o.mu.Lock()
	defer o.mu.Unlock()
	taken := o.changes
	o.changes = nil
	return taken
}

// announceDurable tells those who wait for changes that they are durable.
func announceDurable(changes []Change) {
	for i, c := range changes {
		if i+1 == len(changes) || changes[i+1].durable != c.durable {
			close(c.durable)
		}
	}
}

// entry is what becomes of a change in the bucket. A nil value removes the key.
func (c Change) entry() (key string, value []byte) {
	switch c.Kind {
	case StoreNamed:
		return storeIDKey, []byte(c.ID)
	case GatewayAdded:
		return gatewayPrefix + c.ID, []byte{1}
	case GatewayRemoved:
		return gatewayPrefix + c.ID, nil
	case NumbersUsed:
		return numbersKey, binary.BigEndian.AppendUint64(nil, c.Number)
	case SessionForgotten:
		return appliedKey(c.Number), nil
	}
	return "", nil
}

// applyChanges writes for each event that follows from a message that the message is applied, and changes: a session that ends is forgotten.
func applyChanges(tx *bbolt.Tx, changes []Change, events []Event) error {
	var bucket *bbolt.Bucket
	put := func(key string, value []byte) (err error) {
		if bucket == nil {
			if bucket, err = tx.CreateBucketIfNotExists([]byte(clusterBucket)); err != nil {
				return err
			}
		}
		if value == nil {
			return bucket.Delete([]byte(key))
		}
		return bucket.Put([]byte(key), value)
	}
	for i := range events {
		if ev := &events[i]; ev.Message > 0 {
			if err := put(appliedKey(ev.Session), binary.BigEndian.AppendUint64(nil, ev.Message)); err != nil {
				return err
			}
		}
	}
	for _, c := range changes {
		key, value := c.entry()
		if key == "" {
			continue
		}
		if err := put(key, value); err != nil {
			return err
		}
	}
	return nil
}

// Cluster returns all that is kept beside events.
func (s *boltStore) Cluster() (Cluster, error) {
	kept := map[string][]byte{}
	db := s.db.Load()
	if db == nil {
		return readCluster(kept), nil
	}
	err := guarded(func() error {
		return db.View(func(tx *bbolt.Tx) error {
			bucket := tx.Bucket([]byte(clusterBucket))
			if bucket == nil {
				return nil
			}
			return bucket.ForEach(func(key, value []byte) error {
				kept[string(key)] = append([]byte{}, value...)
				return nil
			})
		})
	})
	if err != nil {
		return Cluster{}, fmt.Errorf("read what is kept of the cluster: %w", classify(err))
	}
	return readCluster(kept), nil
}
