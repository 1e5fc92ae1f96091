package daemon

import "context"

// VerifyAll proves every capsule in secure mode now, as the timer does.
func (d *Daemon) VerifyAll(ctx context.Context) error { return d.verifyAll(ctx) }

// StepNames are the steps of a kind of operation, in order.
func StepNames(kind string) (names []string) {
	for _, s := range capsuleSteps()[kind] {
		names = append(names, s.name)
	}
	return names
}

// Classify is what an error of a leaf means to a caller.
func Classify(err error) *Error { return classify(err) }
