package e2e

// PostgreSQL fails under load, behind gateways: nobody but publishers who ask notices, and they wait. All of it, as long as it may take:
// E2E_BIG=1 go test -run TestDatabase -timeout 30m ./e2e

import (
	"errors"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/pgtest"
)

// usually is how often something happens in the usual run, and how often with E2E_BIG.
func usually(times, withBig int) int {
	if big {
		return withBig
	}
	return times
}

// onlyBig skips what the usual run has no time for.
func onlyBig(t *testing.T) {
	t.Helper()
	if !big {
		t.Skip("told with E2E_BIG only: the others have most of it")
	}
}

// onServer is a cluster whose database is at a server of its own.
func onServer(server *pgtest.Server) func(*testing.T, ...string) *gatewayCluster {
	return func(t *testing.T, variables ...string) *gatewayCluster {
		t.Helper()
		return newClusterOn(t, server.NewDatabase(t), variables...)
	}
}

// wantSameLeader holds that one coordinator has led all the time, and that no event has gone astray.
func (c *gatewayCluster) wantSameLeader(epoch float64) {
	c.Helper()
	if now := c.epoch(); now != epoch {
		c.Errorf("epoch %v leads, it was %v", now, epoch)
	}
	c.wantNoEventLost()
}

func (c *gatewayCluster) wantNoEventLost() {
	c.Helper()
	for _, p := range []*clustertest.Process{c.p, c.standby} {
		if p.Logs.Count("an event is lost") > 0 || p.Logs.Count("damaged") > 0 {
			c.Errorf("the coordinator at %s has lost events", p.Addr)
		}
	}
}

// epoch is that of the coordinator that leads, or did last.
func (c *gatewayCluster) epoch() float64 { return c.p.Scrape()["coordinator_epoch"] }

// A database that crashes, again and again, is waited for. It recovers what it has committed.
func TestDatabaseCrashesUnderLoad(t *testing.T) {
	t.Parallel()
	notWithRaces(t)
	server := pgtest.New(t)
	epoch := 0.0
	c := underLoad{newCluster: onServer(server), times: setting(t, "E2E_KILLS", usually(3, 24)), happen: func(c *gatewayCluster, s *simulation, r *rand.Rand, i int) {
		if i == 0 {
			epoch = c.epoch()
		}
		next := time.After(time.Duration(usually(3, 5)) * time.Second)
		awaitMoment(r, s.history)
		server.Crash()
		server.Start(t)
		<-next
	}}.tell(t)
	c.wantSameLeader(epoch)
}

// Its processes are ended at random: one connection by its administrator, or by SIGKILL, after which the server ends all others, too.
func TestBackendsOfTheDatabaseEndUnderLoad(t *testing.T) {
	t.Parallel()
	notWithRaces(t)
	server := pgtest.New(t)
	epoch := 0.0
	c := underLoad{newCluster: onServer(server), times: setting(t, "E2E_KILLS", usually(12, 300)), happen: func(c *gatewayCluster, s *simulation, r *rand.Rand, i int) {
		if i == 0 {
			epoch = c.epoch()
		}
		<-time.After(time.Duration(r.IntN(400)) * time.Millisecond)
		backends := server.Backends(t)
		if len(backends) == 0 {
			return
		}
		signal := syscall.SIGTERM // pg_terminate_backend
		if i%5 == 4 {
			signal = syscall.SIGKILL
		}
		if err := syscall.Kill(backends[r.IntN(len(backends))], signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Error(os.NewSyscallError("kill", err))
		}
	}}.tell(t)
	c.wantSameLeader(epoch)
}

// A pooler in transaction mode stands before the database, and leaders end.
func TestLeadersEndUnderLoadBehindAPooler(t *testing.T) {
	t.Parallel()
	notWithRaces(t)
	newCluster := func(t *testing.T, variables ...string) *gatewayCluster {
		t.Helper()
		return newClusterOn(t, pgtest.Pooled(t, pgtest.URL(t)), variables...)
	}
	endsUnderLoad(t, newCluster, setting(t, "E2E_KILLS", usually(2, 10)), false, false, false, (*gatewayCluster).kill)
}
