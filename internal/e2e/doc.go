// Package e2e holds the tests of the whole system: the real programs, real
// sockets, real signals, real files.
package e2e
