package link

import "coordinator/internal/tagged"

// Hello begins a link. Received is the number of the last frame that came in the term that the gateway knows.
type Hello struct {
	Gateway        string // its random identity
	Store, Term    string // that it knows; "": none
	Received       uint64
	Epoch          uint64 // the highest that it has seen
	Numbers        uint64 // the highest number of a session or publication that it has seen
	Nonce          []byte
	ControlMAC     []byte // HMAC-SHA256 of the nonce with CONTROL_SECRET; empty: it has none
	Oldest, Newest uint32 // protocols that it speaks
	Version        string // of the program, for the log
}

func (p *Hello) Fields(c *tagged.Coder) {
	c.String(1, &p.Gateway)
	c.String(2, &p.Store)
	c.String(3, &p.Term)
	tagged.Uint(c, 4, &p.Received)
	tagged.Uint(c, 5, &p.Epoch)
	tagged.Uint(c, 6, &p.Numbers)
	c.Bytes(7, &p.Nonce)
	c.Bytes(8, &p.ControlMAC)
	tagged.Uint(c, 9, &p.Oldest)
	tagged.Uint(c, 10, &p.Newest)
	c.String(11, &p.Version)
}

// Welcome answers a HELLO. Received is the number of the last frame that came in this term.
type Welcome struct {
	Store, Term string
	Received    uint64
	Epoch       uint64
	Proof       []byte // HMAC-SHA256 of HELLO's nonce with GATEWAY_SECRET
	ControlSame bool   // both sides have the same CONTROL_SECRET
	Protocol    uint32 // to be spoken
	Version     string // of the program, for the log
}

func (p *Welcome) Fields(c *tagged.Coder) {
	c.String(1, &p.Store)
	c.String(2, &p.Term)
	tagged.Uint(c, 3, &p.Received)
	tagged.Uint(c, 4, &p.Epoch)
	c.Bytes(5, &p.Proof)
	c.Bool(6, &p.ControlSame)
	tagged.Uint(c, 7, &p.Protocol)
	c.String(8, &p.Version)
}

// Refuse says why, for the log. A gateway that is gone closes all its sockets and comes back as a new one. Store is that of the
// coordinator, if it is another one than the gateway knows.
type Refuse struct {
	Reason string
	Gone   bool
	Proof  []byte // as in WELCOME
	Store  string
}

func (p *Refuse) Fields(c *tagged.Coder) {
	c.String(1, &p.Reason)
	c.Bool(2, &p.Gone)
	c.Bytes(3, &p.Proof)
	c.String(4, &p.Store)
}

// Names of memos: of a session, which has one, and of a publication or stream, which follow with their number or ID.
const (
	SessionMemo     = "s"
	PublicationMemo = "p"
	StreamMemo      = "o" // what was ordered
	ToldMemo        = "t" // what the application is told
)

// Memo is a memo of a session under its name. An empty value says that it is to be forgotten.
type Memo struct {
	Name  string
	Value []byte
}

func (p *Memo) Fields(c *tagged.Coder) {
	c.String(1, &p.Name)
	c.Bytes(2, &p.Value)
}

// Attach is a session with all that is kept of it.
type Attach struct {
	Kind      string // RTMP, WS or HLS
	Remote    string // address and port that its connection came from
	IP        string // of a streaming server: where encoders reach it
	Port      uint32
	SSL       bool
	Since     int64  // Unix nanoseconds
	ID        uint64 // that a coordinator has given it; 0: none has
	Memos     []Memo
	FirstKept uint64 // number of the first message that is kept
}

func (p *Attach) Fields(c *tagged.Coder) {
	c.String(1, &p.Kind)
	c.String(2, &p.Remote)
	c.String(3, &p.IP)
	tagged.Uint(c, 4, &p.Port)
	c.Bool(5, &p.SSL)
	tagged.Int(c, 6, &p.Since)
	tagged.Uint(c, 7, &p.ID)
	tagged.List(c, 8, &p.Memos)
	tagged.Uint(c, 9, &p.FirstKept)
}

// Attached gives a session its identity.
type Attached struct{ ID uint64 }

func (p *Attached) Fields(c *tagged.Coder) { tagged.Uint(c, 1, &p.ID) }

// Reason is the payload of REFUSED and BYE: why, for the log. Epoch is the higher one that a gateway leaves a coordinator for.
type Reason struct {
	Text  string
	Epoch uint64
}

func (p *Reason) Fields(c *tagged.Coder) {
	c.String(1, &p.Text)
	tagged.Uint(c, 2, &p.Epoch)
}

// Message is what the peer said. Number counts the session's messages over all terms.
type Message struct {
	Number uint64
	Age    uint64 // milliseconds since it came
	Text   []byte
}

func (p *Message) Fields(c *tagged.Coder) {
	tagged.Uint(c, 1, &p.Number)
	tagged.Uint(c, 2, &p.Age)
	c.Bytes(3, &p.Text)
}

// Say is what one transition says to a session: all of it is passed on and kept, or nothing.
type Say struct{ Items []Item }

// Item is a message for the peer, none if Text is empty, and the memos that are kept with it. If it answers a request that the
// gateway has denied already, neither the message nor its memos count.
type Item struct {
	Text    []byte
	Answers uint64 // number of the message that it answers; 0: of none
	Memos   []Memo
}

func (p *Say) Fields(c *tagged.Coder) { tagged.List(c, 1, &p.Items) }

func (p *Item) Fields(c *tagged.Coder) {
	c.Bytes(1, &p.Text)
	tagged.Uint(c, 2, &p.Answers)
	tagged.List(c, 3, &p.Memos)
}

// Done says that messages up to Number need not be kept any more; 0: none. For GONE that is the session's end.
type Done struct {
	Number uint64
	Memos  []Memo
}

func (p *Done) Fields(c *tagged.Coder) {
	tagged.Uint(c, 1, &p.Number)
	tagged.List(c, 2, &p.Memos)
}

// Late names the request, as the number of its message, and the publication that it would have made live; 0: none.
type Late struct{ Number, Publication uint64 }

func (p *Late) Fields(c *tagged.Coder) {
	tagged.Uint(c, 1, &p.Number)
	tagged.Uint(c, 2, &p.Publication)
}

// Count is the payload of ACK: a link number. Unsure is a coordinator that can't be sure to lead for now: another one may.
type Count struct {
	Number uint64
	Unsure bool
}

func (p *Count) Fields(c *tagged.Coder) {
	tagged.Uint(c, 1, &p.Number)
	c.Bool(2, &p.Unsure)
}

// Gone says that the session's socket has closed. It counts as one of the session's messages.
type Gone struct {
	Number uint64
	Reason string
	Age    uint64 // ms, as of a MESSAGE
}

func (p *Gone) Fields(c *tagged.Coder) {
	tagged.Uint(c, 1, &p.Number)
	c.String(2, &p.Reason)
	tagged.Uint(c, 3, &p.Age)
}
