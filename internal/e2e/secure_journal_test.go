package e2e

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	_ "github.com/mattn/go-sqlite3" // reads the daemon's records beside it

	"github.com/capsuled/capsuled/api/wire"
)

// steps are the names of the steps of every operation that was carried out on the capsule, by kind, as the daemon's own
// journal has them: a step that is new is one that the tests meet.
func (v *vault) steps() map[string][]string {
	v.t.Helper()
	names := map[string][]string{}
	for _, op := range v.operations() {
		if names[op.Kind] == nil {
			for _, s := range op.Steps {
				names[op.Kind] = append(names[op.Kind], s.Name)
			}
		}
	}
	return names
}

// operations on the capsule, newest first.
func (v *vault) operations() []wire.Operation {
	v.t.Helper()
	status, body, err := v.Get(v.t.Context(), "/v1/operations?target="+v.id)
	var list wire.OperationList
	if err != nil || json.Unmarshal([]byte(body), &list) != nil {
		v.t.Fatalf("operations: %d, %v, %s", status, err, body)
	}
	return list.Operations
}

// newest is the newest operation of a kind.
func (v *vault) newest(kind string) wire.Operation {
	v.t.Helper()
	all := v.operations()
	i := slices.IndexFunc(all, func(o wire.Operation) bool { return o.Kind == kind })
	if i < 0 {
		v.t.Fatalf("no operation %s", kind)
	}
	return all[i]
}

// at waits until an operation of a kind that is under way is at a step, and calls do then. It holds the lock of the
// records (https://www.sqlite.org/lang_transaction.html, IMMEDIATE) at every look and while do runs: the daemon cannot
// journal a later step, so that whatever do does happens in that step, or after it and before the next. It is false
// when the operation went past the step between two looks.
func (v *vault) at(kind, step string, order []string, do func()) (met bool) {
	v.t.Helper()
	v.journal(500*time.Microsecond, func(ctx context.Context, conn *sql.Conn, began bool) (there, over bool, err error) {
		now, failed, err := underWay(ctx, conn, v.id, kind)
		if err != nil || failed {
			return false, began && failed, err
		}
		if met = now == step; met {
			do()
		}
		return true, met || slices.Index(order, now) > slices.Index(order, step), nil
	})
	return met
}

// undoing waits until an operation of a kind that failed is being taken back, and it is the moment, and calls do then. As
// in at the daemon writes nothing meanwhile. It is false when the operation ended before.
func (v *vault) undoing(kind string, moment func() bool, do func()) (met bool) {
	v.t.Helper()
	v.journal(20*time.Millisecond, func(ctx context.Context, conn *sql.Conn, _ bool) (there, over bool, err error) {
		_, failed, err := underWay(ctx, conn, v.id, kind)
		if met = err == nil && failed && moment(); met {
			do()
		}
		return err == nil, met, err
	})
	return met
}

