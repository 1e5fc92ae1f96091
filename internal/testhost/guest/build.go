package guest

import (
	"context"
	"errors"
)

func build(ctx context.Context, dir string) error { return errors.New("being written") }
