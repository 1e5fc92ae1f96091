package glance

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/capsuled/capsuled/api/dialect"
	"github.com/capsuled/capsuled/daemon"
)

// current is the minor version whose names are shown; clients that know less still find theirs.
const current = 9

// versions is the same document at every address that clients look for one at.
func (f *Family) versions(c *call) (dialect.Reply, error) {
	type link struct {
		Rel  string `json:"rel"`
		Href string `json:"href"`
	}
	type version struct {
		ID     string `json:"id"`
		Status string `json:"status"`
		Links  []link `json:"links"`
	}
	var all []version
	for minor := current; minor >= 0; minor-- {
		status := "SUPPORTED"
		if minor == current {
			status = "CURRENT"
		}
		all = append(all, version{fmt.Sprintf("v2.%d", minor), status, []link{{"self", c.Base + prefix + "/v2/"}}})
	}
	return reply(http.StatusOK, map[string]any{"versions": all})
}

// schemas are the JSON schemas that glanceclient makes its models from, by name.
//
//go:embed schemas.json
var schemas []byte

func (f *Family) schema(c *call) (dialect.Reply, error) { return schemaOf(c.args[0]) }
func (f *Family) metadefSchema(c *call) (dialect.Reply, error) {
	return schemaOf("metadefs/" + c.args[0])
}

func schemaOf(name string) (dialect.Reply, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(schemas, &all); err != nil {
		return dialect.Reply{}, err
	}
	if all[name] == nil {
		return dialect.Reply{}, dialect.Refuse(http.StatusNotFound, daemon.NotFound, "no schema %.80q", name)
	}
	return reply(http.StatusOK, all[name])
}
