package synnefo_test

import (
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/capsuled/capsuled/api/synnefo"
	"github.com/capsuled/capsuled/daemon"
)

// TestChangesSince stands still at one instant and asks for what changed around it. In a bubble time moves only when a
// test sleeps.
func TestChangesSince(t *testing.T) {
	each(t, func(t *testing.T, e edition) {
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(1500 * time.Millisecond)
			now := time.Now()
			at := func(ago time.Duration) func(*daemon.Image) {
				return func(m *daemon.Image) { m.UpdatedAt = now.Add(-ago) }
			}
			f := newFake(image("old", "", at(2*time.Hour)), image("recent", "", at(10*time.Minute)),
				image("gone", "", func(m *daemon.Image) { m.State, m.UpdatedAt = daemon.ImageDeleted, now.Add(-5*time.Minute) }))
			h := newHost(t, f)
			utc := func(ago time.Duration, layout string) string { return now.Add(-ago).UTC().Format(layout) }
			const clock, precise = "2006-01-02T15:04:05", "2006-01-02T15:04:05.999999999"
			east := func(ago time.Duration) string {
				return now.Add(-ago).In(time.FixedZone("", 7200)).Format(clock)
			}
			const same, changed, refused = 304, 200, 400
			for _, row := range []struct {
				name, value string
				want        int
				images      string
			}{
				{"nothing", utc(time.Minute, clock) + "Z", same, ""},
				{"a tombstone", utc(6*time.Minute, clock) + "Z", changed, "gone"},
				{"at the very instant", utc(10*time.Minute, precise) + "Z", changed, "gone,recent"},
				{"a millisecond later", utc(10*time.Minute-time.Millisecond, precise) + "Z", changed, "gone"},
				{"as it is shown", utc(10*time.Minute, clock) + "+00:00", changed, "gone,recent"},
				{"UTC", utc(6*time.Minute, clock) + "UTC", changed, "gone"},
				{"UTC after a space", utc(6*time.Minute, clock) + " UTC", changed, "gone"},
				{"no seconds", utc(6*time.Minute, "2006-01-02T15:04") + "Z", changed, "gone"},
				{"comma", utc(6*time.Minute, clock) + ",25Z", changed, "gone"},
				{"space for T", utc(6*time.Minute, "2006-01-02 15:04:05") + "Z", changed, "gone"},
				{"east", east(6*time.Minute) + "+02:00", changed, "gone"},
				{"east, plus sent as it is", east(6*time.Minute) + " 02:00", changed, "gone"},
				{"east, no colon", east(6*time.Minute) + "+0200", changed, "gone"},
				{"west", utc(6*time.Minute+8*time.Hour, clock) + "-08:00", changed, "gone"},
				{"now", utc(0, precise) + "Z", same, ""},
				{"future", utc(-time.Nanosecond, precise) + "Z", refused, ""},
				{"future, by its zone", utc(0, clock) + "-01:00", refused, ""},
				{"an hour", utc(time.Hour, precise) + "Z", changed, "gone,recent"},
				{"more than an hour", utc(time.Hour+time.Nanosecond, precise) + "Z", refused, ""},
				{"naive", utc(6*time.Minute, clock), refused, ""},
				{"date", utc(0, "2006-01-02") + "Z", refused, ""},
				{"month 13", "2026-13-01T00:00:00Z", refused, ""},
				{"30 February", "2026-02-30T00:00:00Z", refused, ""},
				{"hour 25", "2026-02-01T25:00:00Z", refused, ""},
				{"zone of 25 hours", utc(0, clock) + "+25:00", refused, ""},
				{"zone of 61 minutes", utc(0, clock) + "+00:61", refused, ""},
				{"space", " ", refused, ""},
				{"rubbish after", utc(6*time.Minute, clock) + "Zx", refused, ""},
				{"seconds since 1970", "946684800", refused, ""},
				{"other digits", "２０２６-03-01T00:00:00Z", refused, ""},
			} {
				for _, path := range []string{"", "/detail"} {
					a := h.ask("GET", e.path(path)+"?changes-since="+url.QueryEscape(row.value), "")
					switch {
					case row.want == refused:
						a.isFault(400, "badRequest")
					case row.want == same:
						a.is(304, "")
					case a.Status != 200 || ids(t, e, a) != row.images:
						t.Errorf("%s, %s: %d %s, want %s", row.name, a.asked, a.Status, a.Body, row.images)
					}
					hasHeaders(t, a)
				}
			}

			shape := func(query, images string) {
				t.Helper()
				if a := h.ask("GET", e.images+query, ""); a.Status != 200 || ids(t, e, a) != images {
					t.Errorf("%s: %d %s", a.asked, a.Status, a.Body)
				}
			}
			shape("?changes-since=", "old,recent")
			shape("?changes-since="+utc(6*time.Minute, clock)+"Z&changes-since=", "old,recent") // the last counts
			shape("?name=a;b&limit=1;&changes-since="+utc(6*time.Minute, clock)+"Z", "gone")
			shape("?name=a;b", "old,recent")
			shape("?changes-since="+east(6*time.Minute)+"+02:00", "gone") // a bare plus
			h.ask("GET", e.images+".xml?changes-since="+utc(6*time.Minute, clock)+"Z", "").isXML(200,
				replacer.Replace(`<images BOTHNS><image id="gone" name=""/></images>`))
			h.ask("GET", e.images+".xml?changes-since="+utc(0, clock)+"Z", "").is(304, "")
		})
	})
}

// TestPollLimit wants the operator's limit.
func TestPollLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Hour)
		h := &host{t: t, families: synnefo.New(synnefo.Options{Daemon: newFake(), PollLimit: time.Minute}), caller: owner}
		for ago, want := range map[time.Duration]int{time.Minute: 304, time.Minute + time.Second: 400} {
			a := h.ask("GET", s2.images+"?changes-since="+time.Now().Add(-ago).UTC().Format(time.RFC3339), "")
			if a.Status != want {
				t.Errorf("%v ago: %d, want %d", ago, a.Status, want)
			}
		}
	})
}

// ids are those of a list, in its order.
func ids(t *testing.T, e edition, a answer) string {
	t.Helper()
	list := decoded(t, string(a.Body)).(map[string]any)["images"]
	if e == s1 {
		list = list.(map[string]any)["values"]
	}
	var out string
	for _, m := range list.([]any) {
		if out != "" {
			out += ","
		}
		out += m.(map[string]any)["id"].(string)
	}
	return out
}
