// Package clienttest is a small stateful stand-in for capsuled, for tests of the client and of the command line.
//
// It keeps capsules, images and operations, refuses what the daemon refuses (unknown fields and parameters, wrong
// content types, wrong states), and moves an operation on by one step each time somebody asks for it, so that tests
// need no clock. It runs nothing. All methods may be called at any time by several goroutines.
package clienttest
