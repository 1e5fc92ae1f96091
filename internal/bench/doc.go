// Command bench measures what capsuled promises to be quick or small at: clones, createvm, launchvm, the way into secure
// mode and back, the firewall, the verifier, images, memory and restarts. `make bench` calls it, docs/benchmarks.md keeps its
// tables and says what they mean.
//
// Everything is measured on a hermetic host (internal/testhost) with the built programs, real libvirt and a real
// guest. What is compared is measured in turn in one run, so that a busy machine slows both sides; figures of
// different runs are not to be compared. Nothing is asserted about times: the program fails only when something does
// not work.
//
// Tables go to standard output as Markdown, progress to standard error.
package main
