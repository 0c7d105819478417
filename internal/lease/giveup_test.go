package lease

import (
	"testing"
	"time"
)

// One that has won the lead and can't do anything with it leaves it to another one, and tries again if there is none.
func TestLeadThatIsGivenUpIsLeftToAnother(t *testing.T) {
	two(t, func(t *testing.T, a, b *candidate) {
		before := a.last()
		a.giveUp.Store(true)
		a.view.memoryTable.mu.Lock()
		a.view.row.Holder = "" // as if it had been deposed
		a.view.memoryTable.mu.Unlock()
		term := leadsWithin(t, b, nil, 0, 10*time.Second)
		<-time.After(10 * time.Second)
		if !term.Valid() || before.Valid() {
			t.Error("it does not go on leading")
		}
		wantCause(t, before, ErrDeposed)
	})
}

func TestLeadThatIsGivenUpIsTakenAgainIfNobodyElseLeads(t *testing.T) {
	one(t, Row{}, func(t *testing.T, c *candidate) {
		c.giveUp.Store(true)
		c.start()
		defer c.end()
		<-time.After(time.Second)
		wantCause(t, c.last(), ErrGivenUp)
		if row := c.view.now(); row.Holder != "" {
			t.Errorf("the row is %+v", row)
		}
		c.giveUp.Store(false)
		leadsWithin(t, c, nil, 2*time.Second, 4*time.Second)
	})
}
