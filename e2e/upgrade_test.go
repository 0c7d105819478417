package e2e

// Today's daemon goes on with an outbox file that an early version has left behind. testdata/outbox has the files, and says how
// they were made.

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/pgtest"
	"coordinator/internal/wire"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
)

const outboxFiles = "testdata/outbox"

// outboxOf is a binary whose outbox TestRecordAnOutboxFile keeps.
const outboxOf = "OUTBOX_OF"

func TestOutboxFilesOfEarlyVersionsAreTakenUp(t *testing.T) {
	t.Parallel()
	onlyDirect(t, ofTheProcess)
	files, err := filepath.Glob(filepath.Join(outboxFiles, "*.db.gz"))
	if err != nil || len(files) != 2 {
		t.Fatal(err, files)
	}
	for _, file := range files {
		commit := strings.TrimSuffix(filepath.Base(file), ".db.gz")
		t.Run(commit, func(t *testing.T) {
			t.Parallel()
			t.Run("alone", func(t *testing.T) {
				t.Parallel()
				takeUp(t, unpacked(t, commit), commit)
			})
			t.Run("with gateways", func(t *testing.T) {
				t.Parallel()
				takeUp(t, unpacked(t, commit), commit, "GATEWAY_SECRET="+gatewaySecret)
			})
			t.Run("into a database", func(t *testing.T) {
				t.Parallel()
				takeOver(t, commit, pgtest.URL(t))
			})
			t.Run("of a machine whose clock was ahead", func(t *testing.T) { // numbers begin with the time
				t.Parallel()
				data := unpacked(t, commit)
				renumber(t, filepath.Join(data, "outbox.db"), 4e15)
				takeUp(t, data, commit)
			})
		})
	}
}

