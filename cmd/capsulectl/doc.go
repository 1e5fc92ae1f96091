// Command capsulectl is the operator's command line of capsuled.
//
// Results go to standard output: a table or block for people, one id alone where a script wants one, or with --json the
// reply of the daemon. Progress, questions and errors go to standard error. The exit status tells the class of an error
// (exit.go). Everything the daemon says is escaped before it is printed: names and texts in it are other people's.
//
// It holds no state, decides nothing that the daemon decides, and links no C.
package main
