// Package sealed encrypts the secrets that lie in the database, so that a dump
// or a backup of it tells nobody what they are.
//
// A value is sealed by XChaCha20-Poly1305 under a random nonce (24 bytes, long
// enough to be drawn at random for ever) with a key of 32 bytes that lies in a file beside
// the data, never in the database. The context (what the value is for, such as the
// installation and the secret's name) is authenticated with it: a sealed value that is
// copied to another place does not open there.
//
// A sealed value reads
//
//	v1.KEYID.BASE64URL(nonce || ciphertext || tag)
//
// where KEYID is the first 8 bytes of a SHA-256 over the key, in hex. It tells
// which of several keys is needed, so that keys can be rotated: new values get the current
// key, old ones open with the key that they name as long as its file is there.
//
// Files, mode 0600: "secret.key", or the one that was named, is the current key,
// "secret-KEYID.key" beside it are former ones. Losing them loses the secrets;
// processes that share a database need the same ones. A key file that others may read, or
// that has not 32 bytes, is refused. One that is missing is made anew by Create only, and
// values of a lost key then fail to open with an error that names it: whoever calls it
// looks first whether any are there (cmd/provisioner does, and records which key is
// the database's as a check value, so that no process begins with another one).
//
// It must not log or return a key, and no error holds what was sealed.
package sealed
