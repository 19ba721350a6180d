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
// Files, mode 0600: "secret.key" is the current key, "secret-KEYID.key" are
// former ones. Losing them loses the secrets; processes that share a database need
// the same ones. A key file that others may read, or that has not 32 bytes, is
// refused; one that is missing is made anew, and values of the lost one then
// fail to open with an error that names it.
//
// It must not log or return a key, and no error holds what was sealed.
package sealed
