package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Bounds on what one workspace keeps.
const (
	maxNotes = 1000
	maxNote  = 4096
)

// note is something a user wrote.
type note struct {
	ID        int64     `json:"id"`
	Text      string    `json:"text"`
	CreatedAt time.Time `json:"created_at"`
}

// content is all that a workspace remembers.
type content struct {
	Visits int64 `json:"visits"`
	NextID int64 `json:"next_id"`
	// Notes are oldest first.
	Notes []note `json:"notes"`
}

// state keeps content in a file. What a method has returned without an error
// survives a power cut at any moment.
type state struct {
	path string

	mu  sync.Mutex
	now content
}

var (
	errFull    = fmt.Errorf("there are %d notes already: delete some", maxNotes)
	errNoNote  = errors.New("there is no such note")
	errBadNote = fmt.Errorf("a note has 1 to %d bytes", maxNote)
)

func openState(path string) (*state, error) {
	s := &state{path: path, now: content{NextID: 1, Notes: []note{}}}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, s.write(s.now) // tells at the start if the place can't be written to
	}
	if err != nil {
		return nil, fmt.Errorf("reading the state: %w", err)
	}
	if err := json.Unmarshal(raw, &s.now); err != nil {
		return nil, fmt.Errorf("reading the state in %s: %w", path, err)
	}
	return s, nil
}

// visit counts a visit and returns the new count.
func (s *state) visit() (int64, error) {
	after, err := s.change(func(c *content) error { c.Visits++; return nil })
	return after.Visits, err
}

func (s *state) add(text string, at time.Time) (note, error) {
	if text == "" || len(text) > maxNote {
		return note{}, errBadNote
	}
	var n note
	_, err := s.change(func(c *content) error {
		if len(c.Notes) >= maxNotes {
			return errFull
		}
		n = note{ID: c.NextID, Text: text, CreatedAt: at.UTC()}
		c.NextID++
		c.Notes = append(slices.Clone(c.Notes), n)
		return nil
	})
	return n, err
}

func (s *state) remove(id int64) error {
	_, err := s.change(func(c *content) error {
		i := slices.IndexFunc(c.Notes, func(n note) bool { return n.ID == id })
		if i < 0 {
			return errNoNote
		}
		c.Notes = slices.Delete(slices.Clone(c.Notes), i, i+1)
		return nil
	})
	return err
}

func (s *state) get() content {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// change applies f to a copy, which counts only once it is on the disk.
func (s *state) change(f func(*content) error) (content, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.now
	if err := f(&next); err != nil {
		return s.now, err
	}
	if err := s.write(next); err != nil {
		return s.now, err
	}
	s.now = next
	return next, nil
}

// write replaces the file in one step: a new file, written out, renamed over the
// old one, and the directory written out as well.
func (s *state) write(c content) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing the state: %w", err)
		}
	}()
	raw, err := json.Marshal(c)
	if err != nil {
		return err
	}
	temporary := s.path + ".new"
	f, err := os.OpenFile(temporary, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(temporary, s.path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(s.path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
