package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"sync"

	sm "github.com/lni/dragonboat/v3/statemachine"
)

// machine is a group's state machine: a map in memory, as Dragonboat's own benchmarks have it.
type machine struct {
	mu     sync.RWMutex
	values map[string][]byte
}

func newMachine(uint64, uint64) sm.IConcurrentStateMachine {
	return &machine{values: map[string][]byte{}}
}

// encodeSet makes a log entry's data of a write.
func encodeSet(key, value []byte) []byte {
	data := make([]byte, 0, 4+len(key)+len(value))
	data = binary.LittleEndian.AppendUint32(data, uint32(len(key)))
	data = append(data, key...)
	return append(data, value...)
}

func (m *machine) Update(entries []sm.Entry) ([]sm.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for at := range entries {
		data := entries[at].Cmd
		if len(data) < 4 {
			return nil, errors.New("an entry is too short")
		}
		length := int(binary.LittleEndian.Uint32(data))
		if len(data) < 4+length {
			return nil, errors.New("an entry is too short")
		}
		// The data belongs to the log, so what stays is a copy.
		m.values[string(data[4:4+length])] = append([]byte(nil), data[4+length:]...)
		entries[at].Result = sm.Result{Value: 1}
	}
	return entries, nil
}

func (m *machine) Lookup(query interface{}) (interface{}, error) {
	key, ok := query.([]byte)
	if !ok {
		return nil, errors.New("a query is a key")
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	value, found := m.values[string(key)]
	if !found {
		return nil, nil
	}
	return value, nil
}

func (m *machine) PrepareSnapshot() (interface{}, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return maps.Clone(m.values), nil
}

func (m *machine) SaveSnapshot(
	prepared interface{}, to io.Writer, _ sm.ISnapshotFileCollection, _ <-chan struct{},
) error {
	values, ok := prepared.(map[string][]byte)
	if !ok {
		return errors.New("a snapshot was prepared as something else")
	}
	out := bufio.NewWriter(to)
	var head [8]byte
	for key, value := range values {
		binary.LittleEndian.PutUint32(head[:4], uint32(len(key)))
		binary.LittleEndian.PutUint32(head[4:], uint32(len(value)))
		out.Write(head[:])
		out.WriteString(key)
		out.Write(value)
	}
	return out.Flush()
}

func (m *machine) RecoverFromSnapshot(
	from io.Reader, _ []sm.SnapshotFile, _ <-chan struct{},
) error {
	in := bufio.NewReader(from)
	values := map[string][]byte{}
	var head [8]byte
	for {
		_, err := io.ReadFull(in, head[:])
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		key := make([]byte, binary.LittleEndian.Uint32(head[:4]))
		value := make([]byte, binary.LittleEndian.Uint32(head[4:]))
		if _, err := io.ReadFull(in, key); err != nil {
			return err
		}
		if _, err := io.ReadFull(in, value); err != nil {
			return err
		}
		values[string(key)] = value
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.values = values
	return nil
}

func (m *machine) Close() error { return nil }
