package e2e

// The coordinator is killed and comes back while its peers stay connected to a gateway, in every run and whatever stands between
// in other stories.

import (
	"maps"
	"syscall"
	"testing"

	"coordinator/internal/clustertest"
)

func TestEncoderThatCameWithoutACoordinatorKeepsItsStreams(t *testing.T) {
	t.Parallel()
	g := startGateway(t, map[string]string{"HTTP_PORT": "0", "BIND_ADDRESS": "127.0.0.1"})
	data := copyUsedData(t)
	start := func() *clustertest.Process {
		p := clustertest.Serve(t, coordinatorBinary, "DATA_DIR="+data, "HTTP_PORT="+g.daemonPort, "GATEWAY_SECRET="+gatewaySecret, "ENCODER_WAIT_SECONDS=15")
		g.standBefore(p)
		return p
	}
	kill := func(p *clustertest.Process) {
		p.Signal(syscall.SIGKILL)
		awaitKilled(p)
	}
	p := start()
	g.Logs.Await(t, "linked to the coordinator")
	kill(p)
	server, encoder := p.DialPeer("rtmp"), p.DialPeer("hls")
	encoder.Send("REGISTER", "Capacity", "1")

	p = start()
	live := map[string]string{"show": clustertest.Publish(server, encoder, "show")}
	before := p.Report()
	kill(p)

	p = start()
	after := p.Report()
	if !maps.Equal(after.Live(), live) || after.Encoders[0].ID != before.Encoders[0].ID || after.StreamingServers[0].ID != before.StreamingServers[0].ID {
		t.Errorf("it was %+v\nand is %+v", before, after)
	}
	server.Quiet()
}
