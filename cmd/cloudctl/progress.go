package main

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"dormouse/client"
)

// progress shows the steps of one operation as they pass, on standard error:
// a line for each step that is done, and on a terminal a live line below them
// for the one under way. It shows nothing where a program reads standard error.
type progress struct {
	a *app
	// mu guards what follows: a ticker redraws the live line.
	mu sync.Mutex
	op client.Operation
	// done is how many of op.Steps have been told.
	done int
	// told is the last line told about the step under way, to tell it once.
	told string
	// lost is why the server does not answer now; empty while it does.
	lost string
	live bool
	quit chan struct{}
	over chan struct{}
}

const redrawEvery = 500 * time.Millisecond

// startProgress begins to show. stop ends it.
func (a *app) startProgress() *progress {
	p := &progress{a: a, quit: make(chan struct{}), over: make(chan struct{})}
	a.live = p
	go func() {
		defer close(p.over)
		if !a.stderrTTY {
			return
		}
		ticker := time.NewTicker(redrawEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				p.mu.Lock()
				p.draw()
				p.mu.Unlock()
			case <-p.quit:
				return
			}
		}
	}()
	return p
}

// stop ends the live line.
func (p *progress) stop() {
	close(p.quit)
	<-p.over
	p.clear()
	p.a.live = nil
}

// clear takes the live line away.
func (p *progress) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
}

func (p *progress) erase() {
	if p.live {
		_, _ = fmt.Fprint(p.a.stderr, "\r\x1b[K")
		p.live = false
	}
}

// seen shows what has changed.
func (p *progress) seen(op client.Operation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.op, p.lost = op, ""
	for ; p.done < len(op.Steps); p.done++ {
		step := op.Steps[p.done]
		text := fmt.Sprintf("%s: step %d of %d, %s: done in %s", describe(op), step.Number, max(op.StepsTotal, step.Number),
			step.Name, span(step.FinishedAt.Sub(step.StartedAt)))
		if step.Attempts > 1 {
			text += fmt.Sprintf(" (attempt %d)", step.Attempts)
		}
		p.line(text)
	}
	switch {
	case op.State == "succeeded":
		text := describe(op) + ": done"
		if !op.FinishedAt.IsZero() {
			text += " in " + span(op.FinishedAt.Sub(op.CreatedAt))
		}
		p.line(text)
	case op.Finished():
		// The error that follows says it.
	case p.a.stderrTTY:
		p.draw()
	default:
		p.once(describe(op) + ": " + position(op))
	}
}

// retrying shows that the server does not answer.
func (p *progress) retrying(r client.Retry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost = lostServer(r)
	if p.a.stderrTTY {
		p.draw()
	} else {
		p.once(p.lost)
	}
}

// lostServer says why a request is repeated.
func lostServer(r client.Retry) string {
	if client.KindOf(r.Err) != "" {
		return "the server can't answer now; trying again"
	}
	return "the server does not answer; trying again"
}

// once tells a line unless it was the last one told.
func (p *progress) once(text string) {
	if text != p.told {
		p.told = text
		p.line(text)
	}
}

// line writes a line that stays.
func (p *progress) line(text string) {
	p.erase()
	p.a.note("%s", text)
}

// draw writes the live line, cut to the terminal's width so that it stays one line.
func (p *progress) draw() {
	if p.op.Finished() || p.op.ID == "" && p.lost == "" {
		return
	}
	text := p.lost
	if text == "" {
		text = describe(p.op) + ": " + position(p.op)
		if !p.op.StepSince.IsZero() {
			text += ", since " + p.a.age(p.op.StepSince)
		}
	}
	p.live = true
	_, _ = fmt.Fprint(p.a.stderr, "\r\x1b[K"+cut(text, p.a.width()-1))
}

// position says which step an operation is at and what it waits for.
func position(op client.Operation) string {
	var parts []string
	switch {
	case op.State == "queued" && op.Step == "":
		parts = append(parts, "queued")
	case op.Step != "":
		text := fmt.Sprintf("step %d of %d, %s", op.StepNumber, op.StepsTotal, op.Step)
		if op.State == "queued" {
			text = "queued, " + text
		}
		parts = append(parts, text)
	default:
		parts = append(parts, op.State)
	}
	if op.WaitReason != "" {
		parts = append(parts, op.WaitReason+because("", op.WaitDetail))
	}
	if op.Attempt > 0 {
		text := fmt.Sprintf("%d failed", op.Attempt)
		if op.Attempt == 1 {
			text = "1 failed try"
		} else {
			text += " tries"
		}
		parts = append(parts, text+because(op.FailReason, op.Error))
	}
	return strings.Join(parts, ", ")
}
