package main

import (
	"bufio"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	dragonboat "github.com/lni/dragonboat/v3"
	"github.com/lni/dragonboat/v3/client"
)

const (
	callWithin   = 5 * time.Second
	bulkBytesMax = 8 << 20
	argsMax      = 16
	// Commands of a connection that may wait for their replies.
	inFlightMax = 1024
)

// front is the small Redis-protocol server of one node.
type front struct {
	host     *dragonboat.NodeHost
	sessions [groups]*client.Session
}

// pending is a command whose reply is still to come; they are answered in their order.
type pending struct {
	// What is known at once.
	text string
	// What is asked of a group.
	state *dragonboat.RequestState
	// The key that is read, if it is no write.
	key []byte
}

func groupOf(key []byte) uint64 {
	return uint64(crc32.ChecksumIEEE(key)) % groups
}

func (f *front) serve(conn net.Conn) {
	queue := make(chan pending, inFlightMax)
	done := make(chan struct{})
	go func() {
		f.answer(conn, queue)
		conn.Close()
		for range queue {
			// What nobody hears any more.
		}
		close(done)
	}()
	in := bufio.NewReaderSize(conn, 64<<10)
	for {
		args, err := readCommand(in)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				queue <- pending{text: "-ERR Protocol error\r\n"}
			}
			break
		}
		queue <- f.take(args)
	}
	close(queue)
	<-done
}

func (f *front) take(args [][]byte) pending {
	refuse := func(err error) pending { return pending{text: "-ERR " + err.Error() + "\r\n"} }
	switch name := strings.ToUpper(string(args[0])); {
	case name == "SET" && len(args) == 3:
		session := f.sessions[groupOf(args[1])]
		state, err := f.host.Propose(session, encodeSet(args[1], args[2]), callWithin)
		if err != nil {
			return refuse(err)
		}
		return pending{state: state}
	case name == "GET" && len(args) == 2:
		state, err := f.host.ReadIndex(groupOf(args[1])+1, callWithin)
		if err != nil {
			return refuse(err)
		}
		return pending{state: state, key: args[1]}
	case name == "PING" && len(args) == 1:
		return pending{text: "+PONG\r\n"}
	case name == "PING" && len(args) == 2:
		return pending{text: fmt.Sprintf("$%d\r\n%s\r\n", len(args[1]), args[1])}
	default:
		return pending{text: "-ERR only PING, GET key, and SET key value are known here\r\n"}
	}
}

func (f *front) answer(conn net.Conn, queue <-chan pending) {
	out := bufio.NewWriterSize(conn, 64<<10)
	for next := range queue {
		if next.state == nil {
			out.WriteString(next.text)
		} else {
			f.await(out, next)
		}
		if len(queue) == 0 {
			if out.Flush() != nil {
				return
			}
		}
	}
	out.Flush()
}

func (f *front) await(out *bufio.Writer, next pending) {
	select {
	case result := <-next.state.ResultC():
		if !result.Completed() {
			out.WriteString("-UNKNOWN the group did not complete it\r\n")
			return
		}
	default:
		// Replies that are ready go out before this one is waited for.
		out.Flush()
		result := <-next.state.ResultC()
		if !result.Completed() {
			out.WriteString("-UNKNOWN the group did not complete it\r\n")
			return
		}
	}
	defer next.state.Release()
	if next.key == nil {
		out.WriteString("+OK\r\n")
		return
	}
	found, err := f.host.ReadLocalNode(next.state, next.key)
	value, ok := found.([]byte)
	switch {
	case err != nil:
		fmt.Fprintf(out, "-ERR %s\r\n", err)
	case !ok:
		out.WriteString("$-1\r\n")
	default:
		fmt.Fprintf(out, "$%d\r\n", len(value))
		out.Write(value)
		out.WriteString("\r\n")
	}
}

func readCommand(in *bufio.Reader) ([][]byte, error) {
	count, err := readHeader(in, '*', argsMax)
	if err != nil {
		return nil, err
	}
	if count == 0 {
		return nil, errors.New("an empty command")
	}
	args := make([][]byte, count)
	for at := range args {
		length, err := readHeader(in, '$', bulkBytesMax)
		if err != nil {
			return nil, err
		}
		arg := make([]byte, length+2)
		if _, err := io.ReadFull(in, arg); err != nil {
			return nil, err
		}
		args[at] = arg[:length]
	}
	return args, nil
}

func readHeader(in *bufio.Reader, mark byte, most int) (int, error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if len(line) < 4 || line[0] != mark {
		return 0, errors.New("not the protocol")
	}
	number, err := strconv.Atoi(string(line[1 : len(line)-2]))
	if err != nil || number < 0 || number > most {
		return 0, errors.New("not a length")
	}
	return number, nil
}
