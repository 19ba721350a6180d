package store

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"dormouse/internal/fleet"
)

// jsonText is a jsonb column scanned as text; "" where null.
type jsonText struct{ b []byte }

// Scan implements sql.Scanner.
func (j *jsonText) Scan(v any) error {
	switch v := v.(type) {
	case nil:
		j.b = nil
	case []byte:
		j.b = append([]byte(nil), v...)
	case string:
		j.b = []byte(v)
	default:
		return fmt.Errorf("scanning JSON: unexpected type %T", v)
	}
	return nil
}

// into decodes the column, if it is neither null nor empty.
func (j jsonText) into(dest any) error {
	if len(j.b) <= 2 {
		return nil
	}
	if err := json.Unmarshal(j.b, dest); err != nil {
		return fmt.Errorf("%w: %w", errMalformed, err)
	}
	return nil
}

// encode returns v as JSON text for a jsonb parameter.
func encode(v any) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("encoding a JSON column: %w", err)
	}
	return string(b), nil
}

// maybeText is a column of text; "" where null.
type maybeText string

// Scan implements sql.Scanner.
func (m *maybeText) Scan(v any) error {
	switch v := v.(type) {
	case nil:
		*m = ""
	case string:
		*m = maybeText(v)
	default:
		return fmt.Errorf("scanning text: unexpected type %T", v)
	}
	return nil
}

func timeOf(t sql.NullTime) time.Time {
	if !t.Valid {
		return time.Time{}
	}
	return t.Time.UTC()
}

// operationColumns are read by operationRow; the table's alias is o.
const operationColumns = `o.id AS op_id, o.kind AS op_kind, o.resource_type AS op_resource_type, o.resource_id AS op_resource_id,
	o.resource_name AS op_resource_name, o.owner AS op_owner, o.class AS op_class, o.state AS op_state, o.step AS op_step,
	o.step_number AS op_step_number, o.steps_total AS op_steps_total, o.step_since AS op_step_since, o.steps AS op_steps,
	o.attempt AS op_attempt, o.executor AS op_executor, o.worker AS op_worker, o.epoch AS op_epoch, o.due_at AS op_due_at,
	o.step_deadline_at AS op_step_deadline_at, o.generation AS op_generation, o.wait_reason AS op_wait_reason,
	o.wait_detail AS op_wait_detail, o.error_kind AS op_error_kind, o.fail_reason AS op_fail_reason, o.error AS op_error,
	o.observed AS op_observed, o.revision AS op_revision, o.created_at AS op_created_at, o.started_at AS op_started_at,
	o.finished_at AS op_finished_at`

// operationRow is an operation that may be absent (all null).
type operationRow struct {
	ID             sql.NullString `db:"op_id"`
	Kind           sql.NullString `db:"op_kind"`
	ResourceType   sql.NullString `db:"op_resource_type"`
	ResourceID     sql.NullString `db:"op_resource_id"`
	ResourceName   sql.NullString `db:"op_resource_name"`
	Owner          sql.NullString `db:"op_owner"`
	Class          sql.NullInt64  `db:"op_class"`
	State          sql.NullString `db:"op_state"`
	Step           sql.NullString `db:"op_step"`
	StepNumber     sql.NullInt64  `db:"op_step_number"`
	StepsTotal     sql.NullInt64  `db:"op_steps_total"`
	StepSince      sql.NullTime   `db:"op_step_since"`
	Steps          jsonText       `db:"op_steps"`
	Attempt        sql.NullInt64  `db:"op_attempt"`
	Executor       sql.NullString `db:"op_executor"`
	Worker         sql.NullString `db:"op_worker"`
	Epoch          sql.NullInt64  `db:"op_epoch"`
	DueAt          sql.NullTime   `db:"op_due_at"`
	StepDeadlineAt sql.NullTime   `db:"op_step_deadline_at"`
	Generation     sql.NullInt64  `db:"op_generation"`
	WaitReason     sql.NullString `db:"op_wait_reason"`
	WaitDetail     sql.NullString `db:"op_wait_detail"`
	ErrorKind      sql.NullString `db:"op_error_kind"`
	FailReason     sql.NullString `db:"op_fail_reason"`
	Error          sql.NullString `db:"op_error"`
	Observed       jsonText       `db:"op_observed"`
	Revision       sql.NullInt64  `db:"op_revision"`
	CreatedAt      sql.NullTime   `db:"op_created_at"`
	StartedAt      sql.NullTime   `db:"op_started_at"`
	FinishedAt     sql.NullTime   `db:"op_finished_at"`
}

// operation returns nil where the row is absent; where a part of it can't be
// read, the rest is there.
func (r operationRow) operation() (*fleet.Operation, error) {
	if !r.ID.Valid {
		return nil, nil //nolint:nilnil // absent is an answer here, as in a LEFT JOIN
	}
	o := &fleet.Operation{
		ID: fleet.OperationID(r.ID.String), Kind: fleet.OperationKind(r.Kind.String),
		ResourceType: fleet.ResourceType(r.ResourceType.String), ResourceID: r.ResourceID.String,
		ResourceName: r.ResourceName.String, Owner: r.Owner.String, Class: fleet.Class(r.Class.Int64),
		State: fleet.OperationState(r.State.String), Step: r.Step.String,
		StepNumber: int(r.StepNumber.Int64), StepsTotal: int(r.StepsTotal.Int64), StepSince: timeOf(r.StepSince),
		Attempt: int(r.Attempt.Int64), Executor: r.Executor.String, Worker: fleet.WorkerID(r.Worker.String),
		Epoch: fleet.Epoch(r.Epoch.Int64), DueAt: timeOf(r.DueAt), StepDeadlineAt: timeOf(r.StepDeadlineAt),
		Generation: r.Generation.Int64, WaitReason: fleet.Reason(r.WaitReason.String), WaitDetail: r.WaitDetail.String,
		ErrorKind: fleet.ErrorKind(r.ErrorKind.String), FailReason: fleet.Reason(r.FailReason.String), Error: r.Error.String,
		Revision: r.Revision.Int64, CreatedAt: timeOf(r.CreatedAt), StartedAt: timeOf(r.StartedAt), FinishedAt: timeOf(r.FinishedAt),
	}
	var err error
	o.Steps, err = decodeArray(r.Steps.b, setStep)
	return o, errors.Join(err, r.Observed.into(&o.Observed))
}

// nullTime is null for the zero time.
func nullTime(t time.Time) sql.NullTime { return sql.NullTime{Time: t, Valid: !t.IsZero()} }