// journal looks at the daemon's journal, with its lock held, until a look says that it is over, or what it looked for was
// there and is no more (sql.ErrNoRows). In the pause between two looks the daemon may go on.
func (v *vault) journal(pause time.Duration, look func(ctx context.Context, conn *sql.Conn, began bool) (there, over bool, err error)) {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), patience)
	defer cancel()
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(v.dir, "capsuled.db")+"?_busy_timeout=10000")
	if err != nil {
		v.t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	conn, err := db.Conn(ctx)
	if err != nil {
		v.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	for began, over := false, false; !over; {
		err := locked(ctx, conn, func() (err error) {
			var there bool
			if there, over, err = look(ctx, conn, began); errors.Is(err, sql.ErrNoRows) {
				over = began
				return nil
			}
			began = began || there
			return err
		})
		if err != nil {
			v.t.Fatalf("the daemon's journal: %v", err)
		}
		if !over {
			time.Sleep(pause)
		}
	}
}

// locked runs do while nobody else can write.
func locked(ctx context.Context, conn *sql.Conn, do func() error) error {
	if _, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	err := do()
	_, undone := conn.ExecContext(ctx, "ROLLBACK")
	return errors.Join(err, undone)
}

// underWay is the step that an operation under way is at, and whether it failed there and is being taken back.
func underWay(ctx context.Context, conn *sql.Conn, target, kind string) (step string, failed bool, err error) {
	err = conn.QueryRowContext(ctx, "SELECT step, code <> '' FROM operations WHERE target = ? AND kind = ? AND ended IS NULL", target, kind).Scan(&step, &failed)
	return step, failed, err
}

// blow is something that happens in the middle of a switch.
type blow struct {
	name   string
	strike func(*vault)
	heal   func(*vault) // makes the host whole again; the capsule is for the daemon to see to
	late   bool         // at the end of the step rather than at its begin
}

// bear lets a blow fall in every step of both ways between the modes, wants the capsule to be in a state that is true
// and from which it can be brought back, and brings it back. It returns what became of each.
func (v *vault) bear(steps map[string][]string, b blow) {
	v.t.Helper()
	todo := map[string][]string{"enter": slices.Clone(steps["enter"]), "leave": slices.Clone(steps["leave"])}
	var became []string
	for most := 4 * (len(todo["enter"]) + len(todo["leave"])); len(todo["enter"])+len(todo["leave"]) > 0; most-- {
		if most == 0 {
			v.t.Fatalf("%s: never met at these steps: %v", b.name, todo)
		}
		kind, to := "enter", "secure"
		if v.status(v.id).Mode == "SECURE" {
			kind, to = "leave", "maintenance"
		}
		if len(todo[kind]) == 0 {
			v.switchTo(to)
			continue
		}
		step := todo[kind][0]
		todo[kind] = todo[kind][1:]
		if !v.suffer(kind, to, step, steps[kind], b) {
			todo[kind] = append(todo[kind], step)
			v.settle()
			continue
		}
		b.heal(v)
		outcome := fmt.Sprintf("%s at %s/%s: %s", b.name, kind, step, v.truth(kind))
		became = append(became, outcome)
		if v.t.Failed() {
			v.t.Fatal(outcome)
		}
		v.recovered()
	}
	v.t.Logf("%d blows:\n%s", len(became), strings.Join(became, "\n"))
}

// suffer begins a switch and strikes at a step.
func (v *vault) suffer(kind, to, step string, order []string, b blow) (met bool) {
	v.t.Helper()
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		_, _ = v.Ctl(v.t.Context(), "switch", v.id, to) // the daemon may die before it answers
	}()
	met = v.at(kind, step, order, func() {
		if b.late {
			time.Sleep(200 * time.Millisecond) // the instant of the blow; the next step cannot begin
		}
		b.strike(v)
	})
	<-asked
	return met
}

// truth waits until the daemon has done what it can, and wants its records to say what is.
func (v *vault) truth(kind string) string {
	v.t.Helper()
	var st wire.Status
	v.until("the capsule to settle", func() error {
		v.settle()
		if st = v.status(v.id); strings.HasSuffix(st.State, "_PENDING") || st.Observed == "unknown" {
			return fmt.Errorf("it is %s, seen as %s", st.State, st.Observed)
		}
		runs := qemu(v.t, v.id) != 0
		if (st.State == "RUNNING") != runs && !(st.State == "ERROR" && st.Mode != "NOT_DEFINED" && st.Observed == "paused") {
			return fmt.Errorf("it is %s in mode %s, and that there is a process is %t", st.State, st.Mode, runs)
		}
		return nil
	})
	op := v.newest(kind)
	cause := ""
	if op.State == "failed" {
		if cause = op.Cause; cause == "" {
			v.t.Errorf("operation %s failed and does not say why", op.ID)
		}
		cause = fmt.Sprintf(" (%s: %s)", op.Step, cause)
	}
	if st.State == "ERROR" && st.Cause == nil {
		v.t.Error("it is in ERROR and does not say why")
	}
	return fmt.Sprintf("%s%s; %s in mode %s", op.State, cause, st.State, st.Mode)
}

// recovered brings the capsule back with what an operator has, wants it to be proved and nothing to be left, and
// launches it again where it was off.
func (v *vault) recovered() {
	v.t.Helper()
	for range 3 {
		st := v.status(v.id)
		switch {
		case st.State == "RUNNING":
			v.until("a proof", func() error { _, err := v.Ctl(v.t.Context(), "prove", v.id); return err })
			if st.Mode == "MAINTENANCE" {
				v.forgotten()
			}
			return
		case st.State == "ERROR" && st.Mode != "NOT_DEFINED":
			if _, err := v.Ctl(v.t.Context(), "resume", "--wait", v.id); err != nil {
				v.t.Logf("resume: %v", err)
				v.ctl("stop", "--wait", v.id)
			}
		case st.State == "ERROR":
			v.ctl("stop", "--wait", v.id)
		case st.State == "SHUTDOWN":
			v.forgotten()
			v.ctl("launch", "--wait", v.id)
		default:
			v.t.Fatalf("it is %s in mode %s", st.State, st.Mode)
		}
	}
	v.t.Fatalf("it cannot be brought back: %+v", v.status(v.id))
}
