// Floor is the bare program that the coordinator is compared with, for tests only: it moves the same messages and
// requests for a stream's life, and that is all. No checks, no order, no retries, no durability, no limits.
package main

import (
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

type peer struct {
	conn    *websocket.Conn
	writing sync.Mutex
}

func (p *peer) say(message string) {
	p.writing.Lock()
	defer p.writing.Unlock()
	p.conn.WriteMessage(websocket.TextMessage, []byte(message))
}

type floor struct {
	// set once
	keyURL, eventURL string
	client           *http.Client
	upgrader         websocket.Upgrader

	lastID atomic.Uint64 // of streams and events

	mu       sync.RWMutex
	encoders []*peer // guarded by mu; a stream ID begins with the index of its encoder
}

func main() {
	f := &floor{
		keyURL:   os.Getenv("KEY_VERIFICATION_URL"),
		eventURL: os.Getenv("EVENT_CALLBACK_URL"),
		client:   &http.Client{Transport: &http.Transport{MaxIdleConns: 1024, MaxIdleConnsPerHost: 1024, DisableCompression: true}},
		upgrader: websocket.Upgrader{ReadBufferSize: 512, WriteBufferSize: 1024, WriteBufferPool: &sync.Pool{}},
	}
	http.HandleFunc("/ws/control/rtmp", func(w http.ResponseWriter, r *http.Request) { f.serve(w, r, f.server) })
	http.HandleFunc("/ws/control/wss", func(w http.ResponseWriter, r *http.Request) { f.serve(w, r, f.server) })
	http.HandleFunc("/ws/control/hls", func(w http.ResponseWriter, r *http.Request) { f.serve(w, r, f.encoder) })
	http.HandleFunc("/commands/capacity", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, `{"encoderCount":%d}`, f.encoderCount()) })
	listener, err := net.Listen("tcp", os.Getenv("BIND_ADDRESS")+":"+os.Getenv("HTTP_PORT"))
	if err != nil {
		log.Fatal(err)
	}
	slog.New(slog.NewTextHandler(os.Stderr, nil)).Info("listening", "scheme", "http", "addr", listener.Addr().String())
	log.Fatal(http.Serve(listener, nil))
}

func (f *floor) serve(w http.ResponseWriter, r *http.Request, handle func(p *peer, message string)) {
	conn, err := f.upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	go func() {
		defer conn.Close()
		p := &peer{conn: conn}
		for {
			_, data, err := conn.ReadMessage()
			if err != nil {
				return
			}
			handle(p, string(data))
		}
	}()
}

func (f *floor) server(p *peer, message string) {
	channel := value(message, "Stream-Channel")
	switch {
	case strings.HasPrefix(message, "PUBLISH-REQUEST\n"):
		go f.publish(p, value(message, "Request-ID"), channel, value(message, "Stream-Key"), value(message, "User-IP"))
	case strings.HasPrefix(message, "PUBLISH-END\n"):
		streamID := value(message, "Stream-ID")
		index, _, _ := strings.Cut(streamID, "-")
		n, _ := strconv.Atoi(index)
		f.encoderAt(n).say("ENCODE-STOP\nStream-Channel:" + channel + "\nStream-ID:" + streamID + "\n")
	}
}

func (f *floor) publish(p *peer, requestID, channel, key, userIP string) {
	header := http.Header{}
	header.Set("x-streaming-channel", channel)
	header.Set("x-streaming-key", key)
	header.Set("x-user-ip", userIP)
	if f.post(f.keyURL, header) != http.StatusOK {
		p.say("PUBLISH-DENY\nRequest-ID:" + requestID + "\nStream-Channel:" + channel + "\n")
		return
	}
	id := f.lastID.Add(1)
	index, encoder := f.nextEncoder(id)
	streamID := strconv.Itoa(index) + "-" + strconv.FormatUint(id, 10)
	p.say("PUBLISH-ACCEPT\nRequest-ID:" + requestID + "\nStream-Channel:" + channel + "\nStream-ID:" + streamID + "\n")
	encoder.say("ENCODE-START\nStream-Channel:" + channel + "\nStream-ID:" + streamID +
		"\nStream-Source-Type:RTMP\nStream-Source-URI:rtmp://127.0.0.1:1935/" + channel + "/" + key +
		"\nResolutions:ORIGINAL\nRecord:False\nPreviews:False\n")
}

func (f *floor) encoder(p *peer, message string) {
	switch {
	case strings.HasPrefix(message, "REGISTER\n"):
		f.mu.Lock()
		defer f.mu.Unlock()
		f.encoders = append(f.encoders, p)
	case strings.HasPrefix(message, "STREAM-AVAILABLE\n"):
		header := f.event(message, "stream-available")
		header.Set("x-stream-type", value(message, "Stream-Type"))
		header.Set("x-resolution", value(message, "Resolution"))
		header.Set("x-index-file", value(message, "Index-file"))
		go f.post(f.eventURL, header)
	case strings.HasPrefix(message, "STREAM-CLOSED\n"):
		go f.post(f.eventURL, f.event(message, "stream-closed"))
	}
}

func (f *floor) event(message, eventType string) http.Header {
	header := http.Header{}
	header.Set("x-streaming-channel", value(message, "Stream-Channel"))
	header.Set("x-streaming-id", value(message, "Stream-ID"))
	header.Set("x-event-type", eventType)
	header.Set("x-event-id", strconv.FormatUint(f.lastID.Add(1), 10))
	header.Set("x-event-time", time.Now().UTC().Format(time.RFC3339Nano))
	return header
}

func (f *floor) post(url string, header http.Header) int {
	request, err := http.NewRequest(http.MethodPost, url, nil)
	if err != nil {
		return 0
	}
	request.Header = header
	reply, err := f.client.Do(request)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 0
	}
	reply.Body.Close()
	return reply.StatusCode
}

func (f *floor) nextEncoder(id uint64) (int, *peer) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	index := int(id % uint64(len(f.encoders)))
	return index, f.encoders[index]
}

func (f *floor) encoderAt(index int) *peer {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.encoders[index]
}

// encoderCount is for the load tool, which waits for its encoders.
func (f *floor) encoderCount() int {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return len(f.encoders)
}

// value returns an argument of a message as the load tool writes it: "Name:value" in exactly this case.
func value(message, name string) string {
	_, rest, _ := strings.Cut(message, "\n"+name+":")
	line, _, _ := strings.Cut(rest, "\n")
	return line
}
