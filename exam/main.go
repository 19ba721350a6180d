package main

import (
	"flag"
	"fmt"
	"os"
	"strings"

	"dormouse/internal/supervisor/rollout/exam"
)

type options struct {
	corpus, write, half, only string
	verbose, trace            bool
	generate                  exam.GenerateOptions
}

func main() {
	var o options
	flag.StringVar(&o.corpus, "corpus", "", "file with a corpus (default: one is made)")
	flag.StringVar(&o.write, "write", "", "write the corpus that would be made to this file, and do no more")
	flag.StringVar(&o.half, "half", "report", "which half of the corpus made: report, tune or all")
	flag.StringVar(&o.only, "only", "", "only releases whose class begins so")
	flag.BoolVar(&o.verbose, "v", false, "tell what was judged wrong, on standard error")
	flag.BoolVar(&o.trace, "trace", false, "tell what was decided, on standard error, one release after another")
	flag.Uint64Var(&o.generate.Seed, "seed", 1, "seed of the corpus made")
	flag.IntVar(&o.generate.Releases, "releases", 1200, "releases of the corpus made")
	flag.IntVar(&o.generate.Installations, "installations", 2000, "installations of each release made")
	flag.Float64Var(&o.generate.Background, "background", 0.01, "part of the installations that fail for other reasons")
	flag.Float64Var(&o.generate.Delays, "delays", 1, "times that defects show later than in the standard corpus")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "exam:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	releases, err := o.releases()
	if err != nil {
		return err
	}
	if o.write != "" {
		return write(o.write, releases)
	}
	results, err := o.play(releases)
	if err != nil {
		return err
	}
	for i := range results {
		if r := &results[i]; o.verbose && (r.Wrong() || r.TooMany() || r.SlowBack()) {
			fmt.Fprintln(os.Stderr, r)
		}
	}
	for _, figure := range exam.Score(results) {
		fmt.Println(figure)
	}
	return nil
}

func (o options) play(releases []exam.Release) ([]exam.Result, error) {
	if !o.trace {
		return exam.Run(releases)
	}
	results := make([]exam.Result, len(releases))
	for i := range releases {
		fmt.Fprintf(os.Stderr, "== %s\n", releases[i].ID)
		var err error
		if results[i], err = exam.Play(&releases[i], os.Stderr); err != nil {
			return nil, err
		}
	}
	return results, nil
}

// releases returns what is to be played, or written.
func (o options) releases() ([]exam.Release, error) {
	var all []exam.Release
	if o.corpus == "" {
		all = exam.Generate(o.generate)
	} else {
		f, err := os.Open(o.corpus)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if all, err = exam.ReadCorpus(f); err != nil {
			return nil, fmt.Errorf("%s: %w", o.corpus, err)
		}
	}
	var chosen []exam.Release
	for i, r := range all {
		if !strings.HasPrefix(r.Class, o.only) {
			continue
		}
		switch half := exam.HalfOf(i); {
		case o.corpus != "", o.write != "", o.half == "all", o.half == half:
			chosen = append(chosen, r)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("there is no release to play: -half is report, tune or all, and -only begins a class's name")
	}
	return chosen, nil
}

func write(path string, releases []exam.Release) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := exam.WriteCorpus(f, releases); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
