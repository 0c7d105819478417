// Package tagged encodes values field by field, each under a tag, in the wire format of Protocol Buffers. One list of fields
// serves both directions. A reader skips tags that it does not know, and a field that is not there is zero, so that a
// version reads what the next one writes, and the other way round.
package tagged

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// Message is a value with tagged fields. Fields hands each of them to c; tags are from 1 to 15 for the shortest form, and a
// tag that is given up is never used again.
type Message interface{ Fields(c *Coder) }

// roomAtFirst is for most messages and memos, so that they need not be moved while they grow.
const roomAtFirst = 128

// Append appends the fields of m that are not zero.
func Append(b []byte, m Message) []byte {
	if b == nil {
		b = make([]byte, 0, roomAtFirst)
	}
	c := &Coder{out: b}
	m.Fields(c)
	return c.out
}

// Parse reads the fields of m. m must be zero before, and is not to be used after an error.
func Parse(b []byte, m Message) error {
	c := &Coder{parsing: true, in: make([]field, 0, count(b))}
	for len(b) > 0 {
		tag, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		f := field{tag: tag, kind: kind}
		switch kind {
		case protowire.VarintType:
			f.number, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(tag, kind, b)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		c.in = append(c.in, f)
	}
	m.Fields(c)
	return c.err
}

var (
	errKind  = errors.New("field is of another kind")
	errRange = errors.New("number is out of range")
)

// Coder writes fields, or reads them.
type Coder struct {
	out []byte

	parsing bool
	in      []field
	err     error
}

// count is how many fields b has, up to one that can't be read.
func count(b []byte) (fields int) {
	for len(b) > 0 {
		_, _, n := protowire.ConsumeField(b)
		if n < 0 {
			break
		}
		b = b[n:]
		fields++
	}
	return fields
}

type field struct {
	tag    protowire.Number
	kind   protowire.Type
	number uint64
	bytes  []byte
}

// find returns the last field of a tag, which must be of the kind.
func (c *Coder) find(tag protowire.Number, kind protowire.Type) (f field, found bool) {
	for _, candidate := range c.in {
		if candidate.tag == tag {
			f, found = candidate, true
		}
	}
	if found && f.kind != kind {
		c.fail(tag, errKind)
		return field{}, false
	}
	return f, found
}

func (c *Coder) countOf(tag protowire.Number) (n int) {
	for i := range c.in {
		if c.in[i].tag == tag {
			n++
		}
	}
	return n
}

func (c *Coder) fail(tag protowire.Number, err error) {
	if c.err == nil {
		c.err = fmt.Errorf("tag %d: %w", tag, err)
	}
}

// Uint is an unsigned number.
func Uint[T ~uint8 | ~uint16 | ~uint32 | ~uint64](c *Coder, tag protowire.Number, v *T) {
	if !c.parsing {
		if *v != 0 {
			c.out = protowire.AppendVarint(protowire.AppendTag(c.out, tag, protowire.VarintType), uint64(*v))
		}
		return
	}
	if f, found := c.find(tag, protowire.VarintType); found {
		if *v = T(f.number); uint64(*v) != f.number {
			c.fail(tag, errRange)
		}
	}
}

// Int is a signed number.
func Int[T ~int | ~int64](c *Coder, tag protowire.Number, v *T) {
	n := protowire.EncodeZigZag(int64(*v))
	Uint(c, tag, &n)
	if c.parsing {
		*v = T(protowire.DecodeZigZag(n))
	}
}

// Bool is a truth value.
func (c *Coder) Bool(tag protowire.Number, v *bool) {
	n := uint64(0)
	if *v {
		n = 1
	}
	Uint(c, tag, &n)
	if c.parsing {
		*v = n != 0
	}
}

// String is any text. What is read is a copy.
func (c *Coder) String(tag protowire.Number, v *string) {
	if !c.parsing {
		if *v != "" {
			c.out = protowire.AppendString(protowire.AppendTag(c.out, tag, protowire.BytesType), *v)
		}
		return
	}
	if f, found := c.find(tag, protowire.BytesType); found {
		*v = string(f.bytes)
	}
}

// Bytes is any bytes. What is read is a part of what was parsed.
func (c *Coder) Bytes(tag protowire.Number, v *[]byte) {
	if !c.parsing {
		if len(*v) > 0 {
			c.out = protowire.AppendBytes(protowire.AppendTag(c.out, tag, protowire.BytesType), *v)
		}
		return
	}
	if f, found := c.find(tag, protowire.BytesType); found {
		*v = f.bytes
	}
}

// Part is a message that may be there or not.
func Part[T any, M interface {
	*T
	Message
}](c *Coder, tag protowire.Number, v **T) {
	if !c.parsing {
		if *v != nil {
			c.appendPart(tag, M(*v))
		}
		return
	}
	if f, found := c.find(tag, protowire.BytesType); found {
		*v = new(T)
		c.parsePart(tag, f, M(*v))
	}
}

// List is messages in their order.
func List[T any, M interface {
	*T
	Message
}](c *Coder, tag protowire.Number, v *[]T) {
	if !c.parsing {
		for i := range *v {
			c.appendPart(tag, M(&(*v)[i]))
		}
		return
	}
	*v = slices.Grow(*v, c.countOf(tag))
	for _, f := range c.in {
		if f.tag != tag {
			continue
		}
		if f.kind != protowire.BytesType {
			c.fail(tag, errKind)
			return
		}
		*v = append(*v, *new(T))
		c.parsePart(tag, f, M(&(*v)[len(*v)-1]))
	}
}

// appendPart writes the part where it belongs, behind room for a length of one byte. Only a longer part has to be moved.
func (c *Coder) appendPart(tag protowire.Number, m Message) {
	c.out = append(protowire.AppendTag(c.out, tag, protowire.BytesType), 0)
	start := len(c.out)
	m.Fields(c)
	length := len(c.out) - start
	if more := protowire.SizeVarint(uint64(length)) - 1; more > 0 {
		c.out = append(c.out, make([]byte, more)...)
		copy(c.out[start+more:], c.out[start:])
	}
	protowire.AppendVarint(c.out[:start-1], uint64(length))
}

func (c *Coder) parsePart(tag protowire.Number, f field, m Message) {
	if err := Parse(f.bytes, m); err != nil {
		c.fail(tag, err)
	}
}
