// Package archtest holds the tests of the repository's own shape: who may
// import whom, that packages say what they are for, and how large the device's
// programs may grow.
package archtest
