// Package model holds the model test of the whole protocol: a device and a cloud
// of two replicas, both of them the real code, on a line that does what it likes,
// in schedules that are drawn at random. After every step the promises of the
// protocol are compared with what is on the disks of both sides, and with every
// message that was ever sent.
package model
