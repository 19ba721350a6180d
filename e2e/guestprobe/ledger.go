package main

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"log"
	"net/http"
	"os"
	"strings"
	"sync"
)

// ledgerPath is on the volume.
const ledgerPath = "/data/ledger"

// maxID bounds an ID, in bytes.
const maxID = 64

// ledger writes IDs to the volume, one a line, and counts them in memory: whoever
// is answered 201 has theirs on the disk.
type ledger struct {
	// run names this run of the program; memory that was lost has another one.
	run     string
	entries chan entry

	mu    sync.Mutex
	count int64
}

type entry struct {
	id      string
	written chan error
}

// tally is what POST /ledger/ID and GET /ledger answer.
type tally struct {
	Run   string `json:"run"`
	Count int64  `json:"count"`
}

func newLedger() *ledger {
	l := &ledger{run: rand.Text(), entries: make(chan entry, 1024)}
	go l.write()
	return l
}

func (l *ledger) handle(mux *http.ServeMux) {
	mux.HandleFunc("POST /ledger/{id}", l.add)
	mux.HandleFunc("GET /ledger", func(w http.ResponseWriter, _ *http.Request) { l.answer(w, http.StatusOK, l.tally(0)) })
	mux.HandleFunc("GET /ledger/ids", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, ledgerPath) })
}

func (l *ledger) add(w http.ResponseWriter, r *http.Request) {
	e := entry{id: r.PathValue("id"), written: make(chan error, 1)}
	if len(e.id) > maxID || strings.ContainsAny(e.id, "\r\n") {
		http.Error(w, "an ID is one line of at most 64 bytes", http.StatusBadRequest)
		return
	}
	l.entries <- e
	if err := <-e.written; err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	l.answer(w, http.StatusCreated, l.tally(1))
}

func (l *ledger) tally(more int64) tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count += more
	return tally{Run: l.run, Count: l.count}
}

func (l *ledger) answer(w http.ResponseWriter, status int, t tally) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(t); err != nil {
		log.Print(err)
	}
}

// write appends what has come meanwhile, and syncs once for all of it.
func (l *ledger) write() {
	var file *os.File
	for first := range l.entries {
		batch := []entry{first}
		for more := true; more; {
			select {
			case e := <-l.entries:
				batch = append(batch, e)
			default:
				more = false
			}
		}
		var lines strings.Builder
		for _, e := range batch {
			lines.WriteString(e.id + "\n")
		}
		var err error
		if file == nil {
			file, err = os.OpenFile(ledgerPath, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		}
		if err == nil {
			_, err = file.WriteString(lines.String())
			err = errors.Join(err, file.Sync())
		}
		for _, e := range batch {
			e.written <- err
		}
	}
}
