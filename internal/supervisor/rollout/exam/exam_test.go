package exam

import (
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func sample(t testing.TB) []Release {
	t.Helper()
	f, err := os.Open("testdata/sample.jsonl")
	require.NoError(t, err)
	defer f.Close()
	releases, err := ReadCorpus(f)
	require.NoError(t, err)
	return releases
}

// The sample is judged right, touches few, and is back at once.
func TestSample(t *testing.T) {
	t.Parallel()
	results, err := Run(sample(t))
	require.NoError(t, err)
	for i := range results {
		r := &results[i]
		require.False(t, r.Wrong(), "%s", r)
		require.False(t, r.TooMany(), "%s", r)
		require.False(t, r.SlowBack(), "%s", r)
		require.Equal(t, r.Release.Bad(), r.Halted(), "%s", r)
		require.Equal(t, r.Release.Bad(), r.Touched > 0, "%s", r)
	}
	figures := map[string]float64{}
	for _, f := range Score(results) {
		figures[f.Name] = f.Value
	}
	require.InDelta(t, 8, figures["exam.releases"], 0)
	require.InDelta(t, 1, figures["exam.recall"], 0)
	require.InDelta(t, 1, figures["exam.precision"], 0)
	require.Positive(t, figures["exam.touched_max"])
	require.LessOrEqual(t, figures["exam.touched_max"], 3.0)
	require.LessOrEqual(t, figures["exam.touched_max.stratum"], 8.0)
	require.Positive(t, figures["exam.rollback_minutes_max"])
}

func TestSameReleaseSameFate(t *testing.T) {
	t.Parallel()
	for _, r := range sample(t)[:5] {
		var told [2]strings.Builder
		for i := range told {
			_, err := Play(&r, &told[i])
			require.NoError(t, err)
		}
		require.NotEmpty(t, told[0].String())
		require.Equal(t, told[0].String(), told[1].String())
	}
}

// slowToRise is a release half of whose members are not up before the health deadline.
func slowToRise() *Release {
	return &Release{ID: "slow", Installations: 600, Defect: &Defect{Kind: DefectSlow, DelaySeconds: 3600, Share: 0.5}, Spec: &Spec{FirstWave: 100, Slots: 10, HealthDeadline: 1800, MaxFailures: 1}}
}

// What is under way when a rollout is halted does not wait for the rest of half an
// hour, and few slots do not make the way back long.
func TestRollbackIsUrgent(t *testing.T) {
	t.Parallel()
	r, err := Play(slowToRise(), nil)
	require.NoError(t, err)
	require.Equal(t, fleet.RolloutRolledBack, r.State)
	require.Greater(t, r.Touched, 10)
	require.Positive(t, r.Back)
	require.Less(t, r.Back, time.Minute, "%s", &r)
}

// The time in which somebody else holds a member is told apart.
func TestHeldMembersAreToldApart(t *testing.T) {
	t.Parallel()
	release := slowToRise()
	release.Churn = Churn{Busy: 1, Hours: 2}
	r, err := Play(release, nil)
	require.NoError(t, err)
	require.Equal(t, fleet.RolloutRolledBack, r.State)
	require.LessOrEqual(t, r.Back, r.RollingBack)
	require.False(t, r.SlowBack(), "%s", &r)
}

func TestCorpusErrorsNameLineAndField(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		`garbage`:                                    "it is no JSON object: at character 1",
		`{"installations": 20`:                       "the line ends in the middle",
		`[1]`:                                        "give a JSON object, not a JSON array",
		`null`:                                       "installations is 0",
		`{}`:                                         "installations is 0",
		`{"installations": 20} {}`:                   "more than one object",
		`{"installations": "x"}`:                     "installations: give a whole number, not a JSON string",
		`{"installations": 1e400}`:                   "installations: give a whole number",
		`{"installations": 2000000}`:                 "installations is 2000000: give 1 to 1000000",
		`{"installations": 20, "seed": -1}`:          "seed: give a whole number of 0 or more",
		`{"installations": 20, "asleep": 1.5}`:       "asleep is 1.5: give a part from 0 to 1",
		`{"installations": 20, "wat": 1}`:            `there is no field "wat"`,
		`{"installations": 20, "sizes": {"a":1}`:     "the line ends in the middle",
		`{"installations": 20, "sizes": {"a": 1}}`:   `sizes: "a" is not a number of MiB`,
		`{"installations": 20, "sizes": {"64": -1}}`: "sizes.64 is -1",
		`{"installations": 20, "labels": {"tier": {"a": 0}}}`:                          "labels.tier: the weights add up to 0",
		`{"installations": 20, "labels": {"memory": {"a": 1}}}`:                        `a label can't be called "memory"`,
		`{"installations": 20, "defect": {"kind": 3}}`:                                 "defect.kind: give a string, not a JSON number",
		`{"installations": 20, "defect": {}}`:                                          `defect.kind is ""`,
		`{"installations": 20, "defect": {"kind": "crash", "where": "x"}}`:             `defect.where: "x" is not KEY=VALUE`,
		`{"installations": 20, "defect": {"kind": "crash", "where": "memory=64"}}`:     "defect.where: no installation has memory=64",
		`{"installations": 20, "defect": {"kind": "crash", "share": 2}}`:               "defect.share is 2",
		`{"installations": 20, "observer": {"every_seconds": 0.001}}`:                  "observer.every_seconds is 0.001: give 1 or more",
		`{"installations": 20, "observer": {"outages": [{"answer": "maybe"}]}}`:        `observer.outages.0.answer is "maybe"`,
		`{"installations": 20, "observer": {"outages": {"answer": "bad"}}}`:            "observer.outages: give a list, not a JSON object",
		`{"installations": 20, "latency": {"call_p50_ms": -1}}`:                        "latency.call_p50_ms is -1",
		`{"installations": 20, "spec": {"slots": -1}}`:                                 "spec.slots: ",
		`{"installations": 20, "spec": {"rings": [{"name": "a"}, {"name": "b"}]}}`:     "spec.rings.0: ",
		`{"installations": 20, "spec": {"rings": [{"name": "a", "percent": "half"}]}}`: "spec.rings.percent: give a number, not a JSON string",
		`{"installations": 20, "spec": {"slots": 3, "slots_percent": 5}}`:              "spec.slots_percent: ",
	} {
		_, err := ReadCorpus(strings.NewReader("# a comment\n\n" + line + "\n"))
		require.ErrorContains(t, err, "line 3: ", line)
		require.ErrorContains(t, err, want, line)
	}
	_, err := ReadCorpus(strings.NewReader("{\"id\": \"a\", \"installations\": 1}\n{\"id\": \"a\", \"installations\": 1}"))
	require.EqualError(t, err, "line 2: the id a is that of line 1 already")
}

