package main

// What encoders have announced of a stream: its outputs, each kept once, with a short form of its index file. Many streams share an output in
// this form, and memos and reports take it as it is. Part of the registry, under its rules.

import (
	"slices"
	"strings"
	"unique"
)

// maxOutputs bounds what is kept of a stream's outputs; real encoders have about a dozen.
const maxOutputs = 64

// output is one that an encoder has announced for a stream.
type output struct {
	streamType, resolution string
	indexFile              string // in its short form; "": it was not kept over a restart
	startTime              string
}

// The short form of an index file has these in place of the names that differ from stream to stream, so that many streams have the same
// outputs, which are kept once for all of them.
const (
	itsChannel = "\x01"
	itsID      = "\x02"
	asItIs     = "\x00" // begins a form that is the index file itself
)

// formOf is the short form of an index file of the stream.
func (st *stream) formOf(indexFile string) string {
	if strings.ContainsAny(indexFile, itsChannel+itsID+asItIs) {
		return asItIs + indexFile
	}
	form := strings.ReplaceAll(indexFile, "/"+st.id+"/", "/"+itsID+"/")
	return strings.ReplaceAll(form, "/"+st.pub.channel+"/", "/"+itsChannel+"/")
}

// indexFileOf undoes formOf.
func indexFileOf(form, channel, streamID string) string {
	if itself, ok := strings.CutPrefix(form, asItIs); ok {
		return itself
	}
	return strings.ReplaceAll(strings.ReplaceAll(form, itsChannel, channel), itsID, streamID)
}

// addOutputLocked keeps each index file once, with its latest start time. The elements of the list never change: whoever has a copy of the
// list may go on reading it.
func (st *stream) addOutputLocked(o output) {
	h := unique.Make(o)
	if slices.Contains(st.outputs, h) {
		return
	}
	same := func(other unique.Handle[output]) bool {
		before := other.Value()
		return before.streamType == o.streamType && before.resolution == o.resolution && (before.indexFile == o.indexFile || before.indexFile == "")
	}
	switch i := slices.IndexFunc(st.outputs, same); {
	case i >= 0:
		st.outputs = slices.Clone(st.outputs)
		st.outputs[i] = h
	case len(st.outputs) < maxOutputs:
		st.outputs = append(st.outputs, h)
	}
}
