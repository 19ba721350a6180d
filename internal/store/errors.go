package store

import (
	"database/sql/driver"
	"errors"
	"io"
)

// isBadConn tells whether the connection broke under a statement.
func isBadConn(err error) bool {
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}
