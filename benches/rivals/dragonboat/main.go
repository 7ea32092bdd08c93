// The rival on Dragonboat: 64 groups of a node behind a small Redis-protocol front. It ends when
// its input does.
package main

import (
	"flag"
	"io"
	"log"
	"net"
	"os"
	"strings"
	"time"

	dragonboat "github.com/lni/dragonboat/v3"
	"github.com/lni/dragonboat/v3/config"
	"github.com/lni/dragonboat/v3/logger"
)

const groups = 64

func main() {
	id := flag.Uint64("id", 0, "this node's number, from 1")
	listen := flag.String("listen", "", "where clients connect")
	peers := flag.String("peers", "", "where the nodes find each other, node 1 first")
	data := flag.String("data", "", "the folder for everything that is kept")
	every := flag.Uint64("snapshot-every", 20_000, "entries of a group between two snapshots")
	flag.Parse()
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	for _, name := range []string{"raft", "rsm", "transport", "dragonboat", "grpc", "logdb"} {
		logger.GetLogger(name).SetLevel(logger.WARNING)
	}
	if err := run(*id, *listen, strings.Split(*peers, ","), *data, *every); err != nil {
		log.Fatal(err)
	}
}

func run(id uint64, listen string, peers []string, data string, every uint64) error {
	// All else as Dragonboat's defaults have it, which its documentation advises to keep.
	host, err := dragonboat.NewNodeHost(config.NodeHostConfig{
		NodeHostDir:    data,
		RTTMillisecond: 100,
		RaftAddress:    peers[id-1],
	})
	if err != nil {
		return err
	}
	members := map[uint64]dragonboat.Target{}
	for at, address := range peers {
		members[uint64(at)+1] = address
	}
	front := &front{host: host}
	for group := uint64(0); group < groups; group++ {
		settings := config.Config{
			NodeID:             id,
			ClusterID:          group + 1,
			CheckQuorum:        true,
			ElectionRTT:        10,
			HeartbeatRTT:       2,
			SnapshotEntries:    every,
			CompactionOverhead: max(every/20, 1),
		}
		if err := host.StartConcurrentCluster(members, false, newMachine, settings); err != nil {
			return err
		}
		front.sessions[group] = host.GetNoOPSession(group + 1)
	}
	go spread(host, id)
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go front.serve(conn)
	}
}

// spread asks for the groups that this node should lead, so that leaders are spread. Nobody hands a
// group to a node that is not there: a leader that tries takes no writes meanwhile.
func spread(host *dragonboat.NodeHost, id uint64) {
	for range time.Tick(time.Second) {
		for group := uint64(0); group < groups; group++ {
			leader, known, err := host.GetLeaderID(group + 1)
			if err == nil && known && leader != id && group%3+1 == id {
				// A transfer that cannot be is tried again.
				_ = host.RequestLeaderTransfer(group+1, id)
			}
		}
	}
}