// Whatever is accepted can be played: numbers drawn from the ends of what is allowed.
func TestWhatIsAcceptedCanBePlayed(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	part := func() float64 { return []float64{0, 0, 0.01, 0.5, 1}[rng.IntN(5)] }
	amount := func() float64 { return []float64{0, 0, 1e-9, 1, 20, 1e9}[rng.IntN(6)] }
	for range 30 {
		r := Release{ID: "r", Seed: rng.Uint64(), Installations: 1 + rng.IntN(30), Asleep: part(),
			Background: Background{Rate: part(), HorizonHours: amount(), Operation: amount(), Spell: amount(), Chronic: amount(), SpellMinutes: amount(), SpellAgain: part(), RestartCures: part()},
			Observer:   Observer{EverySeconds: 600, Wrong: part(), Unknown: part(), Outages: []Outage{{AtMinutes: amount(), Minutes: amount(), Answer: answerBad, Share: part()}}},
			Latency:    Latency{CallP50: amount(), CallP99: amount(), BootP50: amount(), BootP99: amount(), NewBoot: amount()},
			Churn:      Churn{Busy: part(), Gone: part(), Wakes: part(), Hours: amount(), Unverifiable: part()},
			Defect:     &Defect{Kind: []DefectKind{DefectCrash, DefectSlow, DefectLate}[rng.IntN(3)], Share: part(), Chance: part(), DelaySeconds: amount(), Jitter: part()}}
		require.NoError(t, r.check())
		_, err := Play(&r, nil)
		require.NoError(t, err)
	}
}
