package main

// Who leads.

import (
	"context"
	"time"
)

// mandate tells whether this process leads beyond doubt. While that is not so, nothing may happen that another leader could do, too:
// no publisher is granted, no event is sent.
type mandate interface {
	Epoch() uint64   // of the term
	IsForGood() bool // it can't be lost
	Valid() bool
	Unconfirmed() time.Duration       // how long ago it was last known to lead
	Heard(epoch uint64)               // somebody knows of this epoch: a higher one ends the term
	AwaitValid(context.Context) error // until it leads beyond doubt; the error says why it never will, or is that of the context
}

// alwaysLeads is the mandate of whoever holds the lock of DATA_DIR.
type alwaysLeads struct{}

func (alwaysLeads) Epoch() uint64                    { return 0 }
func (alwaysLeads) IsForGood() bool                  { return true }
func (alwaysLeads) Heard(uint64)                     {}
func (alwaysLeads) Valid() bool                      { return true }
func (alwaysLeads) Unconfirmed() time.Duration       { return 0 }
func (alwaysLeads) AwaitValid(context.Context) error { return nil }
