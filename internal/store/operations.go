package store

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"dormouse/internal/fleet"
)

const operationSQL = `SELECT ` + operationColumns + ` FROM operation o WHERE o.id = $1`

// Operation returns one operation.
func (s *Store) Operation(ctx context.Context, id fleet.OperationID) (fleet.Operation, error) {
	var op fleet.Operation
	err := s.read(func(tx *Tx) (err error) {
		op, err = tx.operation(ctx, id)
		return err
	})
	return op, err
}

func (t *Tx) operation(ctx context.Context, id fleet.OperationID) (fleet.Operation, error) {
	var r operationRow
	err := t.get(ctx, "reading an operation", &r, operationSQL, id)
	if fleet.KindOf(err) == fleet.KindNotFound {
		return fleet.Operation{}, fleet.Errorf(fleet.KindNotFound, "there is no operation %q", id)
	}
	if err != nil {
		return fleet.Operation{}, err
	}
	op, err := r.operation()
	err = shown(&op.Error, err)
	return *op, err
}

func operationStates() []fleet.OperationState {
	return []fleet.OperationState{fleet.OperationQueued, fleet.OperationActive, fleet.OperationSucceeded, fleet.OperationFailed, fleet.OperationCancelled}
}

// ListOperations returns at most q.Limit operations, newest first. A resource
// is named by its ID or by its name.
func (s *Store) ListOperations(ctx context.Context, q fleet.OperationQuery) ([]fleet.Operation, error) {
	query, args, err := operationsQuery(q)
	if err != nil {
		return nil, err
	}
	ops := []fleet.Operation{}
	err = s.read(func(tx *Tx) error {
		var rows []operationRow
		if err := tx.list(ctx, "listing operations", &rows, query, args...); err != nil {
			return err
		}
		for _, r := range rows {
			op, err := r.operation()
			if err = shown(&op.Error, err); err != nil {
				return err
			}
			ops = append(ops, *op)
		}
		return nil
	})
	return ops, err
}

func operationsQuery(q fleet.OperationQuery) (string, []any, error) {
	var where []string
	var args []any
	add := func(condition string, arg any) {
		args = append(args, arg)
		where = append(where, strings.ReplaceAll(condition, "$$", fmt.Sprintf("$%d", len(args))))
	}
	if q.Before != "" {
		add("o.id < $$", q.Before)
	}
	if q.Resource != "" && fleet.ValidID(q.Resource) {
		add("o.resource_id = $$", q.Resource)
	} else if q.Resource != "" {
		add(`o.resource_id IN (SELECT id FROM installation WHERE name = $$ AND deleted_at IS NULL
			UNION ALL SELECT id FROM cluster WHERE name = $$ AND deleted_at IS NULL)`, q.Resource)
	}
	if q.State != "" {
		// As a literal, so that the planner can use the index of the states that are few.
		if !slices.Contains(operationStates(), q.State) {
			return "", nil, fleet.InvalidField("state", "there is no state %q of an operation: ask for one of %v", q.State, operationStates())
		}
		where = append(where, "o.state = '"+string(q.State)+"'")
	}
	query := "SELECT " + operationColumns + " FROM operation o"
	if len(where) > 0 {
		query += " WHERE " + strings.Join(where, " AND ")
	}
	args = append(args, q.Limit)
	query += fmt.Sprintf(" ORDER BY o.id DESC LIMIT $%d", len(args))
	return query, args, nil
}
