package main

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"html/template"
	"log"
	"net/http"
	"os"
	"strconv"
	"time"
)

//go:embed page.html
var pageSource string

var page = template.Must(template.New("page").Parse(pageSource))

// maxBody bounds a request's body in bytes: a note with every byte escaped.
const maxBody = 8 * maxNote

// app answers HTTP.
type app struct {
	state      *state
	log        *log.Logger
	booted     time.Time
	tenant     string
	greeting   string
	failHealth bool
}

// info is what GET /api/info answers.
type info struct {
	Version  string    `json:"version"`
	Tenant   string    `json:"tenant"`
	Greeting string    `json:"greeting"`
	Hostname string    `json:"hostname"`
	BootedAt time.Time `json:"booted_at"`
	Visits   int64     `json:"visits"`
}

func (a *app) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.showPage)
	mux.HandleFunc("GET /healthz", a.health)
	mux.HandleFunc("GET /api/info", a.getInfo)
	mux.HandleFunc("GET /api/notes", a.listNotes)
	mux.HandleFunc("POST /api/notes", a.addNote)
	mux.HandleFunc("DELETE /api/notes/{id}", a.deleteNote)
	return mux
}

func (a *app) info() info {
	host, err := os.Hostname()
	if err != nil {
		a.log.Printf("reading the host name: %v", err)
	}
	return info{Version: version, Tenant: a.tenant, Greeting: a.greeting, Hostname: host, BootedAt: a.booted, Visits: a.state.get().Visits}
}

func (a *app) showPage(w http.ResponseWriter, _ *http.Request) {
	visits, err := a.state.visit()
	if err != nil {
		a.fail(w, err)
		return
	}
	var body bytes.Buffer
	if err := page.Execute(&body, struct {
		info
		Visits int64
		Notes  []note
	}{a.info(), visits, a.state.get().Notes}); err != nil {
		a.fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	a.write(w, body.Bytes())
}

func (a *app) health(w http.ResponseWriter, _ *http.Request) {
	if a.failHealth {
		a.answer(w, http.StatusInternalServerError, map[string]string{"status": "unhealthy, as FAIL_HEALTH asks"})
		return
	}
	a.answer(w, http.StatusOK, map[string]string{"status": "ok"})
}

func (a *app) getInfo(w http.ResponseWriter, _ *http.Request) {
	a.answer(w, http.StatusOK, a.info())
}

func (a *app) listNotes(w http.ResponseWriter, _ *http.Request) {
	a.answer(w, http.StatusOK, a.state.get().Notes)
}

func (a *app) addNote(w http.ResponseWriter, r *http.Request) {
	var given struct {
		Text string `json:"text"`
	}
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(&given); err != nil {
		a.answer(w, http.StatusBadRequest, map[string]string{"error": "send {\"text\": \"…\"}: " + err.Error()})
		return
	}
	n, err := a.state.add(given.Text, time.Now())
	if err != nil {
		a.fail(w, err)
		return
	}
	a.answer(w, http.StatusCreated, n)
}

func (a *app) deleteNote(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		err = errNoNote
	} else {
		err = a.state.remove(id)
	}
	if err != nil {
		a.fail(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (a *app) fail(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, errNoNote):
		status = http.StatusNotFound
	case errors.Is(err, errBadNote):
		status = http.StatusBadRequest
	case errors.Is(err, errFull):
		status = http.StatusConflict
	default:
		a.log.Print(err)
	}
	a.answer(w, status, map[string]string{"error": err.Error()})
}

func (a *app) answer(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		a.log.Printf("encoding an answer: %v", err)
		status, body = http.StatusInternalServerError, []byte("{}")
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	a.write(w, append(body, '\n'))
}

func (a *app) write(w http.ResponseWriter, body []byte) {
	if _, err := w.Write(body); err != nil {
		a.log.Printf("answering: %v", err)
	}
}