// takeUp starts the daemon on a DATA_DIR with the file of an early version while the application takes nothing, lets streams begin, kills it, starts
// it again, and has the application take what comes then.
func takeUp(t *testing.T, data, commit string, variables ...string) {
	publications := told(t, commit)
	app := clustertest.NewApplication(t)
	var takes atomic.Bool
	app.AnswerEvents(func(w http.ResponseWriter, _ *http.Request) {
		if !takes.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	start := func() *clustertest.Process {
		return clustertest.Serve(t, coordinatorBinary, app.Variables(append(variables, "DATA_DIR="+data)...)...)
	}

	old := numbersIn(t, data)
	p := start()
	before := p.AwaitOverview("the events of the file", func(o clustertest.Overview) bool { return o.Events.Pending == count(publications) })
	if !before.Ready {
		t.Errorf("it is not ready: %v", before.NotReady)
	}
	encoder, _ := p.Register(9)
	server := p.DialPeer("rtmp")
	for _, channel := range []string{"live", "ended", "taken", "new", "newer"} {
		id := clustertest.Publish(server, encoder, channel)
		encoder.Available(channel, id, "HLS-LIVE", "640x360", channel+"/new.m3u8")
		publications = append(publications, []string{
			id + "-1 stream-available " + channel + " " + id + " HLS-LIVE 640x360 " + channel + "/new.m3u8",
			id + "-closed stream-closed " + channel + " " + id,
		})
	}
	undone := 5 // ends that are told at the next start
	p.AwaitOverview("the events of new streams", func(o clustertest.Overview) bool { return o.Events.Pending == count(publications)-undone })
	awaitUndelivered(p.Daemon, count(publications)-undone) // on disk
	p.Signal(syscall.SIGKILL)
	awaitKilled(p)
	// A number that is used again would put new events among those of the file, or lose them.
	if all := numbersIn(t, data); len(all) != len(old)+5 || !slices.Equal(all[:len(old)], old) {
		t.Errorf("publications have the numbers %d, and those of the file are %d", all, old)
	}

	p = start()
	p.AwaitOverview("all events", func(o clustertest.Overview) bool { return o.Events.Pending == count(publications) })
	takes.Store(true)
	p.MustCall("/commands/events/retry", "x-streaming-channel", "*")
	app.AwaitEvents(count(publications))
	p.AwaitOverview("that all is told", func(o clustertest.Overview) bool { return o.Events.Pending == 0 })
	checkTold(t, publications, app)
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	if aside, _ := filepath.Glob(filepath.Join(data, "*damaged*")); len(aside) > 0 {
		t.Errorf("the file is set aside: %v", aside)
	}
}

// takeOver has a coordinator with a database take over the file of an early version.
func takeOver(t *testing.T, commit, database string) {
	publications, data, app := told(t, commit), unpacked(t, commit), clustertest.NewApplication(t)
	p := clustertest.Serve(t, coordinatorBinary, app.Variables("DATA_DIR="+data, "DATABASE_URL="+database, "GATEWAY_SECRET="+gatewaySecret)...)
	app.AwaitEvents(count(publications))
	p.AwaitOverview("that all is told", func(o clustertest.Overview) bool { return o.Events.Pending == 0 })
	checkTold(t, publications, app)
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(data, "outbox.db.moved")); err != nil {
		t.Error(err)
	}
}

// checkTold has each event delivered once, under its ID, and those of a publication in their order.
func checkTold(t *testing.T, publications [][]string, app *clustertest.Application) {
	t.Helper()
	place := map[string]int{} // publication by stream ID
	for i, events := range publications {
		for _, event := range events {
			place[strings.Fields(event)[3]] = i
		}
	}
	got := make([][]string, len(publications))
	_, events, _ := app.Snapshot()
	for _, h := range events {
		id := h.Get("x-streaming-id")
		i, known := place[id]
		if !known {
			t.Errorf("told of a stream that is not there: %s", clustertest.Describe(h))
			continue
		}
		got[i] = append(got[i], h.Get("x-event-id")+" "+clustertest.Describe(h))
		if _, err := time.Parse(time.RFC3339, h.Get("x-event-time")); err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff(publications, got); diff != "" {
		t.Errorf("told by the file (-) and to the application (+):\n%s", diff)
	}
}

// told are the events that are to come from a file, in the order of each publication.
func told(t *testing.T, commit string) (publications [][]string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(outboxFiles, commit+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	for part := range strings.SplitSeq(strings.TrimSpace(string(text)), "\n\n") {
		publications = append(publications, strings.Split(part, "\n"))
	}
	return publications
}

func count(publications [][]string) (events int) {
	for _, p := range publications {
		events += len(p)
	}
	return events
}

// unpacked is a DATA_DIR with the file of a commit.
func unpacked(t *testing.T, commit string) (data string) {
	t.Helper()
	packed, err := os.Open(filepath.Join(outboxFiles, commit+".db.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	unpack, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(unpack)
	data = quickDirectory(t)
	if err := errors.Join(err, os.WriteFile(filepath.Join(data, "outbox.db"), content, 0o600)); err != nil {
		t.Fatal(err)
	}
	return data
}

// numbersIn are the numbers of publications in the outbox of a DATA_DIR, from the lowest on.
func numbersIn(t *testing.T, data string) (numbers []uint64) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(data, "outbox.db"), 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("queues")).ForEach(func(key, _ []byte) error {
			numbers = append(numbers, binary.BigEndian.Uint64(key))
			return nil
		})
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return numbers
}

// renumber makes the numbers of all publications in an outbox higher.
func renumber(t *testing.T, file string, by uint64) {
	t.Helper()
	db, err := bbolt.Open(file, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range []string{"queues", "events"} { // their keys begin with the number
			bucket, old := tx.Bucket([]byte(name)), map[string]string{}
			err := bucket.ForEach(func(key, value []byte) error {
				old[string(key)] = string(value)
				return nil
			})
			for key, value := range old {
				number := binary.BigEndian.Uint64([]byte(key))
				err = errors.Join(err, bucket.Delete([]byte(key)),
					bucket.Put(append(binary.BigEndian.AppendUint64(nil, number+by), key[8:]...), []byte(value)))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

func awaitUndelivered(d *clustertest.Daemon, n int) {
	d.T.Helper()
	awaitEvents(d, "?limit=500", func(p clustertest.EventPage) bool { return len(p.Events) == n })
}

// TestRecordAnOutboxFile made the files of testdata/outbox: OUTBOX_OF names the binary of an early version.
func TestRecordAnOutboxFile(t *testing.T) {
	t.Parallel()
	binary := os.Getenv(outboxOf)
	if binary == "" {
		t.Skip("makes a file of testdata/outbox with the binary that " + outboxOf + " names")
	}
	r := &outboxRecorder{tried: make(chan http.Header, 1024)}
	app := clustertest.NewApplication(t)
	app.AnswerEvents(func(w http.ResponseWriter, req *http.Request) {
		channel, _, _ := strings.Cut(req.Header.Get("x-streaming-channel"), "-")
		taken := channel == "taken" || channel == "over" || channel == "part" && strings.HasSuffix(req.Header.Get("x-event-id"), "-1")
		if !taken {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		r.tried <- req.Header.Clone()
	})
	data := quickDirectory(t)
	p := clustertest.Serve(t, binary, app.Variables("DATA_DIR="+data)...)
	r.play(t, p)
	p.Signal(syscall.SIGKILL)
	awaitKilled(p)

	content, err := os.ReadFile(filepath.Join(data, "outbox.db"))
	var packed bytes.Buffer
	pack := gzip.NewWriter(&packed)
	_, writeErr := pack.Write(content)
	var paragraphs []string
	for _, channel := range slices.Sorted(maps.Keys(r.untold)) {
		paragraphs = append(paragraphs, strings.Join(r.untold[channel], "\n"))
	}
	name := filepath.Join(outboxFiles, strings.TrimPrefix(filepath.Base(binary), "coordinator-"))
	if err := errors.Join(err, writeErr, pack.Close(),
		os.WriteFile(name+".db.gz", packed.Bytes(), 0o644),
		os.WriteFile(name+".txt", []byte(strings.Join(paragraphs, "\n\n")+"\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// outboxRecorder plays streams to an early version.
type outboxRecorder struct {
	tried  chan http.Header
	untold map[string][]string // events that the next start has to tell, by channel
}

func (r *outboxRecorder) play(t *testing.T, p *clustertest.Process) {
	t.Helper()
	r.untold = map[string][]string{}
	first, _ := p.Register(1)
	server := p.DialPeer("rtmp")
	available := func(encoder *clustertest.Peer, channel, id, seq, kind, resolution, index string) string {
		t.Helper()
		encoder.Available(channel, id, kind, resolution, index)
		index = strings.NewReplacer("%", "%25", "\u00fc", "%C3%BC", "\u0001", "%01").Replace(index)
		return id + "-" + seq + " stream-available " + channel + " " + id + " " + kind + " " + resolution + " " + index
	}
	closed := func(channel, id string) string { return id + "-closed stream-closed " + channel + " " + id }

	// Its encoder is lost, and it goes on at another one.
	id := publishEarly(server, first, "moved")
	told := []string{available(first, "moved", id, "1", "HLS-LIVE", "1280x720-30", "moved/1.m3u8"), closed("moved", id)}
	r.awaitTry(t, id)
	encoder, _ := p.Register(20)
	first.Conn.Close()
	select {
	case m := <-encoder.In:
		id = valueOf(m, "Stream-ID")
		told = append(told, available(encoder, "moved", id, "1", "HLS-LIVE", "1280x720-30", "moved/2.m3u8"), closed("moved", id))
	case <-server.In: // the first version has no failover, and ends the publisher
		server.End("moved", id)
	case <-time.After(clustertest.Patience):
		t.Fatal("nothing follows from the loss of an encoder")
	}
	r.untold["moved"] = told

	// Announced three times, and live to the end.
	id = publishEarly(server, encoder, "live")
	r.untold["live"] = []string{
		available(encoder, "live", id, "1", "HLS-LIVE", "1280x720-30", "live/720.m3u8"),
		available(encoder, "live", id, "2", "HLS-LIVE", "640x360-30", "live/360.m3u8"),
		available(encoder, "live", id, "3", "IMG-PREVIEW", "256x144", "live/100%/\u00fc\u0001.json"),
		closed("live", id),
	}
	// Over, and the application knows nothing of it.
	id = publishEarly(server, encoder, "ended")
	r.untold["ended"] = []string{
		available(encoder, "ended", id, "1", "HLS-LIVE", "ORIGINAL", "ended/live.m3u8"),
		available(encoder, "ended", id, "2", "HLS-VOD", "ORIGINAL", "ended/vod.m3u8"),
		closed("ended", id),
	}
	endEarly(server, encoder, "ended", id)
	// Live, and the application knows all of it.
	id = publishEarly(server, encoder, "taken")
	available(encoder, "taken", id, "1", "HLS-LIVE", "ORIGINAL", "taken/live.m3u8")
	r.untold["taken"] = []string{closed("taken", id)}
	r.awaitTry(t, id)
	// Live, and the application knows a part of it.
	id = publishEarly(server, encoder, "part")
	available(encoder, "part", id, "1", "HLS-LIVE", "ORIGINAL", "part/live.m3u8")
	r.untold["part"] = []string{available(encoder, "part", id, "2", "HLS-VOD", "ORIGINAL", "part/vod.m3u8"), closed("part", id)}
	r.awaitTry(t, id)
	r.awaitTry(t, id)
	// Over, and the application knows it. What came before is on disk when its events are sent, and the answers to those before
	// when the last ones are.
	for _, channel := range []string{"over-1", "over-2", "over-3"} {
		id = publishEarly(server, encoder, channel)
		available(encoder, channel, id, "1", "HLS-LIVE", "ORIGINAL", "over/live.m3u8")
		endEarly(server, encoder, channel, id)
		r.awaitTry(t, id)
		r.awaitTry(t, id)
	}
	// Its event is in the last commit.
	id = publishEarly(server, encoder, "last")
	r.untold["last"] = []string{available(encoder, "last", id, "1", "HLS-LIVE", "ORIGINAL", "last/live.m3u8"), closed("last", id)}
	r.awaitTry(t, id)
}

// publishEarly is clustertest.Publish with a coordinator that writes a space before each value.
func publishEarly(server, encoder *clustertest.Peer, channel string) (id string) {
	server.Request(channel, "key")
	id = valueOf(server.Expect("PUBLISH-ACCEPT"), "Stream-ID")
	encoder.Expect("ENCODE-START")
	return id
}

func endEarly(server, encoder *clustertest.Peer, channel, id string) {
	server.End(channel, id)
	encoder.Expect("ENCODE-STOP")
	encoder.Closed(channel, id)
}

func valueOf(m wire.Message, name string) string { return strings.TrimSpace(m.Get(name)) }

// awaitTry waits for a try of the stream's next event.
func (r *outboxRecorder) awaitTry(t *testing.T, id string) {
	t.Helper()
	for timeout := time.After(clustertest.Patience); ; {
		select {
		case h := <-r.tried:
			if h.Get("x-streaming-id") == id {
				return
			}
		case <-timeout:
			t.Fatalf("no event of %s was sent", id)
		}
	}
}
